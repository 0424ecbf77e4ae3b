// Weight gradients: out[i, j] (+)= sum over the chunk's rows of g[r, i] * a[r, j], and the scatter of row gradients.
// Rows are summed in blocks of TN_ROWS, each from zero, in order: the result does not depend on the number of threads.
#define TN_COLS (TN_NV * VL)
#define TN_PANEL (TN_MR * TN_ROWS + VL)
#ifdef BF16
#define TN_STEP 2
#else
#define TN_STEP 1
#endif

INLINE float* row_of(const Run* r, const Ref* ref, const Chunk* c, int64_t row, int64_t* t) {
  const Buffer* b = r->plan->buffer + ref->buf;
  float* base = r->base[ref->buf] + ref->col;
  if (b->kind == Kind::chunk) return base + row * b->ld;
  const int64_t abs = c->row0 + row;
  if (b->kind != Kind::state) return base + abs * b->ld;
  if (ref->access == Access::next) return base + (r->B + abs) * b->ld;
  while (abs >= first_row(r, *t + 1)) ++*t;
  return base + (slot_row(r, *t) + abs - first_row(r, *t)) * b->ld;
}

// Rows [r0, r0 + n) x columns from c0 into `panels` panels out[n][width], `stride` floats apart. Whole vectors are
// copied: a panel's row may spill into its next row, which is written later; the last needs room for a vector more.
// Columns past the operand's width are whatever its pads hold, and end in columns nobody stores.
template <int WIDTH>
static void copy_panels(const Run* r, const Ref* ref, const Chunk* c, int64_t r0, int64_t n, int c0, int panels, float* out,
                        int64_t stride) {
  constexpr int VECTORS = (WIDTH + VL - 1) / VL, AHEAD = 12;
  const int64_t ld = r->plan->buffer[ref->buf].ld, room = ld - ref->col - c0;  // readable floats of a row
  const int whole = room >= (panels - 1) * WIDTH + VECTORS * VL ? panels : panels - 1;
  int64_t t = c->t0;
  for (int64_t i = 0; i < n; i += TN_STEP, out += WIDTH) {
    const float* src = row_of(r, ref, c, r0 + i, &t) + c0;
#ifdef BF16
    const float* next = i + 1 < n ? row_of(r, ref, c, r0 + i + 1, &t) + c0 : nullptr;
    auto part = [&](int64_t j, int64_t left) __attribute__((always_inline)) {
      const int m = left < VL ? (int)left : VL;
      return pairs_of_lanes(m == VL ? load(src + j) : load_part(src + j, m),
                            !next ? vf{} : m == VL ? load(next + j) : load_part(next + j, m));
    };
    for (int j = 0; j < panels * WIDTH; j += 16) __builtin_prefetch(src + (AHEAD + 1) * ld + j);
#else
    auto part = [&](int64_t j, int64_t left) __attribute__((always_inline)) {
      return left >= VL ? load(src + j) : load_part(src + j, (int)left);
    };
#endif
    for (int j = 0; j < panels * WIDTH; j += 16) __builtin_prefetch(src + AHEAD * ld + j);
    for (int p = 0; p < whole; p++)
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; v++) store(out + p * stride + v * VL, part(p * WIDTH + v * VL, VL));
    for (int p = whole; p < panels; p++)
      for (int v = 0; v < VECTORS && p * WIDTH + v * VL < room; v++)
        store(out + p * stride + v * VL, part(p * WIDTH + v * VL, room - p * WIDTH - v * VL));
  }
#ifdef AMX
  for (int64_t i = depth(n) - (n + 1) / 2; i > 0; i--, out += WIDTH)
    for (int p = 0; p < panels; p++)
      for (int v = 0; v < VECTORS; v++) store(out + p * stride + v * VL, vf{});
#endif
}

INLINE int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int panels_of(int n, int width) { return (n + width - 1) / width; }

static size_t share_floats(int k, int64_t rows) { return (size_t)panels_of(k, TN_COLS) * TN_COLS * (size_t)(depth(rows) + 16); }

// Layout of a share: [row block][panel][row][TN_COLS].
INLINE float* share_panel(float* share, int k, int64_t r0, int64_t n, int panel) {
  return share + (size_t)panels_of(k, TN_COLS) * TN_COLS * depth(r0) + (size_t)panel * TN_COLS * depth(n);
}

