// proscale::panoptic_runs, instance_runs, semantic_runs: stride-4 mask logits -> runs of the answer. Threads and dispatch.
#include <algorithm>
#include <optional>
#include <tuple>

#include "aligned.h"
#include "instruction_set.h"
#include "masks_job.h"
#include "masks_scratch.h"

namespace proscale {
namespace {

const MaskKernels& kernels() {
#ifdef PROSCALE_X86
  if (instruction_set() == InstructionSet::avx512) return avx512::mask_kernels;
  if (instruction_set() == InstructionSet::avx2) return avx2::mask_kernels;
#endif
  return plain::mask_kernels;
}

// (runs (R, 3) of codes 2 * query + inside its own mask, 0 based; areas (N, 3): pixels won, those of them inside, own mask)
std::tuple<Tensor, Tensor> panoptic_runs(
    const Tensor& mask_logits, const Tensor& scores, const std::vector<int64_t>& sizes, double threshold
) {
  CheckedMasks masks(mask_logits, sizes, false);
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
  const int64_t room = scratch_floats<PanopticScratch>(job);
  torch::stable::parallel_for(0, masks.stripes, 1, [&](int64_t begin, int64_t end) {
    const auto scratch = uninitialized<float>(room);
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
  CheckedMasks masks(mask_logits, sizes, false);
  MaskJob& job = masks.job;
  const int64_t n = job.queries, items = n * masks.stripes, tiles = (masks.height + tile_rows - 1) / tile_rows;
  job.threshold = static_cast<float>(threshold);
  std::vector<std::vector<Run>> runs(items);
  std::vector<double> sums(items);
  torch::stable::parallel_for(0, items, 1, [&](int64_t begin, int64_t end) {
    const auto scratch = uninitialized<float>(scratch_floats<InstanceScratch>(job));
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
  CheckedMasks masks(mask_logits, sizes, combine_first);
  MaskJob& job = masks.job;
  const int64_t n = job.queries;
  STD_TORCH_CHECK(
      probabilities.dim() == 2 && probabilities.size(0) == n && n > 0 && probabilities.size(1) > 0 &&
          probabilities.size(1) < (1 << 15) && probabilities.scalar_type() == ScalarType::Float,
      "class probabilities must be (N, K) of float32"
  );
  const Tensor packed = torch::stable::contiguous(probabilities);
  const int64_t k = packed.size(1), padded = padded_to_lanes(k);
  const float* from = static_cast<const float*>(packed.const_data_ptr());
  std::vector<float> weights(n * padded), totals(n);
  for (int64_t q = 0; q < n; ++q) {
    double total = 0;
    for (int64_t c = 0; c < k; ++c) total += weights[q * padded + c] = from[q * k + c];
    totals[q] = static_cast<float>(total);
  }
  job.weights = weights.data(), job.totals = totals.data();
  job.classes = static_cast<int32_t>(k), job.padded_classes = static_cast<int32_t>(padded), job.combine_first = combine_first;
  std::optional<ResizingTable> last_rows, last_columns;
  if (combine_first) {
    last_rows.emplace(sizes[2], sizes[4]), last_columns.emplace(sizes[3], sizes[5]);
    job.last_rows = last_rows->resizing, job.last_columns = last_columns->resizing;
    for (int64_t x = 0; x < masks.width; x += stripe_width) {
      const int64_t last = std::min<int64_t>(x + stripe_width, masks.width) - 1;
      job.span = std::max(job.span, job.last_columns.base[last] + 2 - job.last_columns.base[x]);
    }
    job.span = static_cast<int32_t>(padded_to_lanes(job.span));
  }
  const int64_t room = combine_first ? scratch_floats<ScoresFirstScratch>(job) : scratch_floats<MasksFirstScratch>(job);
  std::vector<std::vector<Run>> runs(masks.stripes);
  std::vector<std::vector<double>> shares(masks.stripes);
  torch::stable::parallel_for(0, masks.stripes, 1, [&](int64_t begin, int64_t end) {
    const auto scratch = uninitialized<float>(room);
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
