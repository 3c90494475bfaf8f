// What all queries of a Problem have in common, worked out once: constants per sample, and where columns and rows lie in every level.
#pragma once

#include <algorithm>
#include <vector>

#include "aligned.h"
#include "cpu_kernel.h"

namespace proscale {

// Fills a Plan and owns its arrays.
template <class A>
class PlanTables {
 public:
  Plan<A> plan{};

  PlanTables(const Problem& problem, const Kernels<A>& kernels) {
    plan.samples = problem.levels * problem.points;
    plan.few = plan.samples <= kernels.few_lanes;
    const int32_t lanes = plan.few ? kernels.few_lanes : kernels.lanes;
    plan.padded = (plan.samples + lanes - 1) / lanes * lanes;
    // Of the counts that cpu_kernel.cpp has instances for.
    plan.padded_channels = problem.channels <= 8 ? 8 : problem.channels <= 16 ? 16 : problem.channels <= 32 ? 32 : 64;

    // Padding lanes belong to a level of one pixel with no weight.
    constants_.assign(2 * static_cast<size_t>(plan.padded), 0);
    factors_.assign(5 * static_cast<size_t>(plan.padded), 0);
    int32_t *const width = constants_.data(), *const start = width + plan.padded;
    A* factor[5];
    for (int i = 0; i < 5; ++i) factor[i] = factors_.data() + i * plan.padded;
    for (int32_t k = 0; k < plan.samples; ++k) {
      const Level& level = problem.level[k / problem.points];
      width[k] = level.width, start[k] = level.start;
      factor[0][k] = static_cast<A>(std::max(level.width - 2, 0)), factor[1][k] = static_cast<A>(std::max(level.height - 2, 0));
      factor[2][k] = level.width > 1 ? 1 : 0, factor[3][k] = level.height > 1 ? 1 : 0;
    }
    std::fill(factor[4] + plan.samples, factor[4] + plan.padded, static_cast<A>(no_logit));
    for (int32_t l = 0; l < problem.levels; ++l) steps_.push_back(problem.level[l].width > 1 ? 1 : 0);
    for (int32_t l = 0; l < problem.levels; ++l) steps_.push_back(problem.level[l].height > 1 ? problem.level[l].width : 0);
    plan.width = width, plan.start = start, plan.step_x = steps_.data(), plan.step_y = steps_.data() + problem.levels;
    plan.last_x = factor[0], plan.last_y = factor[1], plan.second_x = factor[2], plan.second_y = factor[3], plan.absent = factor[4];

    if (!problem.reference_points) {
      centres(problem, &Level::width, columns_);
      centres(problem, &Level::height, rows_);
      plan.column_base = columns_.base.data(), plan.column_fraction = columns_.fraction.data(), plan.column_start = columns_.start.data();
      plan.row_base = rows_.base.data(), plan.row_fraction = rows_.fraction.data(), plan.row_start = rows_.start.data();
    }
  }

 private:
  struct Centres {
    std::vector<int32_t> start;
    AlignedVector<A> base, fraction;
  };
  Centres columns_, rows_;
  std::vector<int32_t> steps_;
  AlignedVector<int32_t> constants_;
  AlignedVector<A> factors_;

  // Centre i + 1/2 of `from` pixels lies at ((2i + 1) to - from) / (2 from) in a level of `to` pixels: whole part and rest, exactly.
  void centres(const Problem& problem, int32_t Level::* size, Centres& found) const {
    int32_t start = 0;
    for (int32_t source = 0; source < problem.levels; ++source) {
      const int64_t from = problem.level[source].*size;
      found.start.push_back(start);
      start += static_cast<int32_t>(from);
      for (int64_t i = 0; i < from; ++i) {
        const size_t first = found.base.size();
        found.base.resize(first + plan.padded), found.fraction.resize(first + plan.padded);
        for (int32_t l = 0; l < problem.levels; ++l) {
          const int64_t to = problem.level[l].*size, numerator = (2 * i + 1) * to - from, denominator = 2 * from;
          const int64_t base = numerator >= 0 ? numerator / denominator : -((-numerator + denominator - 1) / denominator);
          const size_t at = first + static_cast<size_t>(l) * problem.points;
          const A fraction = static_cast<A>(numerator - base * denominator) / static_cast<A>(denominator);
          std::fill_n(found.base.begin() + at, problem.points, static_cast<A>(base));
          std::fill_n(found.fraction.begin() + at, problem.points, fraction);
        }
      }
    }
  }
};

}  // namespace proscale
