// Vectors of VL floats by compiler extensions. Included inside a namespace of its own for each instruction set.
typedef float vf __attribute__((vector_size(VL * 4)));
typedef unsigned vu __attribute__((vector_size(VL * 4)));
typedef int vi __attribute__((vector_size(VL * 4)));
typedef float vf_mem __attribute__((vector_size(VL * 4), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE vf load(const float* p) { return *(const vf_mem*)p; }
INLINE void store(float* p, vf x) { *(vf_mem*)p = x; }
INLINE vf splat(float x) { return x - vf{}; }  // x - 0 keeps the sign of -0
INLINE vf sel(vi m, vf x, vf y) { return m ? x : y; }
INLINE vi bits(vf x) { return (vi)x; }
INLINE vf from_bits(vi x) { return (vf)x; }

INLINE vf load_part(const float* p, int n) {
  vf x = {};
  __builtin_memcpy(&x, p, (size_t)n * 4);
  return x;
}
INLINE void store_part(float* p, vf x, int n) { __builtin_memcpy(p, &x, (size_t)n * 4); }
