// The Python module: reads the program dict, hands pointers over. Nothing else of the engine knows Python.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <map>

#include "engine.h"
#include "threads.h"

namespace nb = nanobind;
using namespace nextstate;

namespace {

Kind kind_of(const std::string& s) {
  static const std::map<std::string, Kind> kinds = {
      {"seq", Kind::seq},         {"state", Kind::state},     {"row", Kind::row},     {"vec", Kind::vec},
      {"gather", Kind::gather},   {"tiled", Kind::tiled},     {"chunk", Kind::chunk}, {"seqscalar", Kind::seqscalar},
      {"scratch", Kind::scratch}, {"rowscalar", Kind::rowscalar}, {"grad", Kind::grad}};
  auto it = kinds.find(s);
  if (it == kinds.end()) throw std::invalid_argument("unknown buffer kind '" + s + "'");
  return it->second;
}

template <class T>
T field(nb::handle d, const char* key, T otherwise) {
  nb::object v = nb::steal(PyMapping_GetItemString(d.ptr(), key));
  if (!v.is_valid()) {
    PyErr_Clear();
    return otherwise;
  }
  return v.is_none() ? otherwise : nb::cast<T>(v);
}

nb::object item(nb::handle d, const char* key) {
  if (!PyMapping_HasKeyString(d.ptr(), key)) throw std::invalid_argument(std::string("program: missing '") + key + "'");
  return nb::borrow<nb::object>(d)[key];
}

nb::object items(nb::handle d, const char* key) {
  return PyMapping_HasKeyString(d.ptr(), key) ? nb::object(nb::borrow<nb::object>(d)[key]) : nb::object(nb::tuple());
}

OperandSpec operand(nb::handle h) {
  OperandSpec o;
  if (h.is_none()) return o;
  nb::object t = nb::borrow<nb::object>(h);
  const auto type = nb::cast<std::string>(t[0]);
  const size_t n = nb::len(t);
  if (type == "plane") {
    o.type = OperandSpec::plane;
    o.index = nb::cast<int>(t[1]);
  } else if (type == "const") {
    o.type = OperandSpec::constant;
    o.value = static_cast<float>(nb::cast<double>(t[1]));
  } else if (type == "buf") {
    o.type = OperandSpec::buffer;
    o.index = nb::cast<int>(t[1]);
    const auto access = n > 2 && !nb::object(t[2]).is_none() ? nb::cast<std::string>(t[2]) : std::string();
    if (access == "prev") o.access = Access::prev;
    else if (access == "next") o.access = Access::next;
    else if (!access.empty()) throw std::invalid_argument("unknown access '" + access + "'");
    if (n > 3) o.col = nb::cast<int>(t[3]);
  } else {
    throw std::invalid_argument("unknown operand type '" + type + "'");
  }
  return o;
}

BlockSpec block(nb::handle d) {
  BlockSpec b;
  b.width = nb::cast<int>(item(d, "width"));
  for (nb::handle g : items(d, "gemms")) {
    GemmSpec gemm;
    for (nb::handle p : item(g, "dst")) gemm.dst.push_back(nb::cast<int>(p));
    for (nb::handle s : item(g, "segments")) {
      SegmentSpec seg{operand(item(s, "a")), nb::cast<int>(item(s, "k")), {}};
      for (nb::handle w : item(s, "w"))
        seg.w.push_back({nb::cast<int>(item(w, "w")), field(w, "row0", 0), field(w, "col0", 0), field(w, "trans", false)});
      gemm.segments.push_back(std::move(seg));
    }
    b.gemms.push_back(std::move(gemm));
  }
  for (nb::handle h : items(d, "code")) {
    nb::object t = nb::borrow<nb::object>(h);
    const size_t n = nb::len(t);
    InstrSpec in{nb::cast<std::string>(t[0]), operand(nb::object(t[1])), {}, {}, {}};
    if (n > 2) in.a = operand(nb::object(t[2]));
    if (n > 3) in.b = operand(nb::object(t[3]));
    if (n > 4) in.c = operand(nb::object(t[4]));
    b.code.push_back(std::move(in));
  }
  return b;
}

ProgramSpec program_spec(nb::dict d) {
  ProgramSpec s;
  for (nb::handle b : item(d, "buffers")) {
    BufferSpec x{kind_of(nb::cast<std::string>(item(b, "kind"))), field(b, "width", 1), 1, field(b, "rows", 0),
                 field(b, "name", std::string())};
    x.ld = field(b, "ld", x.width);
    s.buffers.push_back(std::move(x));
  }
  for (nb::handle w : items(d, "weights")) {
    WeightSpec x{nb::cast<int>(item(w, "rows")), nb::cast<int>(item(w, "cols")), 0};
    x.ld = field(w, "ld", x.cols);
    s.weights.push_back(x);
  }
  for (nb::handle b : items(d, "pre")) s.pre.push_back(block(b));
  for (nb::handle b : items(d, "step")) s.step.push_back(block(b));
  for (nb::handle b : items(d, "post")) s.post.push_back(block(b));
  s.reverse = field(d, "reverse", false);
  auto rest = [&](const OperandSpec& o) {
    return o.index >= 0 && o.index < static_cast<int>(s.buffers.size()) ? s.buffers[o.index].width - o.col : 0;
  };
  for (nb::handle t : items(d, "tn")) {
    TnSpec x{nb::cast<int>(item(t, "out")), field(t, "row0", 0), field(t, "col0", 0), 0, 0, operand(item(t, "g")),
             operand(item(t, "a"))};
    x.n = field(t, "n", rest(x.g));
    if (x.a.type != OperandSpec::none) x.k = field(t, "k", rest(x.a));
    s.tn.push_back(x);
  }
  for (nb::handle t : items(d, "scatter")) {
    ScatterSpec x{nb::cast<int>(item(t, "out")), 0, nb::cast<int>(item(t, "ids")), operand(item(t, "g"))};
    const bool known = x.out >= 0 && x.out < static_cast<int>(s.buffers.size());
    x.n = field(t, "n", known ? s.buffers[x.out].width : 0);
    s.scatter.push_back(x);
  }
  return s;
}

template <class T>
std::vector<T*> pointers(nb::handle list) {
  std::vector<T*> out;
  out.reserve(nb::len(list));
  for (nb::handle h : list) {
    const unsigned long long v = PyLong_AsUnsignedLongLong(h.ptr());
    if (v == ~0ull && PyErr_Occurred()) throw nb::python_error();
    out.push_back(reinterpret_cast<T*>(static_cast<uintptr_t>(v)));
  }
  return out;
}

nb::object run(const Program& p, const Packed& packed, nb::list buffers, nb::list inits, nb::list init_lds, nb::list ids,
               int64_t T, int64_t B, uintptr_t off, bool ring, int threads, int row_block, int64_t chunk_rows, bool profile) {
  double times[4] = {0, 0, 0, 0};
  RunArgs a{pointers<float>(buffers), pointers<const float>(inits), {}, pointers<const int64_t>(ids), T, B,
            reinterpret_cast<const int64_t*>(off), ring, threads, row_block, chunk_rows, profile ? times : nullptr};
  for (nb::handle h : init_lds) a.init_lds.push_back(nb::cast<int64_t>(h));
  {
    nb::gil_scoped_release release;
    p.run(packed, a);
  }
  if (!profile) return nb::none();
  nb::dict d;
  const char* names[4] = {"pre", "step", "post", "tn"};
  for (int i = 0; i < 4; i++) d[names[i]] = times[i];
  return d;
}

// One step of B rows again and again: all but the pointers of the input and the output is prepared.
struct Step {
  const Program& program;
  const Packed& packed;
  RunArgs args;
  size_t input, output;
  int threads;
  std::chrono::steady_clock::time_point last{};

