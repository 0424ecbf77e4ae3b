// One run: chunks of steps, and for each the phases pre, steps, post, weight gradients, with a barrier between them.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "engine.h"
#include "threads.h"

namespace nextstate {

namespace {
constexpr int64_t kChunkRows = 768;
constexpr int kTileRows = 16, kFlatRows = 24, kMaxGroup = 4;
constexpr int64_t kSplitFloats = 49152;  // weights of a block that pay for a barrier

// Work that pays for waking a thread.
double threads_flops() { return spread() ? 0 : 1e7; }

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
}  // namespace

bool spread() {
  static const bool asked = std::getenv("NEXTSTATE_SPREAD");
  return asked;
}

// Tiles of equal height, at most kTileRows, at least one for each thread.
int row_block(int64_t B, int threads) {
  if (B < 1) return 1;
  if (B <= kFewRows) return static_cast<int>(B);
  const int64_t per_thread = (B + threads - 1) / std::max(threads, 1);
  const int64_t tiles = (per_thread + kTileRows - 1) / kTileRows;
  return static_cast<int>((per_thread + tiles - 1) / tiles);
}

// Memory of one run, kept for the next.
struct Program::Workspace {
  std::vector<Memory> buffers, shares;
  Memory planes, gpack, apack, reduction;
  std::vector<float*> base, share;
  std::vector<char> views;
  std::vector<Rows> tiles, active;
  std::vector<Worker> workers;
  std::vector<Chunk> chunks;
  Barrier barrier;
  int counter[2] = {0, 0};
};

Program::~Program() = default;

std::shared_ptr<Program::Workspace> Program::borrow() const {
  std::lock_guard<std::mutex> lock(mutex_);
  if (idle_.empty()) return std::make_shared<Workspace>();
  auto w = std::move(idle_.back());
  idle_.pop_back();
  return w;
}

void Program::give_back(std::shared_ptr<Workspace> w) const {
  std::lock_guard<std::mutex> lock(mutex_);
  if (idle_.size() < 8) idle_.push_back(std::move(w));
}

std::shared_ptr<Packed> Program::pack(const std::vector<const float*>& weights) const {
  if (static_cast<int>(weights.size()) != plan_.nweights)
    throw std::invalid_argument("pack: " + std::to_string(weights.size()) + " weights given, " +
                                std::to_string(plan_.nweights) + " wanted");
  auto packed = std::make_shared<Packed>();
  packed->memory = Memory(plan_.packed_floats);
  kernels_.pack(&plan_, weights.data(), packed->memory.get());
  return packed;
}

struct Job {
  const Program& program;
  const Plan& plan;
  const Kernels& kernels;
  Program::Workspace& ws;
  const RunArgs& args;
  Run run;

  int64_t first_row(int64_t t) const { return args.off ? args.off[t] : t * args.B; }
  // Multiplications and additions of the whole run.
  double flops() const {
    double row = static_cast<double>(plan.packed_floats);
    for (int i = 0; i < plan.ntn; i++) row += static_cast<double>(plan.tn[i].n) * std::max(plan.tn[i].k, 1);
    return 2 * row * static_cast<double>(first_row(args.T));
  }
  // Whether threads share the panels of the blocks inside the loop; of all blocks if the run is one step.
  bool few_rows() const {
    if (args.B > kFewRows || !plan.nstep) return false;
    double floats = 0;
    int blocks = 0;
    auto count = [&](const Block* block, int n) {
      blocks += n;
      for (int i = 0; i < n; i++)
        for (int g = 0; g < block[i].ngemms; g++)
          floats += static_cast<double>(block[i].width) * block[i].gemm[g].k * block[i].gemm[g].gates;
    };
    count(plan.step, plan.nstep);
    if (args.T == 1) count(plan.pre, plan.npre), count(plan.post, plan.npost);
    return floats >= static_cast<double>(kSplitFloats) * blocks;
  }
  bool chunked() const { return plan.npre || plan.npost || plan.ntn || plan.nscatter; }

  void cut_chunks() {
    bool need = chunked();
    for (int i = 0; i < plan.nbuffers; i++) need |= plan.buffer[i].kind == Kind::chunk;
    const int64_t most = args.chunk_rows > 0 ? args.chunk_rows : kChunkRows;
    ws.chunks.clear();
    auto add = [&](int64_t t0, int64_t t1) {
      ws.chunks.push_back({t0, t1, first_row(t0), first_row(t1) - first_row(t0), ws.chunks.empty()});
    };
    if (args.T == 0) return;
    if (!need) return add(0, args.T);
    if (plan.reverse) {
      for (int64_t t1 = args.T, t0; t1 > 0; t1 = t0) {
        for (t0 = t1 - 1; t0 > 0 && first_row(t1) - first_row(t0 - 1) <= most;) t0--;
        add(t0, t1);
      }
    } else {
      for (int64_t t0 = 0, t1; t0 < args.T; t0 = t1) {
        for (t1 = t0 + 1; t1 < args.T && first_row(t1 + 1) - first_row(t0) <= most;) t1++;
        add(t0, t1);
      }
    }
  }

