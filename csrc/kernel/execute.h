// A block over row tiles, and the two ways blocks are run: over all rows of a chunk, and step by step.

// Lists every second cache line of one operand of a tile, whose rows `ids` may choose from a table; the lines after them
// are fetched along (Fetch::pair).
INLINE const float** list_lines(const View v, const int64_t* ids, int np, int nr, const float** out) {
  if (v.rs == VL && !ids) {  // tiled: one piece
    const float* end = v.p + (int64_t)np * nr * VL;
    for (const float* p = v.p; p < end; p += 32) *out++ = p;
    return out;
  }
  for (int i = 0; i < nr; i++) {
    const float* row = v.p + (ids ? ids[i] : i) * v.rs;
    for (int u = 0; u < np * VL; u += 32) *out++ = row + u;
  }
  return out;
}

// Steps of k (in fours) that the products of some groups will take, over all row tiles.
INLINE int64_t product_steps(const Block* block, int g0, int g1, int nr) {
  int64_t steps = 0;
  for (int i = 0; i < block->ngemms; i++) {
    const Gemm* g = block->gemm + i;
    const int columns = (block->group[g1] - block->group[g0]) * g->gates;
    const int passes = (columns + NV_MAX - 1) / NV_MAX, height = columns < NV_MAX ? MR_MAX : MR_MAX_WIDE;
    steps += (int64_t)passes * ((nr + height - 1) / height) * (depth(g->k) / 4);
  }
  return steps;
}

static void run_tile(const Run* r, Worker* w, const Block* block, const View* at, const int64_t* const* step_ids, int g0,
                     int g1, Rows rows, int64_t plane_rows, const float* rounded, int64_t local, int64_t rounded_rows) {
  View* v = (View*)w->views;
  const int p0 = block->group[g0], np = block->group[g1] - p0, nr = rows.nr;
  const int64_t panel_stride = plane_rows * VL;
  View* mem = v + block->nplanes + block->nconsts;
  const int64_t* ids[MAX_REFS];
  const float* lines[MAX_LINES];
  const float** end = lines;
  for (int i = 0; i < block->nrefs; i++) {
    const Ref* ref = block->ref + i;
    mem[i] = tile_view(r, ref, at[i], rows.r0, nr, p0);
    if (step_ids[i]) ids[i] = step_ids[i] + rows.r0;
    if (nr > 1 && ref->fetch && end + (np + 1) * (nr + 1) <= lines + MAX_LINES - 64)
      end = list_lines(mem[i], step_ids[i] ? ids[i] : nullptr, np, nr, end);
  }
  Fetch fetch = {lines, end, 0, np * VL > 16 ? 16 : 0};
  if (end > lines && block->ngemms) {
    const int64_t steps = product_steps(block, g0, g1, nr);
    const int64_t each = steps ? (end - lines + steps - 1) / steps : 0;
    fetch.each = (int)(each < 60 ? each : 60);
    for (int i = 0; i < fetch.each; i++) end[i] = lines[0];  // the last round may run over
  } else {
    for (const float** p = lines; p < end; p++) __builtin_prefetch(*p), __builtin_prefetch(*p + fetch.pair);
  }
  for (int i = 0; i < block->ngemms; i++) {
    const Gemm* g = block->gemm + i;
    ARows a[MAX_SEGMENTS];
#ifdef ROUNDED
    const int64_t k = gemm_operands(g);
    for (int64_t s = 0, from = 0; s < g->nseg; from += operand_depth(g->seg[s++].k))
      a[s] = {rounded + local * k + from, k, operand_steps(g->seg[s].k)};
    rounded += rounded_rows * k;
#else
    (void)rounded, (void)local, (void)rounded_rows;
    for (int s = 0; s < g->nseg; s++) {
      const View& x = at[g->seg[s].ref];
      a[s] = {x.p + rows.r0 * x.rs, x.rs, g->seg[s].k};
    }
#endif
    gemm_groups(block, g, g0, g1, a, nr, r->packed, w->planes, w->plane_floats, panel_stride, &fetch);
  }
  interpret(r, block, v, ids, {rows.r0, nr, p0, np, block->width});
}

static void finish_reductions(const Run* r, const Block* block, const View* at, const Rows* tiles, int ntiles) {
  for (int i = 0; i < block->nred; i++) {
    const float* acc = r->reduction + (size_t)i * r->reduction_rows * VL;
    float* out = at[block->red[i].ref].p;
    for (int n = 0; n < ntiles; n++)
      for (int64_t row = tiles[n].r0; row < tiles[n].r0 + tiles[n].nr; row++)
        out[row] = reduce_lanes(acc + row * VL, block->red[i].max);
  }
}