  Step(const Program& p, const Packed& w, nb::list buffers, nb::list inits, const std::vector<int64_t>& init_lds, int64_t B,
       int threads, int row_block, size_t in, size_t out)
      : program(p), packed(w),
        args{pointers<float>(buffers), pointers<const float>(inits), init_lds, {}, 1, B, nullptr, true, threads, row_block, 0,
             nullptr},
        input(in), output(out), threads(threads) {
    if (in >= args.buffers.size() || out >= args.buffers.size()) throw std::invalid_argument("Step: no such buffer");
  }
  void operator()(uintptr_t u, uintptr_t v) {
    args.buffers[input] = reinterpret_cast<float*>(u);
    args.buffers[output] = reinterpret_cast<float*>(v);
    nb::gil_scoped_release release;
    // Threads that sleep take longer to wake than what they could save in one step: they are woken for a row of steps.
    using Clock = std::chrono::steady_clock;
    const bool at_once = Clock::now() - last < std::chrono::microseconds(100);
    args.threads = args.B > kFewRows || at_once || spread() ? threads : 1;
    program.run(packed, args);
    last = Clock::now();
  }
};

nb::ndarray<nb::pytorch, float> empty(size_t rows, size_t cols) {
  struct Owned {
    void* p;
    size_t bytes;
  };
  auto* o = new Owned{nullptr, rows * cols * sizeof(float)};
  o->p = pool_take(o->bytes);
  nb::capsule owner(o, [](void* q) noexcept {
    auto* owned = static_cast<Owned*>(q);
    pool_give(owned->p, owned->bytes);
    delete owned;
  });
  const size_t shape[2] = {rows, cols};
  return nb::ndarray<nb::pytorch, float>(o->p, 2, shape, owner);
}

// Addresses of GOMP_parallel, omp_get_thread_num, omp_get_num_threads, omp_get_max_threads and omp_in_parallel; none
// of them: our own team again.
void share_openmp(const std::vector<uintptr_t>& entries) {
  if (entries.empty()) return share_team(nullptr);
  if (entries.size() != 5) throw std::invalid_argument("share_team: five addresses or none");
  auto number = [&](int i) { return reinterpret_cast<int (*)()>(entries[i]); };
  // Never freed: a run on another thread may be reading it.
  share_team(new OpenMp{reinterpret_cast<decltype(OpenMp::parallel)>(entries[0]), number(1), number(2), number(3), number(4)});
}

nb::dict info() {
  nb::dict d;
  d["isa"] = kernels("").name;
  d["lanes"] = kernels("").lanes;
  d["available"] = available_isas();
  d["bf16"] = has_bf16();
  d["team"] = team_size();
  d["shared_team"] = team_shared();
  d["cached_bytes"] = pool_cached();
  return d;
}

// A number that changes if a value looked at does: at most `most` of each array, evenly spread. Torch does not count writes
// through `.data`; to compare all values would cost a step of one row as much as its products.
uint64_t fingerprint(const std::vector<uintptr_t>& addresses, const std::vector<size_t>& counts, size_t most) {
  if (addresses.size() != counts.size()) throw std::invalid_argument("fingerprint: as many counts as addresses");
  uint64_t found = 0;
  for (size_t k = 0; k < addresses.size(); ++k) {
    const auto* bits = reinterpret_cast<const uint32_t*>(addresses[k]);
    const size_t stride = std::max<size_t>(1, (counts[k] + most - 1) / most) | 1;  // odd: not always the same column
    for (size_t i = 0; i < counts[k]; i += stride) found = (found ^ bits[i]) * 0x9E3779B97F4A7C15u;
    found ^= found >> 29;
  }
  return found;
}

}  // namespace