static void tn_pack(const Run* r, Worker*, const Chunk* c) {
  const Plan* plan = r->plan;
  int units = 0;
  for (int i = 0; i < plan->nshares; i++) units += panels_of(plan->share[i].k, TN_COLS);
  for (;;) {
    int u = __atomic_fetch_add(r->counter, 1, __ATOMIC_RELAXED), s = 0;
    if (u >= units) return;
    while (u >= panels_of(plan->share[s].k, TN_COLS)) u -= panels_of(plan->share[s++].k, TN_COLS);
    const TnShare* share = plan->share + s;
    for (int64_t r0 = 0; r0 < c->rows; r0 += TN_ROWS) {
      const int64_t n = min64(TN_ROWS, c->rows - r0);
      copy_panels<TN_COLS>(r, &share->a, c, r0, n, u * TN_COLS, 1, share_panel(r->share[s], share->k, r0, n, u), 0);
    }
  }
}

INLINE void add_row(const float* x, float* out, int n, bool first) {
  int j = 0;
  for (; j + VL <= n; j += VL) store(out + j, first ? load(x + j) : load(out + j) + load(x + j));
  for (; j < n; j++) out[j] = first ? x[j] : out[j] + x[j];
}

// out[m][n] of a tile, (+)= sum over n rows of g^T a.
template <int NV>
static __attribute__((noinline)) void tn_tile(const float* g, const float* a, int64_t rows, float* out, int64_t ld, int m,
                                              int n, bool first) {
#ifdef AMX
  float tile[TN_MR * TN_COLS];
  amx_tn(g + TN_MR * TN_ROWS / 2, TN_ROWS / 2, a, depth(rows), tile);
  for (int i = 0; i < m; i++) add_row(tile + i * TN_COLS, out + i * ld, n, first);
#else
  vf acc[TN_MR][NV];
#pragma GCC unroll 16
  for (int i = 0; i < TN_MR; i++)
#pragma GCC unroll 16
    for (int v = 0; v < NV; v++) acc[i][v] = vf{};
  for (int i = 0; i < m; i++)
    for (int v = 0; v < NV; v++) __builtin_prefetch(out + i * ld + v * VL, 1);
  for (; rows > 0; rows -= TN_STEP, g += TN_MR, a += TN_COLS) {
    vf x[NV];
#pragma GCC unroll 16
    for (int v = 0; v < NV; v++) x[v] = load(a + v * VL);
#pragma GCC unroll 16
    for (int i = 0; i < TN_MR; i++) {
      vf y = splat(g[i]);
#pragma GCC unroll 16
      for (int v = 0; v < NV; v++) acc[i][v] = mac(acc[i][v], y, x[v]);
    }
  }
  if (m == TN_MR && n == NV * VL && !first) {
#pragma GCC unroll 16
    for (int i = 0; i < TN_MR; i++, out += ld)
#pragma GCC unroll 16
      for (int v = 0; v < NV; v++) store(out + v * VL, load(out + v * VL) + acc[i][v]);
    return;
  }
  float tile[TN_MR * NV * VL];
#pragma GCC unroll 16
  for (int i = 0; i < TN_MR; i++)
#pragma GCC unroll 16
    for (int v = 0; v < NV; v++) store(tile + (i * NV + v) * VL, acc[i][v]);
  for (int i = 0; i < m; i++) add_row(tile + i * NV * VL, out + i * ld, n, first);
#endif
}

