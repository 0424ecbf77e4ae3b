// The engine's own interface: programs, packed weights, runs. No Python here.
#pragma once
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "plan.h"
#include "pool.h"

namespace nextstate {

// "" = the best one here; throws when this machine cannot run it. Precision of the matrix products: fp32 or bf16;
// or of the weights alone, for runs of few rows: weights16 (bfloat16), weights8 (int8).
const Kernels& kernels(const std::string& isa, const std::string& precision = "fp32");
bool has_bf16();
std::vector<std::string> available_isas();

struct Packed {
  Memory memory;
};

struct RunArgs {
  std::vector<float*> buffers;
  std::vector<const float*> inits;
  std::vector<int64_t> init_lds;
  std::vector<const int64_t*> ids;
  int64_t T, B;
  const int64_t* off;
  bool ring;
  int threads, row_block;
  int64_t chunk_rows;  // 0: default
  double* profile;     // seconds of pre, step, post, tn; or null
};

int row_block(int64_t B, int threads);
bool spread();  // asked for by tests: the smallest run is shared, so that they meet what threads may do wrong

// Owns the arrays a Plan points to.
class Program {
 public:
  Program(const ProgramSpec& spec, const std::string& isa, const std::string& precision);
  ~Program();
  Program(const Program&) = delete;
  std::shared_ptr<Packed> pack(const std::vector<const float*>& weights) const;
  void run(const Packed& packed, RunArgs& args) const;
  const Plan& plan() const { return plan_; }
  const Kernels& kernels() const { return kernels_; }

 private:
  friend class Compiler;
  friend struct Job;
  template <class T>
  T* keep(const std::vector<T>& v);
  struct Workspace;
  std::shared_ptr<Workspace> borrow() const;
  void give_back(std::shared_ptr<Workspace>) const;

  const Kernels& kernels_;
  Plan plan_{};
  std::vector<std::shared_ptr<void>> arrays_;
  mutable std::mutex mutex_;
  mutable std::vector<std::shared_ptr<Workspace>> idle_;
};

}  // namespace nextstate
