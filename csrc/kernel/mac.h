// The product of the matrix kernels: a float32 multiply-add, or a pair of bfloat16 products added in float32. A pair takes
// the place of a float, so that the same tiles serve both; `depth` counts pairs.
#ifdef BF16
INLINE vf mac(vf acc, vf x, vf w) { return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)x, (__m512bh)w); }
#ifdef AMX
INLINE int64_t depth(int64_t k) { return (k + 31) / 32 * 16; }  // whole matrix tiles
#else
INLINE int64_t depth(int64_t k) { return (k + 1) / 2; }
#endif

// n <= 32 floats in a row become pairs; zero past n.
INLINE vf pairs_of_row(const float* p, int n) {
  const vf lo = n >= VL ? load(p) : load_part(p, n), hi = n >= 2 * VL ? load(p + VL) : n > VL ? load_part(p + VL, n - VL) : vf{};
  return (vf)_mm512_cvtne2ps_pbh((__m512)hi, (__m512)lo);
}
// Lane by lane: the pair (lo, hi).
typedef unsigned short vh __attribute__((vector_size(VL * 2)));
INLINE vf pairs_of_lanes(vf lo, vf hi) {
  const vi a = __builtin_convertvector((vh)_mm512_cvtneps_pbh((__m512)lo), vi);
  const vi b = __builtin_convertvector((vh)_mm512_cvtneps_pbh((__m512)hi), vi);
  return from_bits(a | (b << 16));
}
INLINE int64_t operand_depth(int64_t k) { return depth(k); }
INLINE int64_t operand_steps(int64_t k) { return depth(k); }
#elif defined(WEIGHTS16)
INLINE int64_t depth(int64_t k) { return (k + 1) / 2; }  // two bfloat16 a lane
#elif defined(WEIGHTS8)
INLINE int64_t depth(int64_t k) { return (k + 3) / 4 + 1; }  // four int8 a lane; at the end the column's unit
INLINE int64_t operand_steps(int64_t k) { return (k + 3) / 4; }
INLINE int64_t operand_depth(int64_t k) { return 2 * operand_steps(k) + 1; }  // four int16 a step; at the end the row's unit
#else
INLINE vf mac(vf acc, vf x, vf w) { return acc + x * w; }
INLINE int64_t depth(int64_t k) { return k; }
#endif

// Floats of the packed weights (a lane), and of a row of rounded operands, over all segments.
INLINE int64_t gemm_depth(const Gemm* g) {
  int64_t n = 0;
  for (int s = 0; s < g->nseg; s++) n += depth(g->seg[s].k);
  return n;
}
#ifdef ROUNDED
INLINE int64_t gemm_operands(const Gemm* g) {
  int64_t n = 0;
  for (int s = 0; s < g->nseg; s++) n += operand_depth(g->seg[s].k);
  return n;
}
#endif