// One unit of work: TN_GROUP tiles of rows of `out`, all of its columns.
static void tn_unit(const Run* r, Worker* w, const Chunk* c, const Tn* e, int unit) {
  const Buffer* ob = r->plan->buffer + e->out;
  const int i0 = unit * TN_GROUP * TN_MR;
  const int count = panels_of(e->n - i0 < TN_GROUP * TN_MR ? e->n - i0 : TN_GROUP * TN_MR, TN_MR);
  for (int64_t r0 = 0; r0 < c->rows; r0 += TN_ROWS) {
    const int64_t n = min64(TN_ROWS, c->rows - r0);
    const bool first = c->first && r0 == 0;
    copy_panels<TN_MR>(r, &e->g, c, r0, n, i0, count, w->gpack, TN_PANEL);
#ifdef AMX
    for (int m = 0; m < count; m++)
      for (int64_t i = 0; i < depth(n); i += 16) {
        float* g = w->gpack + m * TN_PANEL;
        amx_transpose(g + i * TN_MR, g + TN_MR * TN_ROWS / 2 + i, TN_ROWS / 2);
      }
#endif
    for (int p = 0; p < panels_of(e->k, TN_COLS); p++) {
      const float* a = share_panel(r->share[e->share], e->k, r0, n, p);
      const int cols = e->k - p * TN_COLS < TN_COLS ? e->k - p * TN_COLS : TN_COLS;
      for (int m = 0; m < count; m++) {
        const int left = e->n - i0 - m * TN_MR;
        const float* g = w->gpack + m * TN_PANEL;
        float* out = r->base[e->out] + (size_t)(e->row0 + i0 + m * TN_MR) * ob->ld + e->col0 + p * TN_COLS;
        if (cols <= VL)
          tn_tile<1>(g, a, n, out, ob->ld, left < TN_MR ? left : TN_MR, cols, first);
        else
          tn_tile<TN_NV>(g, a, n, out, ob->ld, left < TN_MR ? left : TN_MR, cols, first);
      }
    }
  }
}

static void column_sums(const Run* r, const Chunk* c, const Tn* e, int unit) {
  const int c0 = unit * TN_COLS, valid = e->n - c0 < TN_COLS ? e->n - c0 : TN_COLS;
  float* out = r->base[e->out] + e->row0 + e->col0 + c0;
  int64_t t = c->t0;
  for (int64_t r0 = 0; r0 < c->rows; r0 += TN_ROWS) {
    const int64_t n = min64(TN_ROWS, c->rows - r0);
    float sum[TN_COLS];
    for (int j = 0; j < TN_COLS; j++) sum[j] = 0.0f;
    for (int64_t i = 0; i < n; i++) {
      const float* src = row_of(r, &e->g, c, r0 + i, &t) + c0;
      if (valid == TN_COLS)
        for (int j = 0; j < TN_COLS; j++) sum[j] += src[j];
      else
        for (int j = 0; j < valid; j++) sum[j] += src[j];
    }
    add_row(sum, out, valid, c->first && r0 == 0);
  }
}

static void scatter_rows(const Run* r, const Chunk* c, const Scatter* s, int c0, int c1) {
  float* out = r->base[s->out];
  const int64_t ld = r->plan->buffer[s->out].ld;
  const int64_t* ids = r->ids[s->ids] + c->row0;
  int64_t t = c->t0;
  for (int64_t i = 0; i < c->rows; i++) {
    const float* src = row_of(r, &s->g, c, i, &t);
    float* dst = out + ids[i] * ld;
    int j = c0;
    for (; j + VL <= c1; j += VL) store(dst + j, load(dst + j) + load(src + j));
    for (; j < c1; j++) dst[j] += src[j];
  }
}

static void tn_run(const Run* r, Worker* w, const Chunk* c) {
  const Plan* plan = r->plan;
#ifdef AMX
  amx_begin();
#endif
  for (;;) {
    int u = __atomic_fetch_add(r->counter + 1, 1, __ATOMIC_RELAXED), i = 0;
    for (; i < plan->ntn; i++) {
      const Tn* e = plan->tn + i;
      const int units = !r->base[e->out] ? 0 : panels_of(e->n, e->share < 0 ? TN_COLS : TN_GROUP * TN_MR);
      if (u < units) break;
      u -= units;
    }
    if (i == plan->ntn) break;
    if (plan->tn[i].share < 0)
      column_sums(r, c, plan->tn + i, u);
    else
      tn_unit(r, w, c, plan->tn + i, u);
  }
#ifdef AMX
  amx_end();
#endif
  for (int i = 0; i < plan->nscatter; i++) {
    const Scatter* s = plan->scatter + i;
    const int panels = panels_of(s->n, 16);
    const int a = panels * w->id / r->threads * 16, b = panels * (w->id + 1) / r->threads * 16;
    if (r->base[s->out] && a < b) scatter_rows(r, c, s, a, b < s->n ? b : s->n);
  }
}
