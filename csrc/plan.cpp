// From the compiler's records to the arrays the kernels read; every mistake in a program is reported here, not in a run.
#include <algorithm>
#include <cstring>
#include <map>
#include <stdexcept>
#include <tuple>

#include "builder.h"
#include "engine.h"

namespace nextstate {
namespace {

struct OpInfo {
  int op, operands;
};

const std::map<std::string, OpInfo>& ops() {
  static const std::map<std::string, OpInfo> table = {
#define OP(id, name, n, e) {name, {op_##id, n}},
#include "ops.def"
#undef OP
  };
  return table;
}

[[noreturn]] void fail(const std::string& where, const std::string& what) {
  throw std::invalid_argument(where + ": " + what);
}

bool is_scalar(Kind k) { return k == Kind::seqscalar || k == Kind::rowscalar; }

}  // namespace

template <class T>
T* Program::keep(const std::vector<T>& v) {
  auto copy = std::make_shared<std::vector<T>>(v);
  arrays_.push_back(copy);
  return copy->data();
}

class Compiler {
 public:
  Compiler(Program& p, const ProgramSpec& s) : program_(p), plan_(p.plan_), spec_(s), lanes_(p.kernels_.lanes) {}

  void run() {
    buffers();
    plan_.weight = program_.keep(spec_.weights);
    plan_.nweights = static_cast<int>(spec_.weights.size());
    plan_.reverse = spec_.reverse;
    plan_.pre = blocks(spec_.pre, "pre", plan_.npre);
    plan_.step = blocks(spec_.step, "step", plan_.nstep);
    plan_.post = blocks(spec_.post, "post", plan_.npost);
    plan_.packed_floats = packed_;
    reductions();
  }

 private:
  void buffers() {
    std::vector<Buffer> list;
    for (const auto& b : spec_.buffers) {
      const std::string where = "buffer " + std::to_string(list.size()) + " '" + b.name + "'";
      if (b.width < 1 || b.ld < b.width) fail(where, "needs 1 <= width <= ld");
      if (!is_scalar(b.kind) && b.kind != Kind::grad && (b.ld % 16 || b.ld < (b.width + 15) / 16 * 16))
        fail(where, "ld must be a multiple of 16");
      int slot = 0;
      if (b.kind == Kind::state) slot = plan_.nstates++;
      if (b.kind == Kind::gather) slot = plan_.ngathers++;
      // Rows of our own at a stride of 1 KiB times a power of two would meet in the same cache sets.
      const bool own = b.kind == Kind::chunk || b.kind == Kind::scratch;
      list.push_back({b.kind, b.width, own && b.ld % 256 == 0 ? b.ld + 16 : b.ld, b.rows, slot});
    }
    plan_.nbuffers = static_cast<int>(list.size());
    plan_.buffer = program_.keep(list);
  }

  const Buffer& buffer(const std::string& where, int i) const {
    if (i < 0 || i >= plan_.nbuffers) fail(where, "no buffer " + std::to_string(i));
    return plan_.buffer[i];
  }

  void check_ref(const std::string& where, const OperandSpec& o, int width, bool flat) const {
    const Buffer& b = buffer(where, o.index);
    const std::string name = "buffer " + std::to_string(o.index) + " '" + spec_.buffers[o.index].name + "'";
    if (b.kind == Kind::grad) fail(where, name + " is a gradient, not an operand");
    if (b.kind == Kind::state && o.access == Access::here) fail(where, name + " is a state: say prev or next");
    if (b.kind != Kind::state && o.access != Access::here) fail(where, name + " is not a state: no prev or next");
    if (b.kind == Kind::tiled && o.col % 16) fail(where, name + " is tiled: column offsets must be multiples of 16");
    if (flat && (b.kind == Kind::row || b.kind == Kind::tiled)) fail(where, name + " needs a step");
    if (!is_scalar(b.kind) && (o.col < 0 || o.col + width > b.width))
      fail(where, "columns " + std::to_string(o.col) + ".." + std::to_string(o.col + width) + " exceed " + name);
  }

  int ref(Builder& b, const OperandSpec& o) const {
    const Ref r{o.index, o.access, o.col, false};
    for (size_t i = 0; i < b.refs.size(); i++)
      if (b.refs[i].buf == r.buf && b.refs[i].access == r.access && b.refs[i].col == r.col) return static_cast<int>(i);
    b.refs.push_back(r);
    if (b.refs.size() > 512) fail(b.where, "too many memory operands");
    return static_cast<int>(b.refs.size() - 1);
  }

