// Which of the kernels' builds runs: the one place that asks the processor.
#pragma once

#include <cstdlib>
#include <cstring>

namespace proscale {

enum class InstructionSet { plain, avx2, avx512 };

// The widest set that this processor runs; MS_DEFORM_ATTN_CPU (plain, avx2) asks for less. Found once per process.
inline InstructionSet instruction_set() {
  static const InstructionSet chosen = []() {
#ifdef PROSCALE_X86
    const char* asked = std::getenv("MS_DEFORM_ATTN_CPU");
    const bool plain = asked && std::strcmp(asked, "plain") == 0;
    const bool avx2_only = asked && std::strcmp(asked, "avx2") == 0;
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (avx512 && !plain && !avx2_only) return InstructionSet::avx512;
    if (avx2 && !plain) return InstructionSet::avx2;
#endif
    return InstructionSet::plain;
  }();
  return chosen;
}

}  // namespace proscale
