// The program as the kernels read it. Plain data and raw pointers only: these structs are shared by files compiled
// for different instruction sets, so they must not hold inline functions (the linker would merge them across sets).
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "spec.h"

namespace nextstate {

constexpr int kFewRows = 4;  // up to here the weights' way from the cache is the cost: rows are not split

struct Buffer {
  Kind kind;
  int width, ld, rows;
  int slot;  // state: index in inits; gather: index in ids
};

// A memory operand of a block.
struct Ref {
  int buf;
  Access access;
  int col;
  bool fetch;  // worth fetching ahead: the pointwise program reads or writes it row by row
};

// Operands are indices into the views of a tile: planes, then constants, then memory refs.
struct Instr {
  int op, d, a, b, c;
};

struct Segment {
  int ref;  // index in the block's refs
  int k;
  const WeightRef* w;  // G of them
};

struct Gemm {
  int gates, k, nseg;
  const int* dst;
  const Segment* seg;
  size_t offset;  // floats, in the packed weights
};

struct Reduction {
  int ref;
  bool max;
};

struct Block {
  int width, panels, ngroups;
  const int* group;  // first panel of each group; ngroups + 1 entries
  int ngemms, ninstr, nplanes, nconsts, nrefs, nred;
  const Gemm* gemm;
  const Instr* code;
  const float* consts;  // nconsts vectors of 16
  const Ref* ref;
  const Reduction* red;
};

struct Tn {
  int out, row0, col0, n, k;
  Ref g, a;
  int share;  // index of the packed `a`; -1: column sums
};

// A distinct right operand of the weight-gradient products, packed once a chunk.
struct TnShare {
  Ref a;
  int k;
};

struct Scatter {
  int out, n, ids;  // ids: slot in the ids list
  Ref g;
};

struct Plan {
  int nbuffers, nweights, npre, nstep, npost, ntn, nshares, nscatter, nstates, ngathers;
  const Buffer* buffer;
  const WeightSpec* weight;
  const Block *pre, *step, *post;
  const Tn* tn;
  const TnShare* share;
  const Scatter* scatter;
  bool reverse;
  size_t packed_floats;
  int max_planes, max_views, max_reds, max_depth;  // max_depth: k of all gemms of a block
};

// Rows of a tile are [r0, r0 + nr) of the step (or of the chunk, for flat blocks).
struct Rows {
  int64_t r0;
  int nr;
};

// Everything one call of run() knows; read-only for the kernels.
struct Run {
  const Plan* plan;
  const float* packed;
  float* const* base;
  const int64_t* const* ids;
  int64_t T, B;
  const int64_t* off;
  bool ring;
  int row_block, threads;
  float** share;        // packed `a` of the weight gradients
  int* counter;         // two work counters: packing, products
  float* reduction;     // accumulators of row reductions
  int64_t reduction_rows;
  bool split;           // too few rows: threads share the panels of each block of a step instead
  void (*wait)(void*);  // until all threads are here
  void* barrier;
};

// What a thread owns.
struct Worker {
  int id;
  float* planes;
  size_t plane_floats;  // of one plane
  void* views;          // max_views views
  float* gpack;
  float* apack;         // left operands rounded to bfloat16
  const Rows* tiles;    // row tiles of this thread over B rows
  Rows* active;         // the same, cut to the rows of the current step
  int ntiles;
};

struct Chunk {
  int64_t t0, t1, row0, rows;
  bool first;
};

struct Kernels {
  const char* name;
  int lanes;
  int plane_vectors;  // vectors of one plane
  int rounded_rows;  // rows of a flat block whose operands are rounded at a time; 0: they are read as they are
  int64_t (*depth)(int64_t k);  // floats that k numbers of an operand take
  int (*panels_per_group)(int min_gates);
  void (*pack)(const Plan*, const float* const* weights, float* out);
  void (*flat)(const Run*, Worker*, const Block*, int nblocks, const Chunk*, int64_t r0, int64_t r1);
  void (*steps)(const Run*, Worker*, const Chunk*);
  int gpack_floats;  // from here on null where there is no training
  size_t (*share_floats)(int k, int64_t rows);
  void (*tn_pack)(const Run*, Worker*, const Chunk*);
  void (*tn)(const Run*, Worker*, const Chunk*);
};

const Kernels* kernels_portable();
const Kernels* kernels_avx2();
const Kernels* kernels_avx512();
const Kernels* kernels_avx512bf16();
const Kernels* kernels_amx();
// Weights of two bytes or one, float32 states: one row at a time, forward.
const Kernels* kernels_portable_w16();
const Kernels* kernels_portable_w8();
const Kernels* kernels_avx2_w16();
const Kernels* kernels_avx2_w8();
const Kernels* kernels_avx512_w16();
const Kernels* kernels_avx512_w8();

enum Op : int {
#define OP(id, name, n, e) op_##id,
#include "ops.def"
#undef OP
  op_load_gather,
  op_load_scalar,
  op_load_masked,
  op_store_masked,
  op_rowsum,
  op_rowmax,
};

}  // namespace nextstate
