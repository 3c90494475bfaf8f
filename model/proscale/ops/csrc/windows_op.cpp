// proscale::window_attention: checks, threads and dispatch.
#include <vector>

#include "aligned.h"
#include "instruction_set.h"
#include "runs.h"
#include "windows.h"

namespace proscale {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

const WindowKernels& kernels() {
#ifdef PROSCALE_X86
  if (instruction_set() == InstructionSet::avx512) return avx512::window_kernels;
  if (instruction_set() == InstructionSet::avx2) return avx2::window_kernels;
#endif
  return plain::window_kernels;
}

// qkv (W, T, 3 * heads * 32) float32 or bfloat16, bias (heads, T, T) float32 -> out (W, T, heads * 32) of qkv's type, which is written
void window_attention(const Tensor& qkv, const Tensor& bias, Tensor& out) {
  STD_TORCH_CHECK(qkv.dim() == 3 && out.dim() == 3 && bias.dim() == 3, "qkv, bias and out must have three dimensions");
  const int64_t windows = qkv.size(0), tokens = qkv.size(1), heads = bias.size(0);
  STD_TORCH_CHECK(
      qkv.scalar_type() == out.scalar_type() && (qkv.scalar_type() == ScalarType::Float || qkv.scalar_type() == ScalarType::BFloat16) &&
          bias.scalar_type() == ScalarType::Float,
      "qkv and out must be both float32 or both bfloat16, the bias float32"
  );
  STD_TORCH_CHECK(
      qkv.size(2) == 3 * heads * window_channels && bias.size(1) == tokens && bias.size(2) == tokens && out.size(0) == windows &&
          out.size(1) == tokens && out.size(2) == heads * window_channels && tokens > 0,
      "qkv must be (W, T, 3 * heads * 32), bias (heads, T, T), out (W, T, heads * 32)"
  );
  STD_TORCH_CHECK(qkv.is_contiguous() && out.is_contiguous() && bias.is_contiguous(), "all must be contiguous");
  const WindowKernels& chosen = kernels();
  const int64_t columns = (tokens + chosen.group - 1) / chosen.group * chosen.group;
  std::vector<float> padded(heads * tokens * columns, -1e30f);
  const float* from = static_cast<const float*>(bias.const_data_ptr());
  for (int64_t row = 0; row < heads * tokens; ++row)
    for (int64_t j = 0; j < tokens; ++j) padded[row * columns + j] = from[row * tokens + j];
  const WindowJob job{qkv.const_data_ptr(), padded.data(), out.mutable_data_ptr(), tokens, heads, columns};
  const auto kernel = qkv.scalar_type() == ScalarType::Float ? chosen.floats : chosen.bfloats;
  torch::stable::parallel_for(0, windows, 1, [&](int64_t begin, int64_t end) {
    const auto scratch = uninitialized<float>(window_scratch(tokens, columns));
    for (int64_t window = begin; window < end; ++window) kernel(job, window, scratch.get());
  });
}

}  // namespace
}  // namespace proscale

STABLE_TORCH_LIBRARY_FRAGMENT(proscale, m) { m.def("window_attention(Tensor qkv, Tensor bias, Tensor(a!) out) -> ()"); }

STABLE_TORCH_LIBRARY_IMPL(proscale, CPU, m) { m.impl("window_attention", TORCH_BOX(&proscale::window_attention)); }