  void allocate() {
    int64_t chunk_rows = 0;
    for (const Chunk& c : ws.chunks) chunk_rows = std::max(chunk_rows, c.rows);
    const bool flat = plan.npre || plan.npost;
    const int64_t local_rows = flat ? std::max(args.B, chunk_rows) : args.B;
    ws.buffers.resize(plan.nbuffers);
    ws.base.assign(args.buffers.begin(), args.buffers.end());
    for (int i = 0; i < plan.nbuffers; i++) {
      const Buffer& b = plan.buffer[i];
      int64_t floats = 0;
      if (b.kind == Kind::chunk) floats = chunk_rows * b.ld;
      if (b.kind == Kind::scratch) floats = local_rows * b.ld;
      if (b.kind == Kind::rowscalar) floats = local_rows + 16;
      if (floats) ws.base[i] = ws.buffers[i].grow(floats);
    }
    ws.shares.resize(plan.nshares);
    ws.share.resize(plan.nshares);
    for (int i = 0; i < plan.nshares; i++)
      ws.share[i] = ws.shares[i].grow(kernels.share_floats(plan.share[i].k, chunk_rows));
    run.share = ws.share.data();
    run.base = ws.base.data();
    run.reduction_rows = local_rows;
    if (plan.max_reds) run.reduction = ws.reduction.grow(local_rows * plan.max_reds * kernels.lanes);

    const int n = run.threads;
    const size_t tallest = (std::max(run.row_block, kFlatRows) + 15) / 16 * 16;
    const size_t plane = std::max<size_t>(kernels.plane_vectors, kMaxGroup * tallest) * kernels.lanes;
    const size_t planes = plane * std::max(plan.max_planes, 1);
    float* p = ws.planes.grow(planes * n);
    float* g = plan.ntn ? ws.gpack.grow(static_cast<size_t>(kernels.gpack_floats) * n) : nullptr;
    size_t rounded = 0;  // floats: at most two for one of the weights' depth, and a vector to run over
    if (kernels.rounded_rows) {
      const int64_t rows = std::max<int64_t>(args.B, flat ? kernels.rounded_rows : 0);
      rounded = (static_cast<size_t>(rows + 16) * 2 * plan.max_depth + 64 + 15) / 16 * 16;
    }
    float* a = rounded ? ws.apack.grow(rounded * n) : nullptr;
    const size_t view_bytes = (sizeof(void*) * 3 * std::max(plan.max_views, 1) + 63) / 64 * 64 + 64;
    ws.views.resize(view_bytes * n);
    ws.workers.resize(n);
    deal_tiles();
    for (int i = 0; i < n; i++) {
      Worker& w = ws.workers[i];
      w.id = i;
      w.planes = p + planes * i;
      w.plane_floats = plane;
      w.views = ws.views.data() + view_bytes * i;
      w.gpack = g + static_cast<size_t>(kernels.gpack_floats) * i;
      w.apack = a + rounded * i;
    }
  }

  // Contiguous rows for each thread; with ragged rows, dealt to and fro so that long and short rows mix.
  void deal_tiles() {
    const int n = run.threads, height = run.row_block;
    const int64_t count = (args.B + height - 1) / height;
    const int64_t copies = run.split ? n : 1;
    ws.tiles.resize(std::max<int64_t>(count * copies, 1));
    ws.active.resize(std::max<int64_t>(count * copies, 1));
    int64_t at = 0;
    for (int id = 0; id < n; id++) {
      Worker& w = ws.workers[id];
      w.tiles = ws.tiles.data() + at;
      w.active = ws.active.data() + at;
      const int64_t from = at;
      auto put = [&](int64_t i) {
        const int64_t r0 = i * height;
        ws.tiles[at++] = {r0, static_cast<int>(std::min<int64_t>(height, args.B - r0))};
      };
      if (run.split) {
        for (int64_t i = 0; i < count; i++) put(i);
      } else if (!args.off) {
        for (int64_t i = count * id / n; i < count * (id + 1) / n; i++) put(i);
      } else {
        for (int64_t i = 0; i < count; i++) {
          const int64_t round = i / n, pos = i % n;
          if ((round % 2 ? n - 1 - pos : pos) == id) put(i);
        }
      }
      w.ntiles = static_cast<int>(at - from);
    }
  }

