// Weights in the order the tiles read them (see Passes in gemm.h). Lanes past the block's width are zero.

// Lanes [0, n) of one column: out[k * step + lane] = B[k, unit + lane].
static void pack_column(const float* w, int ld, const WeightRef* ref, int unit, int n, int k, float* out, int step) {
  if (ref->trans) {
    const float* src = w + (size_t)ref->row0 * ld + ref->col0 + unit;
    for (int j = 0; j < k; j++) {
      for (int i = 0; i < n; i++) out[i] = src[i];
      for (int i = n; i < VL; i++) out[i] = 0.0f;
      src += ld;
      out += step;
    }
    return;
  }
  const float* src = w + (size_t)(ref->row0 + unit) * ld + ref->col0;
  for (int j = 0; j < k; j++, out += step) {
    for (int i = 0; i < n; i++) out[i] = src[(size_t)i * ld + j];
    for (int i = n; i < VL; i++) out[i] = 0.0f;
  }
}

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
        out += (size_t)seg->k * nv * VL;
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
