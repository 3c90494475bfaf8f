// The operator on one core. cpu_kernel.cpp is compiled once per instruction set; cpu_op.cpp picks a table when it runs.
#pragma once

#include "problem.h"

namespace proscale {

constexpr int max_samples = 512;  // levels * points; bounds the arrays on the stack
constexpr double no_logit = -1e30;  // of lanes that hold no sample: e^no_logit is 0, and no_logit - no_logit is not NaN

// Per sample k of a query, padded to whole vectors: constants of its level, and where each query column or row lies in it.
// A is the type of the arithmetic: float, or double for double inputs.
template <class A>
struct Plan {
  int32_t samples, padded;  // levels * points; rounded up to whole vectors
  bool few;                 // samples fit the kernels' smaller vectors
  int32_t padded_channels;  // elements between two tokens of a packed head
  const int32_t* width;
  const int32_t* start;
  const A* last_x;  // largest left column of a window: max(width - 2, 0)
  const A* last_y;
  const A* second_x;  // 1, or 0 where there is no second column
  const A* second_y;
  const A* absent;  // 0, or no_logit in the lanes beyond the last sample
  // Queries that sit on their own tokens: for column x of level l, entry (column_start[l] + x) * padded + k. Bases are whole numbers.
  const A* column_base;
  const A* column_fraction;
  const A* row_base;
  const A* row_fraction;
  // Per level.
  const int32_t* step_x;  // tokens to the right neighbour: 1, or 0 where the level has one column
  const int32_t* step_y;
  const int32_t* column_start;
  const int32_t* row_start;
};

template <class A>
struct Kernels {
  int32_t lanes, few_lanes;  // elements of A in a vector; in the vectors for queries of so few samples or fewer
  // Head h of image b as (tokens, padded_channels) of A, channels beyond the head's own zero; tokens begin..end.
  void (*pack)(const Problem&, const Plan<A>&, int64_t b, int64_t h, int64_t begin, int64_t end, A* packed);
  void (*forward)(const Problem&, const Plan<A>&, int64_t b, int64_t h, int64_t begin, int64_t end, const A* packed);
  // All queries of one head, so that nobody else adds to its gradient: no atomics, and the same bits every time.
  void (*backward)(const Problem&, const Plan<A>&, int64_t b, int64_t h, const A* packed, A* gradient);
  // The gradient of head h into (B, N, heads, channels).
  void (*unpack)(const Problem&, const Plan<A>&, int64_t b, int64_t h, const A* gradient);
};

struct KernelSet {
  const char* name;
  Kernels<float> f32;
  Kernels<double> f64;
};

namespace plain {
const KernelSet& kernel_set();
}
#ifdef PROSCALE_X86
namespace avx2 {
const KernelSet& kernel_set();
}
namespace avx512 {
const KernelSet& kernel_set();
}
#endif

}  // namespace proscale
