// From tensors to a checked Problem; shared by the CPU and the CUDA operator.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <limits>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "problem.h"

namespace proscale {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Type type_of(const Tensor& tensor, const char* name) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return Type::f32;
    case ScalarType::Double: return Type::f64;
    case ScalarType::Half: return Type::f16;
    case ScalarType::BFloat16: return Type::bf16;
    default: STD_TORCH_CHECK(false, "ms_deform_attn: ", name, " must be float32, float64, float16 or bfloat16");
  }
  return Type::f32;
}

// Trailing dimensions from `first` on lie next to each other.
inline bool dense_from(const Tensor& tensor, int64_t first) {
  int64_t expected = 1;
  for (int64_t i = tensor.dim() - 1; i >= first; --i) {
    if (tensor.size(i) != 1 && tensor.stride(i) != expected) return false;
    expected *= tensor.size(i);
  }
  return true;
}

// Holds what the Problem points to. Views of one projection's output stay views; only inner gaps cost a copy.
struct Arguments {
  Tensor value, offsets, logits;
  std::optional<Tensor> reference_points;
  std::vector<Level> levels;
  Problem problem{};

  Arguments(
      const Tensor& value_, const Tensor& offsets_, const Tensor& logits_, const std::vector<int64_t>& spatial_shapes,
      const std::optional<Tensor>& reference_points_
  )
      : value(value_), offsets(offsets_), logits(logits_), reference_points(reference_points_) {
    STD_TORCH_CHECK(value.dim() == 4, "ms_deform_attn: value must be (B, N, heads, d), got ", value.dim(), " dimensions");
    STD_TORCH_CHECK(
        offsets.dim() == 6, "ms_deform_attn: offsets must be (B, Q, heads, levels, points, 2), got ", offsets.dim(), " dimensions"
    );
    STD_TORCH_CHECK(logits.dim() == 4, "ms_deform_attn: logits must be (B, Q, heads, levels * points), got ", logits.dim(), " dimensions");
    Problem& p = problem;
    p.batch = value.size(0), p.tokens = value.size(1), p.queries = offsets.size(1);
    p.heads = static_cast<int32_t>(value.size(2)), p.channels = static_cast<int32_t>(value.size(3));
    p.levels = static_cast<int32_t>(offsets.size(3)), p.points = static_cast<int32_t>(offsets.size(4));
    STD_TORCH_CHECK(p.channels >= 1 && p.channels <= 64, "ms_deform_attn: heads of 1 to 64 channels are compiled, got ", p.channels);
    STD_TORCH_CHECK(
        spatial_shapes.size() == 2 * static_cast<size_t>(p.levels), "ms_deform_attn: spatial_shapes has ", spatial_shapes.size(),
        " numbers, offsets ", p.levels, " levels"
    );
    STD_TORCH_CHECK(
        offsets.size(0) == p.batch && offsets.size(2) == p.heads && offsets.size(5) == 2,
        "ms_deform_attn: offsets do not fit value's batch and heads, or do not end in (x, y)"
    );
    STD_TORCH_CHECK(
        logits.size(0) == p.batch && logits.size(1) == p.queries && logits.size(2) == p.heads &&
            logits.size(3) == static_cast<int64_t>(p.levels) * p.points,
        "ms_deform_attn: logits must be (", p.batch, ", ", p.queries, ", ", p.heads, ", ", p.levels * p.points, ")"
    );
    STD_TORCH_CHECK(p.tokens < std::numeric_limits<int32_t>::max(), "ms_deform_attn: more tokens per picture than 32 bits count");
    int64_t start = 0;
    for (int32_t l = 0; l < p.levels; ++l) {
      const int64_t height = spatial_shapes[2 * l], width = spatial_shapes[2 * l + 1];
      STD_TORCH_CHECK(
          height > 0 && width > 0 && height < (1 << 24) && width < (1 << 24), "ms_deform_attn: level ", l, " is ", height, " by ", width
      );
      levels.push_back({static_cast<int32_t>(height), static_cast<int32_t>(width), static_cast<int32_t>(start)});
      start += height * width;
      STD_TORCH_CHECK(start <= p.tokens, "ms_deform_attn: spatial_shapes do not add up to the ", p.tokens, " tokens of value");
    }
    STD_TORCH_CHECK(start == p.tokens, "ms_deform_attn: spatial_shapes do not add up to the ", p.tokens, " tokens of value");
    p.level = levels.data();

    p.value_type = type_of(value, "value"), p.sampling_type = type_of(offsets, "offsets");
    STD_TORCH_CHECK(type_of(logits, "logits") == p.sampling_type, "ms_deform_attn: offsets and logits must have one dtype");
    const bool half = p.value_type == Type::f16 || p.value_type == Type::bf16;
    STD_TORCH_CHECK(
        p.sampling_type == p.value_type || (half && p.sampling_type == Type::f32),
        "ms_deform_attn: offsets and logits must have value's dtype, or float32 beside a half precision value"
    );
    if (reference_points) {
      const Tensor& r = *reference_points;
      STD_TORCH_CHECK(
          r.dim() == 3 && (r.size(0) == p.batch || r.size(0) == 1) && r.size(1) == p.queries && r.size(2) == 2,
          "ms_deform_attn: reference_points must be (B or 1, Q, 2)"
      );
      STD_TORCH_CHECK(
          type_of(r, "reference_points") == (p.value_type == Type::f64 ? Type::f64 : Type::f32),
          "ms_deform_attn: reference_points must be float32 (float64 beside a float64 value): halves cannot tell pixels apart"
      );
      if (!dense_from(r, 2)) reference_points = torch::stable::contiguous(r);
      p.reference_points = reference_points->const_data_ptr();
      p.reference_points_batch_stride = reference_points->size(0) == 1 ? 0 : reference_points->stride(0);
      p.reference_points_query_stride = reference_points->stride(1);
    } else {
      STD_TORCH_CHECK(p.queries == p.tokens, "ms_deform_attn: without reference_points there is one query per token");
    }
    if (!dense_from(value, 3)) value = torch::stable::contiguous(value);
    if (!dense_from(offsets, 3)) offsets = torch::stable::contiguous(offsets);
    if (!dense_from(logits, 3)) logits = torch::stable::contiguous(logits);
    p.value = value.const_data_ptr(), p.offsets = offsets.const_data_ptr(), p.logits = logits.const_data_ptr();
    p.value_strides = strides_of(value), p.offsets_strides = strides_of(offsets), p.logits_strides = strides_of(logits);
  }

  Arguments(const Arguments&) = delete;  // problem points into levels
  Arguments& operator=(const Arguments&) = delete;

 private:
  static Strides strides_of(const Tensor& tensor) { return {tensor.stride(0), tensor.stride(1), tensor.stride(2)}; }
};

}  // namespace proscale
