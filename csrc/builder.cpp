#include "builder.h"

#include <cstddef>

namespace nextstate {
namespace {

bool is_plane(int i) { return i < kConst; }
bool touches(const Builder& b, const Instr& in, int buf) {
  const bool reduces = in.op == op_rowsum || in.op == op_rowmax;
  for (int i : {reduces ? 0 : in.d, in.a, in.b, in.c})
    if (i >= kRef && b.refs[i - kRef].buf == buf) return true;
  return false;
}

}  // namespace

// "plane = f(...); buffer = plane" becomes "buffer = f(...)", and later uses of the plane read the buffer: a store
// and a load less. Left alone wherever another access to the buffer could come between.
void forward_stores(Builder& b) {
  auto defines = [](const Instr& in, int plane) { return in.op < op_rowsum && in.op != op_store_masked && in.d == plane; };
  for (size_t m = 0; m < b.code.size(); m++) {
    const Instr mov = b.code[m];
    if (mov.op != op_mov || mov.d < kRef || !is_plane(mov.a)) continue;
    const int buf = b.refs[mov.d - kRef].buf, plane = mov.a;
    size_t def = m;
    while (def > 0 && !defines(b.code[def - 1], plane)) def--;
    if (def == 0 || b.code[def - 1].op >= op_load_gather) continue;
    def--;
    size_t end = m + 1;  // the plane's value lives until here
    while (end < b.code.size() && !defines(b.code[end], plane)) end++;
    if (end < b.code.size()) end++;  // the redefinition may still read it
    bool free = true;
    Instr first = b.code[def];  // may update the same columns in place
    for (int* i : {&first.a, &first.b, &first.c})
      if (*i == mov.d) *i = 0;
    if (touches(b, first, buf)) free = false;
    for (size_t j = def + 1; j < end && free; j++) free = j == m || !touches(b, b.code[j], buf);
    if (!free) continue;
    b.code[def].d = mov.d;
    for (size_t j = def + 1; j < end; j++)
      for (int* i : {&b.code[j].a, &b.code[j].b, &b.code[j].c})
        if (*i == plane) *i = mov.d;
    b.code.erase(b.code.begin() + static_cast<std::ptrdiff_t>(m));
    m--;
  }
}

}  // namespace nextstate
