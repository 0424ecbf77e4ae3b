// Tiles of  plane[row, unit] = sum_k a[row, k] * w[k, unit].
// One accumulator an element, k in order, segments in order: the value of a row does not depend on the tile's shape.
struct ARows {  // one segment of the left operand, at the first row of the tile
  const float* p;
  int64_t rs;
  int64_t k;
};

// Packed weights of a group of panels: passes of at most NV_MAX columns (a column = one gate of one panel, VL lanes);
// a pass holds [k][columns][VL], segments one after another.
struct Passes {
  int columns, count;
};
INLINE Passes passes_of(int panels, int gates) {
  int columns = panels * gates;
  return {columns, (columns + NV_MAX - 1) / NV_MAX};
}
INLINE int pass_start(Passes p, int i) { return p.columns * i / p.count; }

// Lines the pointwise program will need, fetched a few at a time while the products run: all at once would stall them.
struct Fetch {
  const float* const* at;
  const float* const* end;
  int each;  // entries every 4 steps of k
  int pair;  // floats to the second line of an entry
};

#if defined(WEIGHTS16) || defined(WEIGHTS8)
#include "compact.h"
#else
template <int MR, int NV>
INLINE void tile_step(vf (&acc)[MR][NV], const float* a, int64_t rs, const float* b) {
  vf w[NV];
#pragma GCC unroll 16
  for (int v = 0; v < NV; v++) w[v] = load(b + v * VL);
#pragma GCC unroll 16
  for (int i = 0; i < MR; i++) {
    vf x = splat(a[i * rs]);
#pragma GCC unroll 16
    for (int v = 0; v < NV; v++) acc[i][v] = mac(acc[i][v], x, w[v]);
  }
}

template <int MR, int NV>
static __attribute__((noinline)) void tile(const ARows* seg, int nseg, int64_t row, const float* b, float* const* out,
                                           Fetch* fetch) {
  vf acc[MR][NV];
#pragma GCC unroll 16
  for (int i = 0; i < MR; i++)
#pragma GCC unroll 16
    for (int v = 0; v < NV; v++) acc[i][v] = vf{};
  const float* const* at = fetch->at;
  const float* const* end = fetch->end;
  const int64_t each = fetch->each, pair = fetch->pair;
  for (int s = 0; s < nseg; s++) {
    const int64_t rs = seg[s].rs, k = seg[s].k;
    const float* a = seg[s].p + row * rs;
    int64_t j = 0;
    for (; j + 4 <= k; j += 4, a += 4, b += 4 * NV * VL) {
      if (at < end)
        for (int64_t f = 0; f < each; f++, at++) __builtin_prefetch(*at), __builtin_prefetch(*at + pair);
#pragma GCC unroll 4
      for (int u = 0; u < 4; u++) tile_step<MR, NV>(acc, a + u, rs, b + u * NV * VL);
    }
    for (; j < k; j++, a++, b += NV * VL) tile_step<MR, NV>(acc, a, rs, b);
  }
  fetch->at = at;
#pragma GCC unroll 16
  for (int i = 0; i < MR; i++)
#pragma GCC unroll 16
    for (int v = 0; v < NV; v++) store(out[v] + (row + i) * VL, acc[i][v]);
}

// One row against S passes of NV columns at once, so that enough independent chains are in flight.
template <int NV, int S>
static __attribute__((noinline)) void line(const ARows* seg, int nseg, const float* b, int64_t stride, float* const* out) {
  vf acc[S][NV];
#pragma GCC unroll 16
  for (int s = 0; s < S; s++)
#pragma GCC unroll 16
    for (int v = 0; v < NV; v++) acc[s][v] = vf{};
  for (int g = 0; g < nseg; g++) {
    const float* a = seg[g].p;
    for (int64_t j = 0, k = seg[g].k; j < k; j++, b += NV * VL) {
      vf x = splat(a[j]);
#pragma GCC unroll 16
      for (int s = 0; s < S; s++)
#pragma GCC unroll 16
        for (int v = 0; v < NV; v++) acc[s][v] = mac(acc[s][v], x, load(b + s * stride + v * VL));
    }
  }
#pragma GCC unroll 16
  for (int s = 0; s < S; s++)
#pragma GCC unroll 16
    for (int v = 0; v < NV; v++) store(out[s * NV + v], acc[s][v]);
}

#endif

#ifdef AMX
#include "amx.h"
#endif

constexpr int tile_rows(int nv) { return nv == NV_MAX ? MR_MAX_WIDE : MR_MAX; }