  // Whole vectors at the block's last panel would leave the row.
  bool overflows(const Builder& b, const OperandSpec& o) const {
    const int panels = (b.width + lanes_ - 1) / lanes_ * lanes_;
    return o.col + panels > plan_.buffer[o.index].ld;
  }

  int temp(Builder& b) const { return b.planes++; }

  int source(Builder& b, const OperandSpec& o) const {
    if (o.type == OperandSpec::none) return 0;
    if (o.type == OperandSpec::plane) {
      if (o.index < 0 || o.index >= 64) fail(b.where, "plane " + std::to_string(o.index) + " is not in 0..63");
      return o.index;
    }
    if (o.type == OperandSpec::constant) {
      const size_t n = b.consts.size() / 16;
      for (size_t i = 0; i < n; i++)
        if (!std::memcmp(&b.consts[i * 16], &o.value, 4)) return kConst + static_cast<int>(i);
      b.consts.insert(b.consts.end(), 16, o.value);
      return kConst + static_cast<int>(n);
    }
    check_ref(b.where, o, b.width, b.flat);
    const Kind kind = plan_.buffer[o.index].kind;
    const int r = kRef + ref(b, o);
    int op;
    if (is_scalar(kind)) op = op_load_scalar;
    else if (kind == Kind::gather) op = op_load_gather;
    else if (kind != Kind::tiled && overflows(b, o)) op = op_load_masked;
    else return r;
    const auto key = std::make_tuple(o.index, static_cast<int>(o.access), o.col);
    const auto known = b.loaded.find(key);
    if (known != b.loaded.end()) return known->second;
    const int plane = temp(b);
    b.code.push_back({op, plane, r, 0, 0});
    b.loaded[key] = plane;
    return plane;
  }

  void instruction(Builder& b, const InstrSpec& in) const {
    const bool rowmax = in.op == "rowmax";
    if (rowmax || in.op == "rowsum") {
      if (in.dst.type != OperandSpec::buffer || !is_scalar(buffer(b.where, in.dst.index).kind))
        fail(b.where, in.op + " needs a rowscalar or seqscalar destination");
      const int a = source(b, in.a);
      b.reds.push_back({ref(b, in.dst), rowmax});
      b.code.push_back({rowmax ? op_rowmax : op_rowsum, static_cast<int>(b.reds.size() - 1), a, 0, 0});
      return;
    }
    const auto found = ops().find(in.op);
    if (found == ops().end()) fail(b.where, "unknown op '" + in.op + "'");
    const OperandSpec* given[3] = {&in.a, &in.b, &in.c};
    int src[3] = {0, 0, 0};
    for (int i = 0; i < found->second.operands; i++) {
      if (given[i]->type == OperandSpec::none) fail(b.where, in.op + " needs " + std::to_string(i + 1) + " operands");
      src[i] = source(b, *given[i]);
    }
    if (in.dst.type == OperandSpec::plane) {
      b.code.push_back({found->second.op, source(b, in.dst), src[0], src[1], src[2]});
      return;
    }
    if (in.dst.type != OperandSpec::buffer) fail(b.where, in.op + " needs a plane or buffer destination");
    check_ref(b.where, in.dst, b.width, b.flat);
    const Buffer& d = plan_.buffer[in.dst.index];
    if (d.kind == Kind::gather || d.kind == Kind::vec || is_scalar(d.kind)) fail(b.where, in.op + " cannot write there");
    const int r = kRef + ref(b, in.dst);
    // Lanes past the width may be written only where nobody else's columns are.
    const bool whole = b.width % lanes_ == 0 || d.kind == Kind::tiled ||
                       (in.dst.col + b.width == d.width && !overflows(b, in.dst));
    if (whole) {
      b.code.push_back({found->second.op, r, src[0], src[1], src[2]});
    } else {
      const int plane = temp(b);
      b.code.push_back({found->second.op, plane, src[0], src[1], src[2]});
      b.code.push_back({op_store_masked, r, plane, 0, 0});
    }
    for (auto it = b.loaded.begin(); it != b.loaded.end();)
      it = std::get<0>(it->first) == in.dst.index ? b.loaded.erase(it) : std::next(it);
  }

