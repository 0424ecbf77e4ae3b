// A small team of threads with short spins. The caller takes part.
#pragma once
#include <atomic>

namespace nextstate {

// Runs fn(arg, 0..n-1) on n threads at once; false (nothing run) when the team is busy with another caller.
bool team_run(int n, void (*fn)(void*, int), void* arg);
int team_size();

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// True when no thread had to wait long at a barrier lately: the processors are ours, and many barriers pay.
bool undisturbed();

// All n threads meet; spins, then yields, since the machine may be shared.
class Barrier {
 public:
  void reset(int n) {
    n_ = n;
    waiting_.store(0, std::memory_order_relaxed);
  }
  void wait();

 private:
  int n_ = 1;
  std::atomic<int> waiting_{0};
  std::atomic<unsigned> phase_{0};
};

}  // namespace nextstate
