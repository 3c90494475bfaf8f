// Runs: what masks are on their way to COCO run-length encoding. Positions count column by column, from the top left pixel down.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <cstring>
#include <vector>

namespace proscale {

struct Run {
  int32_t start, end;  // end is behind the last pixel
  int32_t code;        // value of a map, or index of a mask
};

// Appends the runs of equal values in `count` values, the first of which lies at `position`. Four or eight values are compared at once.
template <class T>
void append_runs(const T* values, int64_t count, int64_t position, std::vector<Run>& runs) {
  constexpr int64_t step = 8 / sizeof(T);
  for (int64_t i = 0; i < count;) {
    const T value = values[i];
    uint64_t repeated = 0;
    for (int64_t k = 0; k < step; ++k) std::memcpy(reinterpret_cast<char*>(&repeated) + k * sizeof(T), &value, sizeof(T));
    int64_t end = i + 1;
    for (uint64_t word; end + step <= count; end += step) {
      std::memcpy(&word, values + end, 8);
      if (word != repeated) break;
    }
    while (end < count && values[end] == value) ++end;
    if (!runs.empty() && runs.back().end == position + i && runs.back().code == static_cast<int32_t>(value)) {
      runs.back().end = static_cast<int32_t>(position + end);
    } else {
      runs.push_back({static_cast<int32_t>(position + i), static_cast<int32_t>(position + end), static_cast<int32_t>(value)});
    }
    i = end;
  }
}

// Lists of runs, one after the other, as a tensor (R, 3) int32.
inline torch::stable::Tensor join(const torch::stable::Tensor& like, const std::vector<std::vector<Run>>& parts) {
  size_t count = 0;
  for (const auto& part : parts) count += part.size();
  torch::stable::Tensor out =
      torch::stable::new_empty(like, std::vector<int64_t>{static_cast<int64_t>(count), 3}, torch::headeronly::ScalarType::Int);
  if (!count) return out;
  Run* to = static_cast<Run*>(out.mutable_data_ptr());
  for (const auto& part : parts) {
    if (!part.empty()) std::memcpy(to, part.data(), part.size() * sizeof(Run));
    to += part.size();
  }
  return out;
}

}  // namespace proscale