// Row i of gemm g lies at [sum of the operands before g] * rows + i * gemm_operands(g), its segments one after another.
INLINE int64_t round_operands(const Block* block, const View* at, const Rows* tiles, int ntiles, float* out) {
  int64_t rows = 0;
#ifdef ROUNDED
  for (int n = 0; n < ntiles; n++) rows += tiles[n].nr;
  for (int i = 0; i < block->ngemms; i++) {
    const Gemm* g = block->gemm + i;
    for (int n = 0; n < ntiles; n++)
      for (int64_t row = tiles[n].r0; row < tiles[n].r0 + tiles[n].nr; row++)
        for (int s = 0; s < g->nseg; s++) {  // whole vectors: what runs over is written later
          const View& x = at[g->seg[s].ref];
          const float* src = x.p + row * x.rs;
          const int k = g->seg[s].k;
#ifdef WEIGHTS8
          round_row(src, k, out);
#else
          for (int j = 0; j < k; j += 2 * VL) store(out + j / 2, pairs_of_row(src + j, k - j));
#endif
          out += operand_depth(k);
        }
  }
#else
  (void)block, (void)at, (void)tiles, (void)ntiles, (void)out;
#endif
  return rows;
}

static void run_block(const Run* r, Worker* w, const Block* block, const Position& position, const Rows* tiles, int ntiles, bool split) {
  View* v = (View*)w->views;
  View at[MAX_REFS];
  const int64_t* ids[MAX_REFS];
  int max_rows = 1;
  for (int n = 0; n < ntiles; n++) max_rows = tiles[n].nr > max_rows ? tiles[n].nr : max_rows;
  for (int i = 0; i < block->nrefs; i++) {
    const Ref* ref = block->ref + i;
    at[i] = view_at(r, ref, position);
    const Buffer* b = r->plan->buffer + ref->buf;
    ids[i] = b->kind == Kind::gather ? r->ids[b->slot] + position.row : nullptr;
  }
#ifdef AMX
  max_rows = (max_rows + 15) / 16 * 16;  // the matrix unit writes whole tiles
#endif
  for (int i = 0; i < block->nplanes; i++) v[i] = {w->planes + i * w->plane_floats, VL, (int64_t)max_rows * VL};
  for (int i = 0; i < block->nconsts; i++) v[block->nplanes + i] = {(float*)block->consts + i * 16, 0, 0};

  const int together = PLANE_VECTORS / max_rows;  // panels
  const int64_t rounded_rows = round_operands(block, at, tiles, ntiles, w->apack);
  int first = 0, last = block->ngroups;
  if (split) {  // sums over a row stay with one thread: their order is fixed
    first = block->nred ? (w->id ? last : 0) : last * w->id / r->threads;
    last = block->nred ? last : last * (w->id + 1) / r->threads;
  }
  for (int g0 = first, g1; g0 < last; g0 = g1) {
    for (g1 = g0 + 1; g1 < last && block->group[g1 + 1] - block->group[g0] <= together;) g1++;
    int64_t local = 0;
    for (int n = 0; n < ntiles; local += tiles[n++].nr)
      run_tile(r, w, block, at, ids, g0, g1, tiles[n], max_rows, w->apack, local, rounded_rows);
  }
  if (block->nred && first < last) finish_reductions(r, block, at, tiles, ntiles);
  if (split) r->wait(r->barrier);
}

static void run_flat(const Run* r, Worker* w, const Block* blocks, int nblocks, const Chunk* c, int64_t r0, int64_t r1) {
  if (r1 <= r0) return;
#ifdef AMX
  amx_begin();
#endif
  const Position at = chunk_position(r, c);
  const bool split = r->split && r->T == 1;
  Rows tiles[FLAT_TILES];
  while (r0 < r1) {  // pieces of a bounded number of tiles
    const int64_t most = (int64_t)FLAT_TILES * FLAT_ROWS;
    const int64_t n = r1 - r0 < most ? r1 - r0 : most;
    const int count = (int)((n + FLAT_ROWS - 1) / FLAT_ROWS);
    for (int i = 0; i < count; i++) {
      const int64_t a = n * i / count;
      tiles[i] = {r0 + a, (int)(n * (i + 1) / count - a)};
    }
    for (int b = 0; b < nblocks; b++) run_block(r, w, blocks + b, at, tiles, count, split);
    r0 += n;
  }
#ifdef AMX
  amx_end();
#endif
}

static void run_steps(const Run* r, Worker* w, const Chunk* c) {
  const Plan* plan = r->plan;
#ifdef AMX
  amx_begin();
#endif
  int64_t rows = -1;
  int count = 0;
  for (int64_t i = 0; i < c->t1 - c->t0; i++) {
    const int64_t t = plan->reverse ? c->t1 - 1 - i : c->t0 + i;
    const int64_t now = row_count(r, t);
    if (now != rows) {
      rows = now;
      for (count = 0; count < w->ntiles && w->tiles[count].r0 < rows; count++) {
        const int64_t left = rows - w->tiles[count].r0;
        w->active[count] = {w->tiles[count].r0, left < w->tiles[count].nr ? (int)left : w->tiles[count].nr};
      }
    }
    if (count == 0) continue;
    const Position at = step_position(r, c, t);
    for (int b = 0; b < plan->nstep; b++) run_block(r, w, plan->step + b, at, w->active, count, r->split);
  }
#ifdef AMX
  amx_end();
#endif
}
