// A block of instructions while it is translated, and the one improvement made on it.
#pragma once
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "plan.h"

namespace nextstate {

// What a block needs while its instructions are translated.
struct Builder {
  std::string where;
  bool flat;
  int width, planes = 0;
  std::vector<float> consts;
  std::vector<Ref> refs;
  std::vector<Reduction> reds;
  std::vector<Instr> code;
  std::map<std::tuple<int, int, int>, int> loaded;  // ref -> temporary plane that holds it
};
// Until the number of planes is known, constants and refs are numbered from these.
constexpr int kConst = 1 << 16, kRef = 1 << 20;

void forward_stores(Builder& b);

}  // namespace nextstate