  Block block(const BlockSpec& s, const std::string& where, bool flat) {
    Builder b;
    b.where = where;
    b.flat = flat;
    b.width = s.width;
    if (s.width < 1) fail(where, "width must be positive");
    int least = 99;
    auto see = [&](const OperandSpec& o) {
      if (o.type == OperandSpec::plane) b.planes = std::max(b.planes, o.index + 1);
    };
    for (const auto& g : s.gemms) {
      least = std::min(least, static_cast<int>(g.dst.size()));
      for (int d : g.dst) see({OperandSpec::plane, d});
    }
    for (const auto& in : s.code) see(in.dst), see(in.a), see(in.b), see(in.c);

    std::vector<Gemm> gemms;
    for (const auto& g : s.gemms) gemms.push_back(gemm(b, g));
    for (const auto& in : s.code) instruction(b, in);

    forward_stores(b);

    const int planes = b.planes, nconsts = static_cast<int>(b.consts.size() / 16);
    auto fix = [&](int& i) {
      if (i >= kRef) i += planes + nconsts - kRef;
      else if (i >= kConst) i += planes - kConst;
    };
    for (auto& in : b.code) {
      if (in.op != op_rowsum && in.op != op_rowmax) fix(in.d);
      fix(in.a), fix(in.b), fix(in.c);
    }
    for (auto& in : b.code)
      for (int i : {in.op == op_rowsum || in.op == op_rowmax ? 0 : in.d, in.a, in.b, in.c})
        if (i >= planes + nconsts) {
          Ref& r = b.refs[i - planes - nconsts];
          const Kind k = plan_.buffer[r.buf].kind;
          r.fetch = k == Kind::seq || k == Kind::chunk || k == Kind::state || k == Kind::row || k == Kind::tiled ||
                    k == Kind::gather;
        }
    Block out{};
    out.width = s.width;
    out.panels = (s.width + lanes_ - 1) / lanes_;
    const int per = s.gemms.empty() ? 1 : program_.kernels_.panels_per_group(least);
    out.ngroups = (out.panels + per - 1) / per;
    std::vector<int> group;
    for (int i = 0; i <= out.ngroups; i++) group.push_back(out.panels * i / out.ngroups);
    out.group = program_.keep(group);
    out.ngemms = static_cast<int>(gemms.size());
    out.gemm = program_.keep(gemms);
    out.ninstr = static_cast<int>(b.code.size());
    out.code = program_.keep(b.code);
    out.nplanes = planes;
    out.nconsts = nconsts;
    out.consts = program_.keep(b.consts);
    out.nrefs = static_cast<int>(b.refs.size());
    out.ref = program_.keep(b.refs);
    out.nred = static_cast<int>(b.reds.size());
    out.red = program_.keep(b.reds);
    plan_.max_planes = std::max(plan_.max_planes, planes);
    plan_.max_views = std::max(plan_.max_views, planes + nconsts + out.nrefs);
    plan_.max_reds = std::max(plan_.max_reds, out.nred);
    int depth = 0;
    for (const auto& g : gemms) depth += gemm_depth(g);
    plan_.max_depth = std::max(plan_.max_depth, depth);
    for (auto& g : gemms) {
      const_cast<Gemm&>(out.gemm[&g - gemms.data()]).offset = packed_;
      packed_ += static_cast<size_t>(gemm_depth(g)) * g.gates * out.panels * lanes_;
    }
    return out;
  }

  int gemm_depth(const Gemm& g) const {
    int64_t n = 0;
    for (int s = 0; s < g.nseg; s++) n += program_.kernels_.depth(g.seg[s].k);
    return static_cast<int>(n);
  }

  Gemm gemm(Builder& b, const GemmSpec& g) {
    Gemm out{};
    out.gates = static_cast<int>(g.dst.size());
    if (out.gates < 1) fail(b.where, "gemm without destinations");
    for (int d : g.dst)
      if (d < 0 || d >= 64) fail(b.where, "gemm destination is not a plane in 0..63");
    if (g.segments.empty() || g.segments.size() > 32) fail(b.where, "gemm needs 1..32 segments");
    std::vector<Segment> segments;
    for (const auto& s : g.segments) {
      if (s.k < 1) fail(b.where, "gemm with k < 1");
      if (s.a.type != OperandSpec::buffer) fail(b.where, "gemm operand must be a buffer");
      check_ref(b.where, s.a, s.k, b.flat);
      const Kind kind = plan_.buffer[s.a.index].kind;
      if (kind == Kind::tiled || kind == Kind::gather || is_scalar(kind)) fail(b.where, "gemm operand must be row-major");
      if (static_cast<int>(s.w.size()) != out.gates) fail(b.where, "gemm needs one weight for each destination");
      for (const auto& w : s.w) {
        if (w.weight < 0 || w.weight >= plan_.nweights) fail(b.where, "no weight " + std::to_string(w.weight));
        const auto& m = spec_.weights[w.weight];
        const int r = w.trans ? s.k : b.width, c = w.trans ? b.width : s.k;
        if (w.row0 < 0 || w.col0 < 0 || w.row0 + r > m.rows || w.col0 + c > m.cols)
          fail(b.where, "weight " + std::to_string(w.weight) + ": rows " + std::to_string(w.row0) + "+" + std::to_string(r) +
                            ", columns " + std::to_string(w.col0) + "+" + std::to_string(c) + " exceed its shape");
      }
      segments.push_back({ref(b, s.a), s.k, program_.keep(s.w)});
      out.k += s.k;
    }
    out.nseg = static_cast<int>(segments.size());
    out.seg = program_.keep(segments);
    out.dst = program_.keep(g.dst);
    return out;
  }

