// proscale::quantise, norm_quantise: floats -> bytes. Checks, threads and dispatch.
#include <algorithm>
#include <vector>

#include "instruction_set.h"
#include "quantise.h"
#include "runs.h"

namespace proscale {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t bytes_at_once = 1 << 14;

const QuantiseKernels& kernels() {
#ifdef PROSCALE_X86
  if (instruction_set() == InstructionSet::avx512) return avx512::quantise_kernels;
  if (instruction_set() == InstructionSet::avx2) return avx2::quantise_kernels;
#endif
  return plain::quantise_kernels;
}

ByteScale scale_of(double scale, int64_t zero_point) {
  STD_TORCH_CHECK(scale > 0, "a scale must be above 0");
  STD_TORCH_CHECK(zero_point >= 0 && zero_point <= 255, "a zero point must be a byte");
  return {static_cast<float>(1 / scale), static_cast<float>(zero_point)};
}

void check_floats(const Tensor& x) {
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::BFloat16, "floats must be float32 or bfloat16");
}

Tensor bytes_like(const Tensor& x) {
  const auto sizes = x.sizes();
  return torch::stable::new_empty(x, std::vector<int64_t>(sizes.begin(), sizes.end()), ScalarType::Byte);
}

// x (...) float32 or bfloat16 -> the same shape of uint8
Tensor quantise(const Tensor& x, double scale, int64_t zero_point) {
  check_floats(x);
  const ByteScale bytes = scale_of(scale, zero_point);
  const Tensor packed = torch::stable::contiguous(x);
  Tensor out = bytes_like(packed);
  const int64_t count = packed.numel();
  const bool halves = packed.scalar_type() == ScalarType::BFloat16;
  const void* from = packed.const_data_ptr();
  uint8_t* to = static_cast<uint8_t*>(out.mutable_data_ptr());
  torch::stable::parallel_for(0, count, bytes_at_once, [&](int64_t begin, int64_t end) {
    if (halves) {
      kernels().bfloats(static_cast<const uint16_t*>(from) + begin, end - begin, bytes, to + begin);
    } else {
      kernels().floats(static_cast<const float*>(from) + begin, end - begin, bytes, to + begin);
    }
  });
  return out;
}

// x (..., C) float32 or bfloat16, weight and bias (C) float32 -> the same shape of uint8
Tensor norm_quantise(const Tensor& x, const Tensor& weight, const Tensor& bias, double epsilon, double scale, int64_t zero_point) {
  check_floats(x);
  const ByteScale bytes = scale_of(scale, zero_point);
  const int64_t channels = x.dim() ? x.size(x.dim() - 1) : 0;
  for (const Tensor* each : {&weight, &bias}) {
    STD_TORCH_CHECK(
        each->dim() == 1 && each->size(0) == channels && each->scalar_type() == ScalarType::Float && channels > 0,
        "weight and bias of the norm must be float32, one per channel"
    );
  }
  const Tensor packed = torch::stable::contiguous(x), weights = torch::stable::contiguous(weight), biases = torch::stable::contiguous(bias);
  Tensor out = bytes_like(packed);
  const Norm norm{
      static_cast<const float*>(weights.const_data_ptr()), static_cast<const float*>(biases.const_data_ptr()), static_cast<float>(epsilon),
      channels
  };
  const bool halves = packed.scalar_type() == ScalarType::BFloat16;
  const void* from = packed.const_data_ptr();
  uint8_t* to = static_cast<uint8_t*>(out.mutable_data_ptr());
  const int64_t grain = std::max<int64_t>(1, bytes_at_once / channels);
  torch::stable::parallel_for(0, packed.numel() / channels, grain, [&](int64_t begin, int64_t end) {
    const int64_t at = begin * channels;
    if (halves) {
      kernels().normed_bfloats(static_cast<const uint16_t*>(from) + at, end - begin, norm, bytes, to + at);
    } else {
      kernels().normed_floats(static_cast<const float*>(from) + at, end - begin, norm, bytes, to + at);
    }
  });
  return out;
}

}  // namespace
}  // namespace proscale

STABLE_TORCH_LIBRARY_FRAGMENT(proscale, m) {
  m.def("quantise(Tensor x, float scale, int zero_point) -> Tensor");
  m.def("norm_quantise(Tensor x, Tensor weight, Tensor bias, float epsilon, float scale, int zero_point) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(proscale, CPU, m) {
  m.impl("quantise", TORCH_BOX(&proscale::quantise));
  m.impl("norm_quantise", TORCH_BOX(&proscale::norm_quantise));
}
