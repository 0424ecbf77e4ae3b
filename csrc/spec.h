// The program as the compiler wrote it: plain records, no Python, no derived data (those are in plan.h).
#pragma once
#include <string>
#include <vector>

namespace nextstate {

enum class Kind { seq, state, row, vec, gather, tiled, seqscalar, chunk, scratch, rowscalar, grad };
enum class Access { here, prev, next };

struct BufferSpec {
  Kind kind;
  int width = 1, ld = 1, rows = 0;
  std::string name;
};

struct WeightSpec {
  int rows, cols, ld;
};

struct OperandSpec {
  enum Type { none, plane, buffer, constant } type = none;
  int index = 0;
  Access access = Access::here;
  int col = 0;
  float value = 0;
};

struct InstrSpec {
  std::string op;
  OperandSpec dst, a, b, c;
};

struct WeightRef {
  int weight, row0, col0;
  bool trans;
};

struct SegmentSpec {
  OperandSpec a;
  int k;
  std::vector<WeightRef> w;
};

struct GemmSpec {
  std::vector<int> dst;
  std::vector<SegmentSpec> segments;
};

struct BlockSpec {
  int width;
  std::vector<GemmSpec> gemms;
  std::vector<InstrSpec> code;
};

struct TnSpec {
  int out, row0, col0, n, k;  // k = 0: column sums
  OperandSpec g, a;
};

struct ScatterSpec {
  int out, n, ids;  // ids: index of the gather buffer
  OperandSpec g;
};

struct ProgramSpec {
  std::vector<BufferSpec> buffers;
  std::vector<WeightSpec> weights;
  std::vector<BlockSpec> pre, step, post;
  std::vector<TnSpec> tn;
  std::vector<ScatterSpec> scatter;
  bool reverse = false;
};

}  // namespace nextstate
