// The tiles of gemm.h for weights of two bytes (bfloat16) or one (int8, a unit for each column): one row reads its weights
// once, so the fewer bytes the faster. Weights become float32 or int32 in registers.
typedef int vi_mem __attribute__((vector_size(VL * 4), aligned(4), may_alias));
INLINE vi load_bits(const float* p) { return *(const vi_mem*)p; }

#ifdef WEIGHTS16
// Operands stay float32 and are added in the order of k: the bits of the float32 kernels on the same weights.
template <int MR, int NV>
INLINE void unit_step(vf (&acc)[MR][NV], const float* a, int64_t rs, const float* b) {
#pragma GCC unroll 16
  for (int v = 0; v < NV; v++) {
    const vi w = load_bits(b + v * VL);
    const vf lo = from_bits(w << 16), hi = from_bits(w & (int)0xffff0000);
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
      acc[i][v] = acc[i][v] + splat(a[i * rs]) * lo;
      acc[i][v] = acc[i][v] + splat(a[i * rs + 1]) * hi;
    }
  }
}

// One segment of S passes, `stride` floats apart; returns the weights behind it.
template <int S, int MR, int NV>
INLINE const float* segment(vf (&acc)[S][MR][NV], const ARows& seg, int64_t row, const float* b, int64_t stride) {
  const int64_t rs = seg.rs, k = seg.k;
  const float* a = seg.p + row * rs;
  int64_t j = 0;
  for (; j + 2 <= k; j += 2, a += 2, b += NV * VL)
#pragma GCC unroll 16
    for (int s = 0; s < S; s++) unit_step<MR, NV>(acc[s], a, rs, b + s * stride);
  if (j < k) {  // what stands after the last number must not be read
    for (int s = 0; s < S; s++)
      for (int v = 0; v < NV; v++)
        for (int i = 0; i < MR; i++)
          acc[s][i][v] = acc[s][i][v] + splat(a[i * rs]) * from_bits(load_bits(b + s * stride + v * VL) << 16);
    b += NV * VL;
  }
  return b;
}

INLINE unsigned bfloat16_of(float x) {  // to nearest, ties to even
  unsigned u;
  __builtin_memcpy(&u, &x, 4);
  if (x != x) return (u >> 16) | 0x40;
  return (u + 0x7fff + ((u >> 16) & 1)) >> 16;
}

// One lane of a column from its numbers src[j * down]; null: zeros.
static void pack_lane(const float* src, int64_t down, int k, float* out, int step, int lane) {
  for (int j = 0; j < k; j += 2, out += step) {
    const unsigned lo = src ? bfloat16_of(src[j * down]) : 0;
    const unsigned hi = src && j + 1 < k ? bfloat16_of(src[(j + 1) * down]) : 0;
    const unsigned both = lo | hi << 16;
    __builtin_memcpy(out + lane, &both, 4);
  }
}
#else
// Operands are rounded to at most 16 bits by a unit of their own, so few that a sum of products cannot overflow: sums are
// exact, and the same on every machine. A vector of weights holds numbers k, k + 1 of all lanes, then k + 2, k + 3.
typedef short vs __attribute__((vector_size(VL * 4)));
typedef signed char vc __attribute__((vector_size(VL * 2)));
typedef signed char vc_mem __attribute__((vector_size(VL * 2), aligned(1), may_alias));

// Products of neighbours, added to the sum of their lane.
INLINE vi dot2(vi sum, vs w, vs x) {
#if defined(__AVX512VNNI__) && VL == 16
  return (vi)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)w, (__m512i)x);
#elif defined(__AVX2__) && VL == 8
  return sum + (vi)_mm256_madd_epi16((__m256i)w, (__m256i)x);
#else
  const vi a = (vi)w, b = (vi)x;
  return sum + ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
#endif
}
INLINE vs widen(const signed char* p) {
#if defined(__AVX512VNNI__) && VL == 16
  return (vs)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__AVX2__) && VL == 8
  return (vs)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p));
#else
  return __builtin_convertvector((vc)*(const vc_mem*)p, vs);
#endif
}
INLINE vs splat_pair(const float* p) {
  int both;
  __builtin_memcpy(&both, p, 4);
  return (vs)(vi{} + both);
}

template <int MR, int NV>
INLINE void unit_step(vi (&acc)[MR][NV], const float* a, int64_t rs, const float* b) {
#pragma GCC unroll 16
  for (int v = 0; v < NV; v++) {
    const signed char* p = (const signed char*)(b + v * VL);
    const vs lo = widen(p), hi = widen(p + 2 * VL);
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
      acc[i][v] = dot2(acc[i][v], lo, splat_pair(a + i * rs));
      acc[i][v] = dot2(acc[i][v], hi, splat_pair(a + i * rs + 1));
    }
  }
}