  void fill_states() {
    for (int i = 0, k = 0; i < plan.nbuffers; i++) {
      const Buffer& b = plan.buffer[i];
      if (b.kind != Kind::state) continue;
      const float* init = args.inits[k];
      const int64_t ld = args.init_lds.empty() ? b.ld : args.init_lds[k];
      k++;
      for (int64_t row = 0; row < args.B; row++) {
        float* dst = ws.base[i] + row * b.ld;
        if (init) std::memcpy(dst, init + row * ld, sizeof(float) * b.width);
        else std::memset(dst, 0, sizeof(float) * b.width);
      }
    }
  }

  void zero_gradients() {
    for (int i = 0; i < plan.ntn; i++) {
      const Tn& e = plan.tn[i];
      const Buffer& b = plan.buffer[e.out];
      float* p = ws.base[e.out];
      if (!p) continue;
      if (e.share < 0) std::fill_n(p + e.row0 + e.col0, e.n, 0.0f);
      else
        for (int r = 0; r < e.n; r++) std::fill_n(p + static_cast<int64_t>(e.row0 + r) * b.ld + e.col0, e.k, 0.0f);
    }
  }

  void flat(Worker& w, const Block* blocks, int n, const Chunk& c) {
    if (run.split && run.T == 1) return kernels.flat(&run, &w, blocks, n, &c, 0, c.rows);
    kernels.flat(&run, &w, blocks, n, &c, c.rows * w.id / run.threads, c.rows * (w.id + 1) / run.threads);
  }

  void work(int id) {
    Worker& w = ws.workers[id];
    double* profile = id == 0 ? args.profile : nullptr;
    double last = profile ? seconds() : 0;
    auto lap = [&](int phase) {
      if (!profile) return;
      const double now = seconds();
      profile[phase] += now - last;
      last = now;
    };
    const bool alone = !chunked();
    for (const Chunk& c : ws.chunks) {
      if (plan.npre) {
        flat(w, plan.pre, plan.npre, c);
        ws.barrier.wait();
        lap(0);
      }
      kernels.steps(&run, &w, &c);
      if (!alone) ws.barrier.wait();
      lap(1);
      if (plan.npost) {
        flat(w, plan.post, plan.npost, c);
        ws.barrier.wait();
        lap(2);
      }
      if (plan.ntn || plan.nscatter) {
        kernels.tn_pack(&run, &w, &c);
        ws.barrier.wait();
        if (id == 0) ws.counter[0] = 0;
        kernels.tn(&run, &w, &c);
        ws.barrier.wait();
        if (id == 0) ws.counter[1] = 0;
        lap(3);
      }
    }
  }
};

void Program::run(const Packed& packed, RunArgs& args) const {
  auto check = [](size_t got, int want, const char* what) {
    if (static_cast<int>(got) != want)
      throw std::invalid_argument(std::string("run: ") + std::to_string(got) + " " + what + " given, " +
                                  std::to_string(want) + " wanted");
  };
  check(args.buffers.size(), plan_.nbuffers, "buffers");
  check(args.inits.size(), plan_.nstates, "inits");
  if (!args.init_lds.empty()) check(args.init_lds.size(), plan_.nstates, "init_lds");
  check(args.ids.size(), plan_.ngathers, "ids");
  if (args.T < 0 || args.B < 0) throw std::invalid_argument("run: T and B must not be negative");
  if (args.row_block < 1) throw std::invalid_argument("run: row_block must be positive");

  auto ws = borrow();
  Job job{*this, plan_, kernels_, *ws, args, {}};
  job.cut_chunks();
  job.run = {&plan_, packed.memory.get(), nullptr, args.ids.data(), args.T, args.B, args.off, args.ring,
             args.row_block, std::max(args.threads, 1), nullptr, ws->counter, nullptr, 0, false,
             [](void* b) { back_off(static_cast<Barrier*>(b)->wait()); }, &ws->barrier};
  const bool share = job.few_rows() && (spread() || may_share());
  if (job.flops() < threads_flops() && !share) job.run.threads = 1;
  auto start = [&](int threads) {
    job.run.threads = threads;
    job.run.split = threads > 1 && share;
    job.allocate();
    ws->barrier.reset(threads);
    ws->counter[0] = ws->counter[1] = 0;
  };
  ws->workers.resize(std::max<size_t>(ws->workers.size(), job.run.threads));
  start(job.run.threads);
  job.fill_states();
  if (ws->chunks.empty()) job.zero_gradients();
  else if (!team_run(job.run.threads, [](void* j, int id) { static_cast<Job*>(j)->work(id); }, &job)) {
    start(1);
    job.work(0);
  }
  give_back(std::move(ws));
}

}  // namespace nextstate
