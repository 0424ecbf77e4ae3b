// Peak of the machine: independent fused multiply-adds in registers. Prints GF/s for argv[1] threads.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif
typedef float Vec __attribute__((vector_size(kLanes * 4)));
constexpr int kChains = 12;
constexpr long kRounds = 20'000'000;

static float work() {
  Vec sum[kChains], a, b;
  for (int i = 0; i < kLanes; ++i) a[i] = 0.9999f + 1e-6f * i, b[i] = 1e-4f;
#pragma GCC unroll 12
  for (int c = 0; c < kChains; ++c) sum[c] = a * (1.0f + c);
  for (long r = 0; r < kRounds; ++r) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) {
      sum[c] = sum[c] * a + b;
      asm volatile("" : "+v"(sum[c]));  // keep every chain in its register, in this order
    }
  }
#pragma GCC unroll 12
  for (int c = 1; c < kChains; ++c) sum[0] += sum[c];
  const Vec all = sum[0];
  float total = 0;
  for (int i = 0; i < kLanes; ++i) total += all[i];
  return total;
}

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  double best = 0;
  volatile float sink = 0;
  for (int repeat = 0; repeat < 3; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> team;
    for (int t = 0; t < threads; ++t) team.emplace_back([&] { sink = work(); });
    for (auto& member : team) member.join();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const double flops = 2.0 * kLanes * kChains * kRounds * threads;
    if (flops / seconds > best) best = flops / seconds;
  }
  std::printf("%.1f\n", best / 1e9);
}