  const Block* blocks(const std::vector<BlockSpec>& list, const std::string& name, int& count) {
    std::vector<Block> out;
    for (const auto& s : list) out.push_back(block(s, name + " block " + std::to_string(out.size()), name != "step"));
    count = static_cast<int>(out.size());
    return program_.keep(out);
  }

  void tn_operand(const std::string& where, const OperandSpec& o, int width) const {
    if (o.type != OperandSpec::buffer) fail(where, "operand must be a buffer");
    check_ref(where, o, width, true);
    const Kind kind = plan_.buffer[o.index].kind;
    if (kind != Kind::chunk && kind != Kind::seq && kind != Kind::state) fail(where, "operand must be chunk, seq or state");
  }

  void reductions() {
    std::vector<Tn> tn;
    std::vector<TnShare> shares;
    for (const auto& s : spec_.tn) {
      const std::string where = "tn " + std::to_string(tn.size());
      const Buffer& out = buffer(where, s.out);
      if (out.kind != Kind::grad) fail(where, "out must be a grad buffer");
      if (s.n < 1) fail(where, "g has no columns");
      tn_operand(where, s.g, s.n);
      Tn e{s.out, s.row0, s.col0, s.n, s.k, {s.g.index, s.g.access, s.g.col, false}, {}, -1};
      if (s.k > 0) {
        tn_operand(where, s.a, s.k);
        if (s.row0 < 0 || s.col0 < 0 || s.col0 + s.k > out.width || (out.rows && s.row0 + s.n > out.rows))
          fail(where, "result exceeds its grad buffer");
        e.a = {s.a.index, s.a.access, s.a.col, false};
        for (size_t i = 0; i < shares.size() && e.share < 0; i++)
          if (shares[i].a.buf == e.a.buf && shares[i].a.access == e.a.access && shares[i].a.col == e.a.col &&
              shares[i].k == e.k)
            e.share = static_cast<int>(i);
        if (e.share < 0) {
          e.share = static_cast<int>(shares.size());
          shares.push_back({e.a, e.k});
        }
      }
      tn.push_back(e);
    }
    if (!(tn.empty() && spec_.scatter.empty()) && !program_.kernels_.tn) fail("tn", "packed weights run forward only");
    plan_.ntn = static_cast<int>(tn.size());
    plan_.tn = program_.keep(tn);
    plan_.nshares = static_cast<int>(shares.size());
    plan_.share = program_.keep(shares);

    std::vector<Scatter> scatter;
    for (const auto& s : spec_.scatter) {
      const std::string where = "scatter " + std::to_string(scatter.size());
      const Buffer& out = buffer(where, s.out);
      if (out.kind != Kind::grad) fail(where, "out must be a grad buffer");
      if (buffer(where, s.ids).kind != Kind::gather) fail(where, "ids must name a gather buffer");
      if (s.n < 1 || s.n > out.width) fail(where, "more columns than its grad buffer");
      tn_operand(where, s.g, s.n);
      scatter.push_back({s.out, s.n, plan_.buffer[s.ids].slot, {s.g.index, s.g.access, s.g.col, false}});
    }
    plan_.nscatter = static_cast<int>(scatter.size());
    plan_.scatter = program_.keep(scatter);
  }

  Program& program_;
  Plan& plan_;
  const ProgramSpec& spec_;
  const int lanes_;
  size_t packed_ = 0;
};

Program::Program(const ProgramSpec& spec, const std::string& isa, const std::string& precision)
    : kernels_(nextstate::kernels(isa, precision)) {
  Compiler(*this, spec).run();
}

}  // namespace nextstate
