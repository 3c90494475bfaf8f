// What every implementation of the operator is given. Plain data: it crosses into translation units built for other instruction sets.
#pragma once

#include <cstdint>

namespace proscale {

enum class Type : int32_t { f32, f64, f16, bf16 };

// Element strides of the leading dimensions; the trailing ones lie next to each other.
struct Strides {
  int64_t batch, row, head;
};

struct Level {
  int32_t height, width;
  int32_t start;  // index of the level's first token
};

// The base and the fraction of a position are kept apart: position = base + fraction, so that no digit is spent on the size of the picture.
// `value` (B, N, heads, channels), `offsets` (B, Q, heads, levels * points, 2), `logits` (B, Q, heads, levels * points),
// `reference_points` (B, Q, 2) or nullptr: query q sits on token q. `out` and the gradients are laid out without gaps.
struct Problem {
  int64_t batch, tokens, queries;
  int32_t heads, channels, levels, points;
  Type value_type, sampling_type;  // of value, out and their gradients; of offsets, logits and theirs
  const void* value;
  const void* offsets;
  const void* logits;
  const void* reference_points;  // float, or double where value is
  const void* out_gradient;
  void* out;
  void* value_gradient;
  void* offsets_gradient;
  void* logits_gradient;
  Strides value_strides, offsets_strides, logits_strides;
  int64_t reference_points_batch_stride, reference_points_query_stride;
  const Level* level;  // host memory
};

}  // namespace proscale
