// Instance: one query's mask as bits, and the sum of its probabilities inside.
#include "masks_common.h"

namespace proscale::PROSCALE_SET {
namespace {

constexpr float saturated = 17.4f;  // sigmoid is 1 in float32

}  // namespace

double instance(const MaskJob& job, int32_t query, int32_t stripe, float* scratch, uint32_t* words) {
  const InstanceScratch s = lay_out<InstanceScratch>(job, scratch);
  const int32_t tiles = (job.rows.count + tile_rows - 1) / tile_rows;
  const float threshold = job.threshold;
  double sum = 0;
  for (int32_t tile = 0; tile < tiles; ++tile) {
    const Tile t = tile_at(job, stripe, tile * tile_rows);
    float low, high;
    tile_bounds(job, t, query, &low, &high);
    const bool nothing = !(high > threshold), everything = low > threshold && low > saturated;
    if (nothing || everything) {
      const uint32_t word = nothing ? 0 : t.rows == tile_rows ? 0xffffffffu : (1u << t.rows) - 1;
      for (int32_t x = 0; x < t.columns; ++x) words[(int64_t)x * tiles + tile] = word;
      if (everything) sum += (double)t.rows * t.columns;
      continue;
    }
    resize_columns(job, t, query, s.resized);
    for (int first = 0; first < blocks; first += blocks_at_once) {
      I32 bits[blocks_at_once] = {};
      F32 inside[blocks_at_once] = {};
      for (int32_t y = 0; y < t.rows; ++y) {
        const Row row(job, t, y);
        const int32_t bit = (int32_t)(1u << y);
        for (int b = 0; b < blocks_at_once; ++b) {
          const F32 logit = row(s.resized, first + b);
          const I32 in = (logit > threshold) & t.in_picture[first + b];
          bits[b] |= in & bit;
          inside[b] += in ? sigmoid(logit) : F32{};
        }
      }
      for (int b = 0; b < blocks_at_once; ++b) {
        sum += sum_in_order(inside[b]);
        const int32_t x0 = (first + b) * lanes;
        for (int i = 0; i < lanes && x0 + i < t.columns; ++i) words[(int64_t)(x0 + i) * tiles + tile] = (uint32_t)bits[b][i];
      }
    }
  }
  return sum;
}

}  // namespace proscale::PROSCALE_SET
