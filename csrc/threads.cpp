#include "threads.h"

#include <pthread.h>
#include <sched.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

namespace nextstate {
namespace {

constexpr auto kSpin = std::chrono::microseconds(40);

constexpr int64_t kBackoff = 10;
std::atomic<int64_t> backoff_until{0};

int64_t now_ns() { return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count(); }

template <class Done>
bool spin(Done done) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; i++) {
      if (done()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

std::atomic<const OpenMp*> shared{nullptr};

// Runs fn on the threads of an OpenMP library; false (nothing run) when it does not give exactly n of them.
bool run_shared(const OpenMp& library, int n, void (*fn)(void*, int), void* arg) {
  // Another number would make the library end threads or start new ones; inside a region it has only the caller.
  if (library.usual() != n || library.inside()) return false;
  struct Region {
    const OpenMp& library;
    int n;
    void (*fn)(void*, int);
    void* arg;
    std::atomic<bool> ran;
  } region{library, n, fn, arg, {false}};
  library.parallel(
      [](void* p) {
        Region& r = *static_cast<Region*>(p);
        if (r.library.size() != r.n) return;  // a limit of the library's: all of its threads see the same number
        r.ran.store(true, std::memory_order_relaxed);
        r.fn(r.arg, r.library.id());
      },
      &region, static_cast<unsigned>(n), 0);
  return region.ran.load(std::memory_order_relaxed);
}

class Team {
 public:
  bool run(int n, void (*fn)(void*, int), void* arg) {
    if (!owner_.try_lock()) return false;
    std::lock_guard<std::mutex> hold(owner_, std::adopt_lock);
    const OpenMp* library = shared.load(std::memory_order_acquire);
    if (library && run_shared(*library, n, fn, arg)) return true;
    while (size_ < n - 1) {
      std::thread(&Team::work, this, size_ + 1, epoch_.load()).detach();
      size_++;
    }
    fn_ = fn, arg_ = arg, n_ = n;
    left_.store(size_, std::memory_order_relaxed);
    epoch_.fetch_add(1);  // sequentially consistent with the sleepers' check below
    if (sleeping_.load() > 0) {
      std::lock_guard<std::mutex> lock(mutex_);
      wake_.notify_all();
    }
    fn(arg, 0);
    auto done = [&] { return left_.load(std::memory_order_acquire) == 0; };
    while (!spin(done)) sched_yield();
    return true;
  }
  int size() const { return size_; }

 private:
  void work(int id, unsigned seen) {
    for (;;) {
      auto called = [&] { return epoch_.load() != seen; };
      if (!spin(called)) {
        std::unique_lock<std::mutex> lock(mutex_);
        sleeping_.fetch_add(1);
        wake_.wait(lock, called);
        sleeping_.fetch_sub(1);
      }
      seen = epoch_.load();
      if (id < n_) fn_(arg_, id);
      left_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::mutex owner_, mutex_;
  std::condition_variable wake_;
  std::atomic<unsigned> epoch_{0};
  std::atomic<int> left_{0}, sleeping_{0};
  int size_ = 0, n_ = 0;
  void (*fn_)(void*, int) = nullptr;
  void* arg_ = nullptr;
};

// Never destroyed: its threads outlive static destructors. A forked child has none of them and starts a new team.
std::atomic<Team*> current{nullptr};

Team& team() {
  static std::once_flag once;
  std::call_once(once, [] {
    current = new Team;
    pthread_atfork(nullptr, nullptr, [] {
      shared = nullptr;
      current = new Team;
    });
  });
  return *current;
}

}  // namespace

bool team_run(int n, void (*fn)(void*, int), void* arg) {
  if (n > 1) return team().run(n, fn, arg);
  fn(arg, 0);
  return true;
}

int team_size() { return team().size(); }

void share_team(const OpenMp* library) {
  team();  // its handler of fork must be there first
  shared.store(library, std::memory_order_release);
}

bool team_shared() { return shared.load(std::memory_order_relaxed) != nullptr; }

int64_t Barrier::wait() {
  if (n_ == 1) return 0;
  const unsigned phase = phase_.load(std::memory_order_relaxed);
  if (waiting_.fetch_add(1, std::memory_order_acq_rel) + 1 == n_) {
    waiting_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    return 0;
  }
  auto passed = [&] { return phase_.load(std::memory_order_acquire) != phase; };
  if (spin(passed)) return 0;
  const int64_t from = now_ns();
  do sched_yield();
  while (!spin(passed));
  return now_ns() - from;
}

void back_off(int64_t waited) {
  if (!waited) return;
  const int64_t until = now_ns() + kBackoff * waited;
  int64_t before = backoff_until.load(std::memory_order_relaxed);
  while (before < until && !backoff_until.compare_exchange_weak(before, until, std::memory_order_relaxed)) {
  }
}

bool may_share() { return now_ns() >= backoff_until.load(std::memory_order_relaxed); }

}  // namespace nextstate
