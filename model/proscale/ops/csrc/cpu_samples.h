// Where the samples of a query lie, and how much the pixels around each weigh: vectors over samples. Part of cpu_kernel.cpp.
#pragma once

#include "cpu_halves.h"
#include "cpu_kernel.h"

namespace proscale::PROSCALE_SET {
namespace {

// A vector of the arithmetic type; and the one for queries of few samples. With AVX-512 that is half a register, which some processors
// compute in half the time.
template <class A>
struct Lanes;
template <>
struct Lanes<float> {
  typedef F32 V;
  typedef Vector<float, lanes == 16 ? 8 : lanes> Few;
  static constexpr int count = lanes_of<V>, few = lanes_of<Few>;
};
template <>
struct Lanes<double> {
  typedef F64 V, Few;
  static constexpr int count = lanes_of<V>, few = lanes_of<Few>;
};

// ---- where a query's samples lie

// Walks the queries in order and says where each lies in every level, per sample: base + fraction, pixel centres at whole numbers.
template <class A>
struct Positions {
  const Problem& problem;
  const Plan<A>& plan;
  int64_t batch;
  int32_t level, x, y;  // of the token a query sits on
  const A *base_x, *base_y, *fraction_x, *fraction_y;
  alignas(64) A own_base_x[max_samples], own_base_y[max_samples], own_fraction_x[max_samples], own_fraction_y[max_samples];

  Positions(const Problem& problem, const Plan<A>& plan, int64_t batch, int64_t first) : problem(problem), plan(plan), batch(batch) {
    level = x = y = 0;
    if (!problem.reference_points) {
      while (level + 1 < problem.levels && first >= problem.level[level + 1].start) ++level;
      const int64_t token = first - problem.level[level].start;
      y = (int32_t)(token / problem.level[level].width);
      x = (int32_t)(token % problem.level[level].width);
    } else {
      memset(own_base_x, 0, sizeof own_base_x);
      memset(own_base_y, 0, sizeof own_base_y);
      memset(own_fraction_x, 0, sizeof own_fraction_x);
      memset(own_fraction_y, 0, sizeof own_fraction_y);
      base_x = own_base_x, base_y = own_base_y, fraction_x = own_fraction_x, fraction_y = own_fraction_y;
    }
  }

  void at(int64_t query) {
    if (problem.reference_points) {
      const int64_t row = batch * problem.reference_points_batch_stride + query * problem.reference_points_query_stride;
      const A* point = (const A*)problem.reference_points + row;
      int k = 0;
      for (int l = 0; l < problem.levels; ++l) {
        const double px = split((double)point[0] * problem.level[l].width - 0.5);
        const double py = split((double)point[1] * problem.level[l].height - 0.5);
        const double bx = floor(px), by = floor(py);
        for (int p = 0; p < problem.points; ++p, ++k) {
          own_base_x[k] = (A)bx, own_base_y[k] = (A)by;
          own_fraction_x[k] = (A)(px - bx), own_fraction_y[k] = (A)(py - by);
        }
      }
      return;
    }
    const int64_t column = plan.column_start[level] + x, row = plan.row_start[level] + y;
    base_x = plan.column_base + column * plan.padded;
    fraction_x = plan.column_fraction + column * plan.padded;
    base_y = plan.row_base + row * plan.padded;
    fraction_y = plan.row_fraction + row * plan.padded;
    if (++x == problem.level[level].width) {
      x = 0;
      if (++y == problem.level[level].height) y = 0, ++level;
    }
  }

  // Far outside is outside; NaN samples nothing.
  static double split(double position) {
    if (!(position > -1e8)) return -1e8;
    return position > 1e8 ? 1e8 : position;
  }
};

// All samples of a few queries and one head: those of query i from i * padded on.
template <class A>
struct Samples {
  alignas(64) int32_t token[max_samples];  // left upper token of the window
  alignas(64) A corner[4][max_samples];    // what its left upper, right upper, left lower, right lower pixels weigh, attention included
  alignas(64) A attention[max_samples];
};

// For gradients also the weights of the window's two columns and rows, without the attention, and their derivatives by the position.
template <class A>
struct Slopes {
  alignas(64) A x0[max_samples], x1[max_samples], y0[max_samples], y1[max_samples];
  alignas(64) A slope_x0[max_samples], slope_x1[max_samples], slope_y0[max_samples], slope_y1[max_samples];
};

// The weight that a pixel at distance d from the sample has, and its derivative by the sample's position (from the right, as floor has it).
template <class V>
inline V hat(V distance) {
  return greater(1 - magnitude(distance), V{});
}

template <class V>
inline V hat_slope(V distance) {
  const V rising = distance >= -1 ? (distance < 0 ? V{} + 1 : V{}) : V{};
  return distance >= 0 ? (distance < 1 ? V{} - 1 : V{}) : rising;
}

// The columns, or the rows, of as many windows as a vector has lanes.
template <class V>
struct WindowSpan {
  V place, distance;  // of the window's first column, clamped into the level; of the sample from it
  V w0, w1;