// One segment of S passes, `stride` floats apart; returns the weights behind it.
template <int S, int MR, int NV>
INLINE const float* segment(vf (&acc)[S][MR][NV], const ARows& seg, int64_t row, const float* b, int64_t stride) {
  const int64_t rs = seg.rs, k = seg.k;
  const float* a = seg.p + row * rs;
  vi sum[S][MR][NV];
#pragma GCC unroll 16
  for (int s = 0; s < S; s++)
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 16
      for (int v = 0; v < NV; v++) sum[s][i][v] = vi{};
  for (int64_t j = 0; j < k; j++, a += 2, b += NV * VL)
#pragma GCC unroll 16
    for (int s = 0; s < S; s++) unit_step<MR, NV>(sum[s], a, rs, b + s * stride);
#pragma GCC unroll 16
  for (int s = 0; s < S; s++)
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 16
      for (int v = 0; v < NV; v++)
        acc[s][i][v] = acc[s][i][v] + __builtin_convertvector(sum[s][i][v], vf) * (load(b + s * stride + v * VL) * splat(a[i * rs]));
  return b + NV * VL;
}

static void pack_lane(const float* src, int64_t down, int k, float* out, int step, int lane) {
  float largest = 0;
  for (int j = 0; src && j < k; j++) {
    const float x = __builtin_fabsf(src[j * down]);
    if (x > largest || x != x) largest = x;  // NaN stays
  }
  const float unit = largest / 127, inverse = unit > 0 && unit < __builtin_inff() ? 1 / unit : 0;
  for (int j = 0; j < k; j += 4, out += step)
    for (int m = 0; m < 4; m++) {
      const float x = src && j + m < k ? __builtin_rintf(src[(j + m) * down] * inverse) : 0;
      signed char* at = (signed char*)out + (m / 2) * 2 * VL + 2 * lane + m % 2;
      *at = x >= -127 && x <= 127 ? (signed char)x : 0;
    }
  out[lane] = unit;
}

// The row as int16 times the unit behind them; zeros up to a multiple of four.
static void round_row(const float* src, int k, float* out) {
  vf most = {};
  int j = 0;
  for (; j + VL <= k; j += VL) most = v_max(most, v_abs(load(src + j)));
  if (j < k) most = v_max(most, v_abs(load_part(src + j, k - j)));
  float largest = 0;
  for (int i = 0; i < VL; i++)
    if (most[i] > largest || most[i] != most[i]) largest = most[i];
  const int bound = (int)(2147483647ll / (127ll * k)), range = bound < 32767 ? bound : 32767;
  const float unit = largest / range, inverse = largest > 0 && largest < __builtin_inff() ? range / largest : 0;
  typedef short half __attribute__((vector_size(VL * 2)));
  typedef short half_mem __attribute__((vector_size(VL * 2), aligned(2), may_alias));
  short* at = (short*)out;
  const vf magic = vf{} + 12582912.0f;
  for (j = 0; j < k; j += VL) {
    const vf x = j + VL <= k ? load(src + j) : load_part(src + j, k - j);
    const vi q = bits(x * inverse + magic) - bits(magic);
    const half h = __builtin_convertvector(q, half);
    if (j + VL <= k) *(half_mem*)(at + j) = h;
    else __builtin_memcpy(at + j, &h, (size_t)(k - j + 3) / 4 * 8);
  }
  out[2 * ((k + 3) / 4)] = unit;
}
#endif

template <int S, int MR, int NV>
INLINE void passes(const ARows* seg, int nseg, int64_t row, const float* b, int64_t stride, float* const* out) {
  vf acc[S][MR][NV];
#pragma GCC unroll 16
  for (int s = 0; s < S; s++)
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 16
      for (int v = 0; v < NV; v++) acc[s][i][v] = vf{};
  for (int g = 0; g < nseg; g++) b = segment<S, MR, NV>(acc, seg[g], row, b, stride);
#pragma GCC unroll 16
  for (int s = 0; s < S; s++)
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 16
      for (int v = 0; v < NV; v++) store(out[s * NV + v] + (row + i) * VL, acc[s][i][v]);
}

template <int MR, int NV>
static __attribute__((noinline)) void tile(const ARows* seg, int nseg, int64_t row, const float* b, float* const* out, Fetch*) {
  passes<1, MR, NV>(seg, nseg, row, b, 0, out);
}

// One row against S passes of NV columns at once, so that enough independent sums are in flight.
template <int NV, int S>
static __attribute__((noinline)) void line(const ARows* seg, int nseg, const float* b, int64_t stride, float* const* out) {
  passes<S, 1, NV>(seg, nseg, 0, b, stride, out);
}