NB_MODULE(_engine, m) {
  nb::set_leak_warnings(false);  // programs live in caches that end with the process
  m.doc() = "The CPU engine: runs recurrent programs (see csrc/README.md).";
  nb::class_<Packed>(m, "Packed");
  nb::class_<Program>(m, "Program")
      .def("__init__", [](Program* self, nb::dict spec, const std::string& isa, const std::string& precision) {
             new (self) Program(program_spec(spec), isa, precision);
           },
           nb::arg("spec"), nb::arg("isa") = "", nb::arg("precision") = "fp32")
      .def("pack",
           [](const Program& p, nb::list weights) {
             auto w = pointers<const float>(weights);
             nb::gil_scoped_release release;
             return p.pack(w);
           },
           nb::arg("weights"))
      .def("run", &run, nb::arg("packed"), nb::arg("buffers"), nb::arg("inits"), nb::arg("init_lds"), nb::arg("ids"),
           nb::arg("T"), nb::arg("B"), nb::arg("off") = 0, nb::arg("ring") = false, nb::arg("threads") = 1,
           nb::arg("row_block") = 1, nb::arg("chunk_rows") = 0, nb::arg("profile") = false)
      .def_prop_ro("isa", [](const Program& p) { return p.kernels().name; })
      .def_prop_ro("lanes", [](const Program& p) { return p.kernels().lanes; });
  nb::class_<Step>(m, "Step")
      .def(nb::init<const Program&, const Packed&, nb::list, nb::list, const std::vector<int64_t>&, int64_t, int, int, size_t,
                    size_t>(),
           nb::keep_alive<1, 2>(), nb::keep_alive<1, 3>(), nb::arg("program"), nb::arg("packed"), nb::arg("buffers"),
           nb::arg("inits"), nb::arg("init_lds"), nb::arg("B"), nb::arg("threads"), nb::arg("row_block"), nb::arg("input"),
           nb::arg("output"))
      .def("__call__", &Step::operator(), nb::arg("u"), nb::arg("v"));
  m.attr("FEW_ROWS") = kFewRows;
  m.def("row_block", &row_block, nb::arg("B"), nb::arg("threads"),
        "Height of the row tiles: give the same one to the forward and the backward run.");
  m.def("empty", &empty, nb::arg("rows"), nb::arg("cols"), "A float32 tensor from the pool, uninitialised.");
  m.def("share_team", &share_openmp, nb::arg("entries"), "Run on the threads of an OpenMP library; none: on our own.");
  m.def("fingerprint", &fingerprint, nb::arg("addresses"), nb::arg("counts"), nb::arg("most"),
        "A number made of at most `most` values of each float32 array: another one if one of those has changed.");
  m.def("trim", &pool_trim, "Give the pool's unused memory back to the system.");
  m.def("info", &info, "What this machine runs.");
}
