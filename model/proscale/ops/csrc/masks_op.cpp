// proscale::panoptic_runs, instance_runs, semantic_runs: stride-4 mask logits -> runs of the answer. Tables, threads and dispatch.
#include "masks.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <tuple>

#include "runs.h"

extern "C" const char* proscale_cpu_capability();

namespace proscale {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

const MaskKernels& kernels() {
#ifdef PROSCALE_X86
  const char* name = proscale_cpu_capability();
  if (std::strcmp(name, "avx512") == 0) return mask_kernels_avx512();
  if (std::strcmp(name, "avx2") == 0) return mask_kernels_avx2();
#endif
  return mask_kernels_plain();
}

struct Free {
  void operator()(void* p) const { std::free(p); }
};

std::unique_ptr<float[], Free> floats(int64_t count) {
  void* p = std::aligned_alloc(64, (static_cast<size_t>(count) * sizeof(float) + 127) / 64 * 64);
  STD_TORCH_CHECK(p != nullptr, "out of memory for masks");
  return std::unique_ptr<float[], Free>(static_cast<float*>(p));
}

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

// Owns the arrays of an Axis.
class AxisTable {
 public:
  // One resizing of `source` to `padded`, cut to `resized`, and then, unless `only_first`, another to `output`.
  AxisTable(int64_t source, int64_t padded, int64_t resized, int64_t output, bool only_first) {
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
  AxisTable(int64_t source, int64_t output) {
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

  AxisTable(const AxisTable&) = delete;
  Axis axis{};

 private:
  std::vector<int32_t> base_;
  std::vector<float> weights_[3];

  void start(int64_t count) {
    axis.count = static_cast<int32_t>(count);
    base_.resize(count + stripe_width);
    for (auto& weights : weights_) weights.resize(count + stripe_width);
  }
  void put(int64_t i, int64_t base, const double* weight) {
    base_[i] = static_cast<int32_t>(base);
    for (int k = 0; k < 3; ++k) weights_[k][i] = static_cast<float>(weight[k]);
  }
  void finish() {
    std::fill(base_.begin() + axis.count, base_.end(), base_[axis.count - 1]);
    axis.base = base_.data();
    for (int k = 0; k < 3; ++k) axis.weight[k] = weights_[k].data();
  }
};

// Checks what came in, and owns what the job points to.
struct Masks {
  Tensor logits;
  AxisTable rows, columns;
  MaskJob job{};
  int64_t height, width, stripes;

  Masks(const Tensor& mask_logits, const std::vector<int64_t>& sizes, bool combine_first)
      : logits(torch::stable::contiguous(checked(mask_logits, sizes))),
        rows(logits.size(1), sizes[0], sizes[2], sizes[4], combine_first),
        columns(logits.size(2), sizes[1], sizes[3], sizes[5], combine_first),
        height(sizes[4]),
        width(sizes[5]),
        stripes((width + stripe_width - 1) / stripe_width) {
    job.logits = static_cast<const float*>(logits.const_data_ptr());
    job.queries = static_cast<int32_t>(logits.size(0));
    job.height = static_cast<int32_t>(logits.size(1)), job.width = static_cast<int32_t>(logits.size(2));
    job.rows = rows.axis, job.columns = columns.axis;
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

int64_t vectors(int64_t count) { return (count + 15) / 16 * 16; }

// (runs (R, 3) of codes 2 * query + inside its own mask, 0 based; areas (N, 3): pixels won, those of them inside, own mask)
std::tuple<Tensor, Tensor> panoptic_runs(
    const Tensor& mask_logits, const Tensor& scores, const std::vector<int64_t>& sizes, double threshold
) {
  Masks masks(mask_logits, sizes, false);
  MaskJob& job = masks.job;
  const int64_t n = job.queries;
  STD_TORCH_CHECK(
      scores.dim() == 1 && scores.size(0) == n && n > 0 && scores.scalar_type() == ScalarType::Float, "one float32 score per mask"
  );
  const Tensor packed = torch::stable::contiguous(scores);
  std::vector<float> inverse(n);
  for (int64_t q = 0; q < n; ++q) inverse[q] = 1 / static_cast<const float*>(packed.const_data_ptr())[q];
  job.inverse = inverse.data(), job.threshold = static_cast<float>(threshold);
  std::vector<std::vector<Run>> runs(masks.stripes);
  std::vector<std::vector<int64_t>> areas(masks.stripes);
  const int64_t room = n * job.window * stripe_width + vectors(n) * (3 + 16);
  torch::stable::parallel_for(0, masks.stripes, 1, [&](int64_t begin, int64_t end) {
    const auto scratch = floats(room);
    std::vector<int16_t> codes(masks.height * stripe_width);
    for (int64_t stripe = begin; stripe < end; ++stripe) {
      std::vector<int64_t>& own = areas[stripe];
      own.assign(3 * n, 0);
      kernels().panoptic(job, static_cast<int32_t>(stripe), scratch.get(), codes.data(), own.data() + 2 * n);
      append_runs(codes.data(), masks.columns_of(stripe) * masks.height, stripe * stripe_width * masks.height, runs[stripe]);
      for (const Run& run : runs[stripe]) {
        own[run.code / 2] += run.end - run.start;
        if (run.code % 2) own[n + run.code / 2] += run.end - run.start;
      }
    }
  });
  Tensor out = torch::stable::new_empty(packed, std::vector<int64_t>{n, 3}, ScalarType::Long);
  int64_t* to = static_cast<int64_t*>(out.mutable_data_ptr());
  std::fill(to, to + 3 * n, 0);
  for (const auto& part : areas)
    for (int64_t q = 0; q < n; ++q)
      for (int k = 0; k < 3; ++k) to[3 * q + k] += part[k * n + q];
  return {join(packed, runs), out};
}

// Runs of ones in a stripe's bits: words (columns, tiles), lowest bit on top.
void bit_runs(const uint32_t* words, int64_t columns, int64_t height, int64_t position, int32_t code, std::vector<Run>& runs) {
  const int64_t tiles = (height + tile_rows - 1) / tile_rows;
  uint32_t before = 0;
  for (int64_t x = 0; x < columns; ++x) {
    for (int64_t tile = 0; tile < tiles; ++tile, ++words) {
      const int64_t rows = std::min<int64_t>(tile_rows, height - tile * tile_rows);
      const uint32_t there = rows == tile_rows ? ~uint32_t{0} : (uint32_t{1} << rows) - 1;
      uint32_t changes = (*words ^ ((*words << 1) | before)) & there;
      before = (*words >> (rows - 1)) & 1;
      const int64_t at = position + x * height + tile * tile_rows;
      for (; changes; changes &= changes - 1) {
        const int32_t change = static_cast<int32_t>(at + __builtin_ctz(changes));
        if (runs.empty() || runs.back().end >= 0) {
          runs.push_back({change, -1, code});  // open
        } else {
          runs.back().end = change;
        }
      }
    }
  }
  if (!runs.empty() && runs.back().end < 0) runs.back().end = static_cast<int32_t>(position + columns * height);
}

// (runs (R, 3) of pixels inside a query's mask; sums (N, 2) float64: pixels inside, sum of their probabilities)
std::tuple<Tensor, Tensor> instance_runs(const Tensor& mask_logits, const std::vector<int64_t>& sizes, double threshold) {
  Masks masks(mask_logits, sizes, false);
  MaskJob& job = masks.job;
  const int64_t n = job.queries, items = n * masks.stripes, tiles = (masks.height + tile_rows - 1) / tile_rows;
  job.threshold = static_cast<float>(threshold);
  std::vector<std::vector<Run>> runs(items);
  std::vector<double> sums(items);
  torch::stable::parallel_for(0, items, 1, [&](int64_t begin, int64_t end) {
    const auto scratch = floats(static_cast<int64_t>(job.window) * stripe_width);
    std::vector<uint32_t> words(tiles * stripe_width);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t query = item / masks.stripes, stripe = item % masks.stripes;
      sums[item] = kernels().instance(job, static_cast<int32_t>(query), static_cast<int32_t>(stripe), scratch.get(), words.data());
      bit_runs(
          words.data(), masks.columns_of(stripe), masks.height, stripe * stripe_width * masks.height, static_cast<int32_t>(query), runs[item]
      );
    }
  });
  Tensor out = torch::stable::new_empty(masks.logits, std::vector<int64_t>{n, 2}, ScalarType::Double);
  double* to = static_cast<double*>(out.mutable_data_ptr());
  for (int64_t q = 0; q < n; ++q) {
    double area = 0, sum = 0;
    for (int64_t item = q * masks.stripes; item < (q + 1) * masks.stripes; ++item) {
      for (const Run& run : runs[item]) area += run.end - run.start;
      sum += sums[item];
    }
    to[2 * q] = area, to[2 * q + 1] = sum;
  }
  return {join(masks.logits, runs), out};
}

// (runs (R, 3) of best classes; sums (K, 2) float64: pixels, sum of the class's shares over them)
std::tuple<Tensor, Tensor> semantic_runs(
    const Tensor& mask_logits, const Tensor& probabilities, const std::vector<int64_t>& sizes, bool combine_first
) {
  Masks masks(mask_logits, sizes, combine_first);
  MaskJob& job = masks.job;
  const int64_t n = job.queries;
  STD_TORCH_CHECK(
      probabilities.dim() == 2 && probabilities.size(0) == n && n > 0 && probabilities.size(1) > 0 &&
          probabilities.size(1) < (1 << 15) && probabilities.scalar_type() == ScalarType::Float,
      "class probabilities must be (N, K) of float32"
  );
  const Tensor packed = torch::stable::contiguous(probabilities);
  const int64_t k = packed.size(1), padded = vectors(k);
  const float* from = static_cast<const float*>(packed.const_data_ptr());
  std::vector<float> weights(n * padded), totals(n);
  for (int64_t q = 0; q < n; ++q) {
    double total = 0;
    for (int64_t c = 0; c < k; ++c) total += weights[q * padded + c] = from[q * k + c];
    totals[q] = static_cast<float>(total);
  }
  job.weights = weights.data(), job.totals = totals.data();
  job.classes = static_cast<int32_t>(k), job.padded_classes = static_cast<int32_t>(padded), job.combine_first = combine_first;
  std::unique_ptr<AxisTable> last_rows, last_columns;
  int64_t room = 2 * vectors(n) + 3 * padded + vectors((k + 1) * n);  // ClassRoom
  if (combine_first) {
    last_rows = std::make_unique<AxisTable>(sizes[2], sizes[4]), last_columns = std::make_unique<AxisTable>(sizes[3], sizes[5]);
    job.last_rows = last_rows->axis, job.last_columns = last_columns->axis;
    for (int64_t x = 0; x < masks.width; x += stripe_width) {
      const int64_t last = std::min<int64_t>(x + stripe_width, masks.width) - 1;
      job.span = std::max(job.span, job.last_columns.base[last] + 2 - job.last_columns.base[x]);
    }
    job.span = static_cast<int32_t>(vectors(job.span));
    room += vectors(job.width + 16) + n * job.span + 2 * (k + 1) * job.span + job.span + 16 + (k + 1) * stripe_width;
  } else {
    room += n * (job.window + 1) * stripe_width + (k + 1) * stripe_width;
  }
  std::vector<std::vector<Run>> runs(masks.stripes);
  std::vector<std::vector<double>> shares(masks.stripes);
  torch::stable::parallel_for(0, masks.stripes, 1, [&](int64_t begin, int64_t end) {
    const auto scratch = floats(room);
    std::vector<int16_t> codes(masks.height * stripe_width);
    for (int64_t stripe = begin; stripe < end; ++stripe) {
      shares[stripe].assign(k, 0);
      kernels().semantic(job, static_cast<int32_t>(stripe), scratch.get(), codes.data(), shares[stripe].data());
      append_runs(codes.data(), masks.columns_of(stripe) * masks.height, stripe * stripe_width * masks.height, runs[stripe]);
    }
  });
  Tensor out = torch::stable::new_empty(packed, std::vector<int64_t>{k, 2}, ScalarType::Double);
  double* to = static_cast<double*>(out.mutable_data_ptr());
  std::fill(to, to + 2 * k, 0);
  for (int64_t stripe = 0; stripe < masks.stripes; ++stripe) {
    for (const Run& run : runs[stripe]) to[2 * run.code] += run.end - run.start;
    for (int64_t c = 0; c < k; ++c) to[2 * c + 1] += shares[stripe][c];
  }
  return {join(packed, runs), out};
}

}  // namespace
}  // namespace proscale

STABLE_TORCH_LIBRARY_FRAGMENT(proscale, m) {
  m.def("panoptic_runs(Tensor mask_logits, Tensor scores, int[] sizes, float threshold) -> (Tensor, Tensor)");
  m.def("instance_runs(Tensor mask_logits, int[] sizes, float threshold) -> (Tensor, Tensor)");
  m.def("semantic_runs(Tensor mask_logits, Tensor probabilities, int[] sizes, bool combine_first) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(proscale, CPU, m) {
  m.impl("panoptic_runs", TORCH_BOX(&proscale::panoptic_runs));
  m.impl("instance_runs", TORCH_BOX(&proscale::instance_runs));
  m.impl("semantic_runs", TORCH_BOX(&proscale::semantic_runs));
}