template <int NV>
static void rows_pass(const ARows* seg, int nseg, int nr, const float* b, float* const* out, Fetch* fetch) {
#ifdef AMX
  const int parts = (nr + 15) / 16;
  for (int i = 0; i < parts; i++) amx_tile<NV>(seg, nseg, nr * i / parts, b, out, fetch);
#else
  constexpr int MR = tile_rows(NV);
  constexpr int UNIT = NV < NV_MAX ? TILE_UNIT : 1;
  const int parts = (nr + MR - 1) / MR, units = (nr + UNIT - 1) / UNIT;
  for (int i = 0; i < parts; i++) {  // balanced: never 8 + 8 + 1
    const int r0 = units * i / parts * UNIT, end = units * (i + 1) / parts * UNIT, m = (end < nr ? end : nr) - r0;
    switch (m) {
      case 1: tile<1, NV>(seg, nseg, r0, b, out, fetch); break;
      case 2: tile<2, NV>(seg, nseg, r0, b, out, fetch); break;
      case 3: tile<3, NV>(seg, nseg, r0, b, out, fetch); break;
      case 4: tile<4, NV>(seg, nseg, r0, b, out, fetch); break;
      case 5: tile<(MR < 5 ? MR : 5), NV>(seg, nseg, r0, b, out, fetch); break;
      case 6: tile<(MR < 6 ? MR : 6), NV>(seg, nseg, r0, b, out, fetch); break;
      case 7: tile<(MR < 7 ? MR : 7), NV>(seg, nseg, r0, b, out, fetch); break;
      case 8: tile<(MR < 8 ? MR : 8), NV>(seg, nseg, r0, b, out, fetch); break;
    }
  }
#endif
}

template <int NV>
static void line_passes(const ARows* seg, int nseg, int64_t k, int passes, const float* b, float* const* out) {
  constexpr int S = NV >= 4 ? 3 : NV == 3 ? 4 : NV == 2 ? 5 : 8;
  const int64_t stride = k * NV * VL;
  for (; passes >= S; passes -= S, b += S * stride, out += S * NV) line<NV, S>(seg, nseg, b, stride, out);
  for (; passes >= 2; passes -= 2, b += 2 * stride, out += 2 * NV) line<NV, 2>(seg, nseg, b, stride, out);
  if (passes) line<NV, 1>(seg, nseg, b, stride, out);
}

static void run_lines(const ARows* seg, const Gemm* g, int nv, int passes, const float* b, float* const* out) {
  switch (nv) {
    case 1: line_passes<1>(seg, g->nseg, gemm_depth(g), passes, b, out); break;
    case 2: line_passes<2>(seg, g->nseg, gemm_depth(g), passes, b, out); break;
    case 3: line_passes<3>(seg, g->nseg, gemm_depth(g), passes, b, out); break;
#if NV_MAX >= 4
    case 4: line_passes<4>(seg, g->nseg, gemm_depth(g), passes, b, out); break;
#endif
  }
}

// All the passes of the groups [g0, g1) of a block for one gemm. `planes` start at the first panel of g0.
static void gemm_groups(const Block* block, const Gemm* g, int g0, int g1, const ARows* seg, int nr, const float* packed,
                        float* planes, size_t plane_floats, int64_t panel_stride, Fetch* fetch) {
  const int first = block->group[g0];
  const int64_t k = gemm_depth(g);
  const float* b = packed + g->offset + (size_t)first * g->gates * k * VL;
  float* out[3 * PLANE_VECTORS];
  int nv_run = 0, passes_run = 0, used = 0;
  for (int i = g0; i < g1; i++) {
    const int p0 = block->group[i] - first;
    const Passes ps = passes_of(block->group[i + 1] - block->group[i], g->gates);
    for (int j = 0; j < ps.count; j++) {
      const int c0 = pass_start(ps, j), nv = pass_start(ps, j + 1) - c0;
      float* dst[NV_MAX];
      for (int v = 0; v < nv; v++) {
        const int c = c0 + v, panel = p0 + c / g->gates;
        dst[v] = planes + g->dst[c % g->gates] * plane_floats + panel * panel_stride;
      }
#ifdef AMX
      const bool many = true;  // the matrix unit rounds in its own way: one row must be as many
#else
      const bool many = nr > 1;
#endif
      if (many) {
        switch (nv) {
          case 1: rows_pass<1>(seg, g->nseg, nr, b, dst, fetch); break;
          case 2: rows_pass<2>(seg, g->nseg, nr, b, dst, fetch); break;
          case 3: rows_pass<3>(seg, g->nseg, nr, b, dst, fetch); break;
#if NV_MAX >= 4
          case 4: rows_pass<4>(seg, g->nseg, nr, b, dst, fetch); break;
#endif
        }
        b += (size_t)k * nv * VL;
        continue;
      }
      // One row: collect passes of equal width and run them together.
      if (passes_run && (nv != nv_run || used + nv > 3 * PLANE_VECTORS)) {
        run_lines(seg, g, nv_run, passes_run, b, out);
        b += (size_t)k * used * VL;
        passes_run = used = 0;
      }
      nv_run = nv;
      passes_run++;
      for (int v = 0; v < nv; v++) out[used++] = dst[v];
    }
  }
  if (passes_run) run_lines(seg, g, nv_run, passes_run, b, out);
}
