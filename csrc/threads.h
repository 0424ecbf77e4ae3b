// A team of threads, in which the caller takes part: that of an OpenMP library the process already runs, or our own.
#pragma once
#include <atomic>
#include <cstdint>

namespace nextstate {

// Runs fn(arg, 0..n-1) on n threads at once; false (nothing run) when the team is busy with another caller.
bool team_run(int n, void (*fn)(void*, int), void* arg);
int team_size();  // threads of our own team

// The entry points of an OpenMP library. Where its threads spin between their jobs, a second team would wait for the
// processors they hold; so the work is given to them.
struct OpenMp {
  void (*parallel)(void (*fn)(void*), void* arg, unsigned n, unsigned flags);  // GOMP_parallel
  int (*id)();       // omp_get_thread_num
  int (*size)();     // omp_get_num_threads
  int (*usual)();    // omp_get_max_threads
  int (*inside)();   // omp_in_parallel
};

// From now on that library's team runs what is asked of as many threads as it usually has; not in a child of fork,
// where it has no threads and would wait for them. `library` must stay.
void share_team(const OpenMp* library);
bool team_shared();

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Barriers inside a step pay where the processors are ours. Where a thread had to be waited for, nobody uses them for
// ten times as long: they cost little of the time then.
void back_off(int64_t waited);  // nanoseconds; 0 changes nothing
bool may_share();

// All n threads meet; spins, then yields, since the machine may be shared. Returns for how many nanoseconds it yielded.
class Barrier {
 public:
  void reset(int n) {
    n_ = n;
    waiting_.store(0, std::memory_order_relaxed);
  }
  int64_t wait();

 private:
  int n_ = 1;
  std::atomic<int> waiting_{0};
  std::atomic<unsigned> phase_{0};
};

}  // namespace nextstate
