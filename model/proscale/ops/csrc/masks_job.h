// From tensors to a checked MaskJob. Part of masks_op.cpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "masks.h"
#include "runs.h"

namespace proscale {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Where position i of `to` lies in `from`, pixel centres aligned; in float32, as torch rounds it.
struct Place {
  int32_t first, second;
  float share;  // of the second
};

Place place(int64_t i, int64_t from, int64_t to) {
  if (from == to) return {static_cast<int32_t>(i), static_cast<int32_t>(i), 0};
  const float scale = static_cast<float>(from) / static_cast<float>(to);
  const float source = std::max(std::fma(scale, static_cast<float>(i) + 0.5f, -0.5f), 0.0f);
  const int32_t first = static_cast<int32_t>(std::min<int64_t>(static_cast<int64_t>(source), from - 1));
  const int32_t second = static_cast<int32_t>(std::min<int64_t>(first + 1, from - 1));
  return {first, second, std::min(source - static_cast<float>(first), 1.0f)};
}

// Owns the arrays of a Resizing.
class ResizingTable {
 public:
  // One resizing of `source` to `padded`, cut to `resized`, and then, unless `only_first`, another to `output`.
  ResizingTable(int64_t source, int64_t padded, int64_t resized, int64_t output, bool only_first) {
    const int64_t count = only_first ? resized : output;
    start(count);
    for (int64_t i = 0; i < count; ++i) {
      const Place last = only_first ? Place{static_cast<int32_t>(i), static_cast<int32_t>(i), 0} : place(i, resized, output);
      const Place a = place(last.first, source, padded), b = place(last.second, source, padded);
      const int64_t base = std::min<int64_t>(a.first, source - 3);
      double weight[3] = {};
      const double second = last.share, first = 1 - second;
      weight[a.first - base] += first * (1 - static_cast<double>(a.share)), weight[a.second - base] += first * a.share;
      STD_TORCH_CHECK(b.second - base < 3 || second == 0, "masks that shrink on the way to the padded size are not compiled");
      if (second != 0) {
        weight[b.first - base] += second * (1 - static_cast<double>(b.share)), weight[b.second - base] += second * b.share;
      }
      put(i, base, weight);
    }
    finish();
  }

  // One resizing of at least 2 positions.
  ResizingTable(int64_t source, int64_t output) {
    start(output);
    for (int64_t i = 0; i < output; ++i) {
      const Place p = place(i, source, output);
      const int64_t base = std::min<int64_t>(p.first, source - 2);
      double weight[3] = {};
      weight[p.first - base] += 1 - static_cast<double>(p.share), weight[p.second - base] += p.share;
      put(i, base, weight);
    }
    finish();
  }

  ResizingTable(const ResizingTable&) = delete;
  Resizing resizing{};

 private:
  std::vector<int32_t> base_;
  std::vector<float> weights_[3];

  void start(int64_t count) {
    resizing.count = static_cast<int32_t>(count);
    base_.resize(count + stripe_width);
    for (auto& weights : weights_) weights.resize(count + stripe_width);
  }
  void put(int64_t i, int64_t base, const double* weight) {
    base_[i] = static_cast<int32_t>(base);
    for (int k = 0; k < 3; ++k) weights_[k][i] = static_cast<float>(weight[k]);
  }
  void finish() {
    std::fill(base_.begin() + resizing.count, base_.end(), base_[resizing.count - 1]);
    resizing.base = base_.data();
    for (int k = 0; k < 3; ++k) resizing.weight[k] = weights_[k].data();
  }
};

// Checks what came in, and owns what the job points to.
struct CheckedMasks {
  Tensor logits;
  ResizingTable rows, columns;
  MaskJob job{};
  int64_t height, width, stripes;

  CheckedMasks(const Tensor& mask_logits, const std::vector<int64_t>& sizes, bool combine_first)
      : logits(torch::stable::contiguous(checked(mask_logits, sizes))),
        rows(logits.size(1), sizes[0], sizes[2], sizes[4], combine_first),
        columns(logits.size(2), sizes[1], sizes[3], sizes[5], combine_first),
        height(sizes[4]),
        width(sizes[5]),
        stripes((width + stripe_width - 1) / stripe_width) {
    job.logits = static_cast<const float*>(logits.const_data_ptr());
    job.queries = static_cast<int32_t>(logits.size(0));
    job.height = static_cast<int32_t>(logits.size(1)), job.width = static_cast<int32_t>(logits.size(2));
    job.rows = rows.resizing, job.columns = columns.resizing;
    for (int32_t y = 0; y < job.rows.count; y += tile_rows) {
      const int32_t last = std::min(y + tile_rows, job.rows.count) - 1;
      job.window = std::max(job.window, job.rows.base[last] + 3 - job.rows.base[y]);
    }
  }

  static const Tensor& checked(const Tensor& mask_logits, const std::vector<int64_t>& sizes) {
    STD_TORCH_CHECK(
        mask_logits.dim() == 3 && mask_logits.scalar_type() == ScalarType::Float, "mask logits must be (N, h, w) of float32"
    );
    STD_TORCH_CHECK(sizes.size() == 6, "sizes must be padded, resized and output (height, width): 6 numbers, not ", sizes.size());
    for (int i = 0; i < 2; ++i) {
      const int64_t source = mask_logits.size(1 + i);
      STD_TORCH_CHECK(
          source >= 3 && sizes[i] >= source && sizes[2 + i] >= 2 && sizes[2 + i] <= sizes[i] && sizes[4 + i] >= 1,
          "masks of ", source, " rows or columns, padded to ", sizes[i], ", of which ", sizes[2 + i], " are the picture, resized to ",
          sizes[4 + i], ": not compiled"
      );
    }
    STD_TORCH_CHECK(sizes[4] * sizes[5] < std::numeric_limits<int32_t>::max(), "more pixels than 31 bits count");
    STD_TORCH_CHECK(mask_logits.size(0) < (1 << 14), "more queries than 14 bits count");
    return mask_logits;
  }

  int64_t columns_of(int64_t stripe) const { return std::min<int64_t>(stripe_width, width - stripe * stripe_width); }
};

}  // namespace
}  // namespace proscale
