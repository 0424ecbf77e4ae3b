#include <cstdlib>
#if defined(NEXTSTATE_X86)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#include <stdexcept>

#include "engine.h"

namespace nextstate {
namespace {

std::vector<const Kernels*> usable() {  // best first
  std::vector<const Kernels*> list;
#ifdef NEXTSTATE_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq"))
    list.push_back(kernels_avx512());
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) list.push_back(kernels_avx2());
#endif
  list.push_back(kernels_portable());
  return list;
}

const std::vector<const Kernels*>& all() {
  static const auto list = usable();
  return list;
}

const Kernels& named(const std::string& isa) {
  std::string names;
  for (const Kernels* k : all()) {
    if (isa == k->name) return *k;
    names += std::string(names.empty() ? "" : ", ") + k->name;
  }
  throw std::invalid_argument("instruction set '" + isa + "' cannot run here; available: " + names);
}

const Kernels* packed_weights(const Kernels& like, bool bytes) {
#ifdef NEXTSTATE_X86
  const bool vnni = __builtin_cpu_supports("avx512vnni");
  if (&like == kernels_avx512() && (vnni || !bytes)) return bytes ? kernels_avx512_w8() : kernels_avx512_w16();
  if (&like != kernels_portable()) return bytes ? kernels_avx2_w8() : kernels_avx2_w16();
#else
  (void)like;
#endif
  return bytes ? kernels_portable_w8() : kernels_portable_w16();
}

}  // namespace

#if defined(NEXTSTATE_X86) && defined(__linux__)
// The matrix unit: the processor must have it and the system must let this process use its registers.
bool has_amx() {
  static const bool yes = [] {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1)) return false;
    constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
  }();
  return yes;
}
#else
bool has_amx() { return false; }
#endif

bool has_bf16() {
#ifdef NEXTSTATE_X86
  return all().front() == kernels_avx512() && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

const Kernels& kernels(const std::string& isa, const std::string& precision) {
  if (precision == "bf16") {
#ifdef NEXTSTATE_X86
    if (has_bf16() && &kernels(isa) == kernels_avx512()) {
      const char* off = std::getenv("NEXTSTATE_AMX");  // 0: do without the matrix unit
      return has_amx() && !(off && *off == '0') ? *kernels_amx() : *kernels_avx512bf16();
    }
#endif
    throw std::invalid_argument("precision 'bf16' needs AVX-512 with BF16 instructions");
  }
  if (precision == "weights16" || precision == "weights8") return *packed_weights(kernels(isa), precision == "weights8");
  if (precision != "fp32")
    throw std::invalid_argument("precision must be 'fp32', 'bf16', 'weights16' or 'weights8', not '" + precision + "'");
  if (!isa.empty()) return named(isa);
  static const Kernels& best = [&]() -> const Kernels& {
    const char* forced = std::getenv("NEXTSTATE_ISA");
    return forced && *forced ? named(forced) : *all().front();
  }();
  return best;
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Kernels* k : all()) names.push_back(k->name);
  return names;
}

}  // namespace nextstate
