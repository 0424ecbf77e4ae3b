// The pointwise program of one tile: the switch outside, rows and lanes inside.
struct TileShape {
  int64_t r0;
  int nr, p0, np;  // rows, first panel, panels
  int width;       // of the block
};

// Views by value: a store could otherwise change their strides, for all the compiler knows.
template <int N, class F>
INLINE void map(const View d, const View a, const View b, const View c, int np, int nr, F f) {
  if (nr == 1) {  // one row: the panels are the loop
    for (int u = 0; u < np; u++) {
      vf x = load(a.p + u * a.ps), y = N > 1 ? load(b.p + u * b.ps) : x, z = N > 2 ? load(c.p + u * c.ps) : x;
      store(d.p + u * d.ps, f(x, y, z));
    }
    return;
  }
  for (int u = 0; u < np; u++) {
    float* dp = d.p + u * d.ps;
    const float *ap = a.p + u * a.ps, *bp = b.p + u * b.ps, *cp = c.p + u * c.ps;
    for (int i = 0; i < nr; i++) {
      vf x = load(ap), y = N > 1 ? load(bp) : x, z = N > 2 ? load(cp) : x;
      store(dp, f(x, y, z));
      dp += d.rs;
      ap += a.rs;
      if (N > 1) bp += b.rs;
      if (N > 2) cp += c.rs;
    }
  }
}

INLINE int valid_lanes(const TileShape& t, int u) {
  const int left = t.width - (t.p0 + u) * VL;
  return left < VL ? left : VL;
}

static void load_gather(const View d, const View table, const int64_t* ids, const TileShape t) {
  const int whole = valid_lanes(t, t.np - 1) == VL ? t.np : t.np - 1;
  for (int i = 0; i < t.nr; i++) {
    const float* src = table.p + ids[i] * table.rs;
    float* dst = d.p + i * d.rs;
    for (int u = 0; u < whole; u++, src += VL, dst += d.ps) store(dst, load(src));
    if (whole < t.np) store(dst, load_part(src, valid_lanes(t, whole)));
  }
}

static void load_scalar(const View& d, const View& a, const TileShape& t) {
  for (int i = 0; i < t.nr; i++)
    for (int u = 0; u < t.np; u++) store(d.p + u * d.ps + i * d.rs, splat(a.p[i]));
}

static void load_masked(const View& d, const View& a, const TileShape& t) {
  for (int u = 0; u < t.np; u++)
    for (int i = 0; i < t.nr; i++)
      store(d.p + u * d.ps + i * d.rs, load_part(a.p + u * a.ps + i * a.rs, valid_lanes(t, u)));
}

static void store_masked(const View& d, const View& a, const TileShape& t) {
  for (int u = 0; u < t.np; u++)
    for (int i = 0; i < t.nr; i++)
      store_part(d.p + u * d.ps + i * d.rs, load(a.p + u * a.ps + i * a.rs), valid_lanes(t, u));
}

// Accumulators of a row reduction: VL lanes a row, panels added in order.
static void reduce(float* acc, const View& a, const TileShape& t, bool max) {
  for (int i = 0; i < t.nr; i++) {
    float* at = acc + (t.r0 + i) * VL;
    const vf start = max ? vf{} - __builtin_inff() : vf{};
    vf s = t.p0 == 0 ? start : load(at);
    for (int u = 0; u < t.np; u++) {
      vf x = load(a.p + u * a.ps + i * a.rs);
      const int n = valid_lanes(t, u);
      if (n < VL) {
        vf y = start;
        for (int l = 0; l < n; l++) y[l] = x[l];
        x = y;
      }
      s = max ? v_max(s, x) : s + x;
    }
    store(at, s);
  }
}

static float reduce_lanes(const float* p, bool max) {
  vf x = load(p);
  for (int n = VL / 2; n > 0; n /= 2)
    for (int i = 0; i < n; i++) {
      const float a = x[i], b = x[i + n];
      x[i] = max ? ((a > b) | (a != a) ? a : b) : a + b;
    }
  return x[0];
}

static void interpret(const Run* r, const Block* block, const View* v, const int64_t* const* gather_ids,
                      const TileShape& t) {
  for (const Instr *in = block->code, *end = in + block->ninstr; in != end; in++) {
    const View &d = v[in->d], &a = v[in->a], &b = v[in->b], &c = v[in->c];
    switch (in->op) {
#define OP(id, name, n, e)                                                                                    \
  case op_##id:                                                                                               \
    map<n>(d, a, b, c, t.np, t.nr, [](vf a, vf b, vf c) __attribute__((always_inline)) { (void)a, (void)b, (void)c; return (e); }); \
    break;
#include "../ops.def"
#undef OP
      case op_load_gather: load_gather(d, a, gather_ids[in->a - block->nplanes - block->nconsts], t); break;
      case op_load_scalar: load_scalar(d, a, t); break;
      case op_load_masked: load_masked(d, a, t); break;
      case op_store_masked: store_masked(d, a, t); break;
      case op_rowsum:
      case op_rowmax:
        reduce(r->reduction + (size_t)in->d * r->reduction_rows * VL, a, t, in->op == op_rowmax);
        break;
    }
  }
}
