// Where the operands of a block lie: for a step (or chunk), then for a tile.
struct View {
  float* p;
  int64_t rs, ps;  // floats from row to row, from panel to panel
};

struct Position {
  int64_t row;         // first row in seq buffers
  int64_t chunk;       // first row in chunk buffers
  int64_t prev, next;  // first row in state buffers
  int64_t local;       // first row in scratch (non-zero never in a step)
};

INLINE int64_t first_row(const Run* r, int64_t t) { return r->off ? r->off[t] : t * r->B; }
INLINE int64_t row_count(const Run* r, int64_t t) { return r->off ? r->off[t + 1] - r->off[t] : r->B; }
INLINE int64_t slot_row(const Run* r, int64_t slot) {
  if (r->ring) return (slot & 1) * r->B;
  return slot == 0 ? 0 : r->B + first_row(r, slot - 1);
}

INLINE Position step_position(const Run* r, const Chunk* c, int64_t t) {
  const int64_t row = first_row(r, t);
  return {row, row - c->row0, slot_row(r, t), slot_row(r, t + 1), 0};
}
// All the chunk's rows at once; `prev` is only right when no row has ended (checked by the caller of run).
INLINE Position chunk_position(const Run* r, const Chunk* c) {
  return {c->row0, 0, slot_row(r, c->t0), slot_row(r, c->t0 + 1), 0};
}

// Row 0, column 0 of an operand at a position. ps = 0 marks the tiled layout, whose strides depend on the tile.
INLINE View view_at(const Run* r, const Ref* ref, const Position& at) {
  const Buffer* b = r->plan->buffer + ref->buf;
  float* base = r->base[ref->buf];
  const int64_t ld = b->ld;
  switch (b->kind) {
    case Kind::seq: return {base + at.row * ld + ref->col, ld, VL};
    case Kind::chunk: return {base + at.chunk * ld + ref->col, ld, VL};
    case Kind::state: return {base + (ref->access == Access::prev ? at.prev : at.next) * ld + ref->col, ld, VL};
    case Kind::row:
    case Kind::scratch: return {base + ref->col, ld, VL};
    case Kind::vec: return {base + ref->col, 0, VL};
    case Kind::tiled: return {base + at.row * ld, ld, 0};
    case Kind::seqscalar: return {base + at.row, 1, 0};
    case Kind::rowscalar: return {base, 1, 0};
    case Kind::gather: return {base + ref->col, ld, VL};
    case Kind::grad: break;
  }
  return {base, 0, 0};
}

// The same for a tile: rows [r0, r0 + nr), panels from p0.
INLINE View tile_view(const Run* r, const Ref* ref, const View& v, int64_t r0, int nr, int p0) {
  const Kind kind = r->plan->buffer[ref->buf].kind;
  if (kind == Kind::tiled) return {v.p + r0 * v.rs + (int64_t)(p0 + ref->col / VL) * VL * nr, VL, (int64_t)VL * nr};
  if (kind == Kind::gather) return {v.p + (int64_t)p0 * VL, v.rs, VL};
  return {v.p + r0 * v.rs + p0 * v.ps, v.rs, v.ps};
}
