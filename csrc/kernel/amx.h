// The tiles of gemm.h and tn.h on the matrix unit: 16 rows x 16 pairs times 16 pairs x 16 lanes. Always whole tiles: rows
// past the last one are computed from whatever follows and overwritten or never read.
INLINE void amx_begin() {
  struct {
    unsigned char palette, start, reserved[14];
    unsigned short bytes[16];
    unsigned char rows[16];
  } __attribute__((aligned(64))) config;
  __builtin_memset(&config, 0, sizeof config);
  config.palette = 1;
  for (int i = 0; i < 8; i++) config.bytes[i] = 64, config.rows[i] = 16;
  _tile_loadconfig(&config);
}
INLINE void amx_end() { _tile_release(); }

// The tile loads do not tell the compiler that they read memory.
#define MEMORY_IS_READ asm volatile("" ::: "memory")

template <int NV>
static __attribute__((noinline)) void amx_tile(const ARows* seg, int nseg, int64_t row, const float* b, float* const* out,
                                               Fetch* fetch) {
  const float* const* at = fetch->at;
  MEMORY_IS_READ;
  _tile_zero(0);
  if (NV > 1) _tile_zero(1);
  if (NV > 2) _tile_zero(2);
  if (NV > 3) _tile_zero(3);
  const int64_t each = fetch->each * 4;
  for (int s = 0; s < nseg; s++) {
    const float* a = seg[s].p + row * seg[s].rs;
    for (int64_t j = 0; j < seg[s].k; j += 16, b += 16 * NV * VL) {
      if (at < fetch->end)
        for (int64_t f = 0; f < each && at < fetch->end; f++, at++)
          __builtin_prefetch(*at), __builtin_prefetch(*at + fetch->pair);
      _tile_loadd(4, a + j, seg[s].rs * 4);
      _tile_loadd(5, b, NV * VL * 4);
      _tile_dpbf16ps(0, 4, 5);
      if (NV > 1) {
        _tile_loadd(6, b + VL, NV * VL * 4);
        _tile_dpbf16ps(1, 4, 6);
      }
      if (NV > 2) {
        _tile_loadd(5, b + 2 * VL, NV * VL * 4);
        _tile_dpbf16ps(2, 4, 5);
      }
      if (NV > 3) {
        _tile_loadd(6, b + 3 * VL, NV * VL * 4);
        _tile_dpbf16ps(3, 4, 6);
      }
    }
  }
  fetch->at = at;
  _tile_stored(0, out[0] + row * VL, VL * 4);
  if (NV > 1) _tile_stored(1, out[1] + row * VL, VL * 4);
  if (NV > 2) _tile_stored(2, out[2] + row * VL, VL * 4);
  if (NV > 3) _tile_stored(3, out[3] + row * VL, VL * 4);
  MEMORY_IS_READ;
}

// x[16][16] of pairs at a stride of 16 becomes out[16][16] at a stride of `stride`.
INLINE void amx_transpose(const float* x, float* out, int64_t stride) {
  const vi lane = {0, 16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240};
  for (int i = 0; i < 16; i++) store(out + i * stride, (vf)_mm512_mask_i32gather_ps((__m512)vf{}, 0xffff, (__m512i)lane, x + i, 4));
}

// tile[16][32] = sum over pairs of rows; g is [16][stride], a is [pairs][32].
INLINE void amx_tn(const float* g, int64_t stride, const float* a, int64_t pairs, float* tile) {
  MEMORY_IS_READ;
  _tile_zero(0);
  _tile_zero(1);
  for (int64_t i = 0; i < pairs; i += 16, a += 16 * 2 * VL) {
    _tile_loadd(4, g + i, stride * 4);
    _tile_loadd(5, a, 2 * VL * 4);
    _tile_dpbf16ps(0, 4, 5);
    _tile_loadd(6, a + VL, 2 * VL * 4);
    _tile_dpbf16ps(1, 4, 6);
  }
  _tile_stored(0, tile, 2 * VL * 4);
  _tile_stored(1, tile + VL, 2 * VL * 4);
  MEMORY_IS_READ;
}