  WindowSpan(V offset, V base, V fraction, V last, V second) {
    typedef decltype(V{}[0] + V{}[0]) A;
    const V far = all<V>((A)(1 << 26));  // more than any level; infinities and NaN end there
    const V t = between(fraction + offset, -far, far);
    const V whole = floor_of(t), left = base + whole;
    place = between(left, V{}, last);
    // Inside the window this is the fraction; beside it the weights fall off to zero by themselves.
    distance = (left - place) + (t - whole);
    w0 = hat(distance);
    w1 = hat(distance - 1) * second;
  }
};

constexpr int at_most_a_vector(int count, int lanes) { return count < 0 ? 0 : count < lanes ? count : lanes; }

// Fills in one query. Without slopes the attention is left as it is, and the factor that makes its sum 1 is returned: who sums many
// channels needs it last.
template <class V, bool with_slopes, class A, class S>
inline A locate(
    const Plan<A>& plan, const Positions<A>& at, const S* offsets, const S* logits, int first, Samples<A>& s,
    [[maybe_unused]] Slopes<A>* slopes
) {
  constexpr int width = lanes_of<V>;
  typedef Vector<int32_t, width> Stored;
  V top = all<V>((A)no_logit);
  for (int k = 0; k < plan.padded; k += width) {
    const V logit = load_part<V>(logits + k, at_most_a_vector(plan.samples - k, width)) + load<V>(plan.absent + k);
    store(s.attention + first + k, logit);
    top = greater(logit, top);
  }
  const A highest = largest(top);
  V sum = {};
  for (int k = 0; k < plan.padded; k += width) {
    const V below = load<V>(s.attention + first + k) - highest;
    const V e = below >= -87 ? exponential(below) : V{};  // NaN weighs nothing
    store(s.attention + first + k, e);
    sum += e;
  }
  const A scale = 1 / total(sum);
  for (int k = 0; k < plan.padded; k += width) {
    V weight = load<V>(s.attention + first + k);
    if constexpr (with_slopes) {
      weight *= scale;
      store(s.attention + first + k, weight);
    }
    const int pairs = 2 * (plan.samples - k);
    V dx, dy;
    deinterleave(
        load_part<V>(offsets + 2 * k, at_most_a_vector(pairs, width)),
        load_part<V>(offsets + 2 * k + (pairs > width ? width : 0), at_most_a_vector(pairs - width, width)), dx, dy
    );
    const WindowSpan<V> x(dx, load<V>(at.base_x + k), load<V>(at.fraction_x + k), load<V>(plan.last_x + k), load<V>(plan.second_x + k));
    const WindowSpan<V> y(dy, load<V>(at.base_y + k), load<V>(at.fraction_y + k), load<V>(plan.last_y + k), load<V>(plan.second_y + k));
    const Stored column = __builtin_convertvector(x.place, Stored), row = __builtin_convertvector(y.place, Stored);
    store(s.token + first + k, load<Stored>(plan.start + k) + row * load<Stored>(plan.width + k) + column);
    const V upper = weight * y.w0, lower = weight * y.w1;
    store(s.corner[0] + first + k, upper * x.w0);
    store(s.corner[1] + first + k, upper * x.w1);
    store(s.corner[2] + first + k, lower * x.w0);
    store(s.corner[3] + first + k, lower * x.w1);
    if constexpr (with_slopes) {
      store(slopes->x0 + first + k, x.w0), store(slopes->x1 + first + k, x.w1);
      store(slopes->y0 + first + k, y.w0), store(slopes->y1 + first + k, y.w1);
      store(slopes->slope_x0 + first + k, hat_slope(x.distance));
      store(slopes->slope_x1 + first + k, hat_slope(x.distance - 1) * load<V>(plan.second_x + k));
      store(slopes->slope_y0 + first + k, hat_slope(y.distance));
      store(slopes->slope_y1 + first + k, hat_slope(y.distance - 1) * load<V>(plan.second_y + k));
    }
  }
  return scale;
}

}  // namespace
}  // namespace proscale::PROSCALE_SET
