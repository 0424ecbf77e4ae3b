// Weights in the order the tiles read them (see Passes in gemm.h). Lanes past the block's width are zero.

typedef float v4 __attribute__((vector_size(16), aligned(4), may_alias));

#ifdef BF16
// Lanes [0, n) of one column, two steps of k in a lane.
static void pack_column(const float* w, int ld, const WeightRef* ref, int unit, int n, int k, float* out, int step) {
  const int64_t down = ref->trans ? ld : 1, across = ref->trans ? 1 : ld;  // floats from k to k + 1, from lane to lane
  const float* src = w + (size_t)ref->row0 * ld + ref->col0 + unit * across;
  for (int j = 0; j < k; j += 2, src += 2 * down, out += step) {
    vf lo = {}, hi = {};
    if (across == 1) {
      lo = load_part(src, n);
      if (j + 1 < k) hi = load_part(src + down, n);
    } else {
      float x[2 * VL] = {0};
      for (int i = 0; i < n; i++) x[i] = src[i * across];
      if (j + 1 < k)
        for (int i = 0; i < n; i++) x[VL + i] = src[i * across + down];
      lo = load(x), hi = load(x + VL);
    }
    store(out, pairs_of_lanes(lo, hi));
  }
  for (int64_t j = (k + 1) / 2; j < depth(k); j++, out += step) store(out, vf{});
}
#elif defined(WEIGHTS16) || defined(WEIGHTS8)
// Lanes [0, n) of one column, as compact.h reads them.
static void pack_column(const float* w, int ld, const WeightRef* ref, int unit, int n, int k, float* out, int step) {
  const int64_t down = ref->trans ? ld : 1, across = ref->trans ? 1 : ld;  // floats from k to k + 1, from lane to lane
  const float* src = w + (size_t)ref->row0 * ld + ref->col0 + unit * across;
  for (int i = 0; i < VL; i++) pack_lane(i < n ? src + i * across : nullptr, down, k, out, step, i);
}
#else
// Lanes [0, n) of one column: out[k * step + lane] = B[k, unit + lane].
static void pack_column(const float* w, int ld, const WeightRef* ref, int unit, int n, int k, float* out, int step) {
  if (ref->trans) {
    const float* src = w + (size_t)ref->row0 * ld + ref->col0 + unit;
    for (int j = 0; j < k; j++) {
      store(out, n == VL ? load(src) : load_part(src, n));
      src += ld;
      out += step;
    }
    return;
  }
  const float* src = w + (size_t)(ref->row0 + unit) * ld + ref->col0;
  int j = 0;
  for (; j + 4 <= k; j += 4, out += 4 * step)  // squares of 4 by 4
    for (int i = 0; i < VL; i += 4) {
      v4 a = {}, b = {}, c = {}, d = {};
      const float* p = src + (size_t)i * ld + j;
      if (i + 0 < n) a = *(const v4*)p;
      if (i + 1 < n) b = *(const v4*)(p + ld);
      if (i + 2 < n) c = *(const v4*)(p + 2 * (size_t)ld);
      if (i + 3 < n) d = *(const v4*)(p + 3 * (size_t)ld);
      const v4 ab0 = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab1 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
      const v4 cd0 = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd1 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
      *(v4*)(out + i) = __builtin_shufflevector(ab0, cd0, 0, 1, 4, 5);
      *(v4*)(out + step + i) = __builtin_shufflevector(ab0, cd0, 2, 3, 6, 7);
      *(v4*)(out + 2 * step + i) = __builtin_shufflevector(ab1, cd1, 0, 1, 4, 5);
      *(v4*)(out + 3 * step + i) = __builtin_shufflevector(ab1, cd1, 2, 3, 6, 7);
    }
  for (; j < k; j++, out += step) {
    for (int i = 0; i < n; i++) out[i] = src[(size_t)i * ld + j];
    for (int i = n; i < VL; i++) out[i] = 0.0f;
  }
}
#endif

static void pack_gemm(const Plan* plan, const Block* block, const Gemm* g, const float* const* weights, float* packed) {
  float* out = packed + g->offset;
  for (int i = 0; i < block->ngroups; i++) {
    const int p0 = block->group[i];
    const Passes ps = passes_of(block->group[i + 1] - p0, g->gates);
    for (int j = 0; j < ps.count; j++) {
      const int c0 = pass_start(ps, j), nv = pass_start(ps, j + 1) - c0;
      for (int s = 0; s < g->nseg; s++) {
        const Segment* seg = g->seg + s;
        for (int v = 0; v < nv; v++) {
          const int c = c0 + v, unit = (p0 + c / g->gates) * VL;
          const WeightRef* ref = seg->w + c % g->gates;
          const int left = block->width - unit;
          pack_column(weights[ref->weight], plan->weight[ref->weight].ld, ref, unit, left < VL ? left : VL, seg->k,
                      out + v * VL, nv * VL);
        }
        out += (size_t)depth(seg->k) * nv * VL;
      }
    }
  }
}

static void pack_weights(const Plan* plan, const float* const* weights, float* packed) {
  const Block* lists[3] = {plan->pre, plan->step, plan->post};
  const int counts[3] = {plan->npre, plan->nstep, plan->npost};
  for (int l = 0; l < 3; l++)
    for (int n = 0; n < counts[l]; n++) {
      const Block* block = lists[l] + n;
      for (int m = 0; m < block->ngemms; m++) pack_gemm(plan, block, block->gemm + m, weights, packed);
    }
}
