// Panoptic: the query that wins each pixel. score * sigmoid(logit) is greatest where (1 + e^-logit) / score is least, which needs no
// division: that is a query's cost.
#include "masks_common.h"

namespace proscale::PROSCALE_SET {
namespace {

// Times 1 / score.
inline F32 cost(F32 logit) { return 1.0f + exponential(-logit); }

// Step 1: least and greatest logit of every query under the tile.
inline void bound_queries(const MaskJob& job, const Tile& t, const PanopticScratch& s) {
  for (int64_t q = job.queries; q < padded_to_lanes(job.queries); ++q) s.low[q] = s.high[q] = 0;
  for (int32_t q = 0; q < job.queries; ++q) tile_bounds(job, t, q, s.low + q, s.high + q);
}

// Step 2: who may fall below the least cost that is certain everywhere. Returns how many, in query order.
inline int32_t find_candidates(const MaskJob& job, const PanopticScratch& s) {
  float limit = INFINITY;
  for (int64_t q = 0; q < job.queries; q += lanes) {
    const F32 worst = cost(load<F32>(s.low + q));
    for (int i = 0; i < lanes && q + i < job.queries; ++i) {
      const float value = worst[i] * job.inverse[q + i];
      limit = value < limit ? value : limit;
    }
  }
  int32_t count = 0;
  for (int64_t q = 0; q < job.queries; q += lanes) {
    const F32 best = cost(load<F32>(s.high + q)) * (1 - slack);
    for (int i = 0; i < lanes && q + i < job.queries; ++i)
      if (!(best[i] * job.inverse[q + i] > limit)) s.candidates[count++] = (int32_t)(q + i);
  }
  return count;
}

// Step 3: pixels in the own masks of queries that lie wholly inside, or cannot win here. The others are counted with the winners.
inline void add_own_areas(const MaskJob& job, const Tile& t, const PanopticScratch& s, int32_t count, int64_t* own) {
  const float threshold = job.threshold;
  for (int32_t q = 0, c = 0; q < job.queries; ++q) {
    const bool is_candidate = c < count && s.candidates[c] == q;
    c += is_candidate;
    if (s.low[q] >= threshold) {
      own[q] += (int64_t)t.rows * t.columns;
    } else if (!is_candidate && s.high[q] >= threshold) {
      resize_columns(job, t, q, s.resized);
      I32 inside = {};
      for (int32_t y = 0; y < t.rows; ++y) {
        const Row row(job, t, y);
        for (int b = 0; b < blocks; ++b) inside -= (I32)(row(s.resized, b) >= threshold) & t.in_picture[b];
      }
      for (int i = 0; i < lanes; ++i) own[q] += inside[i];
    }
  }
}

// Step 4: codes of the tile, row by row, and the candidates' pixels inside their own masks, per lane.
inline void find_winners(const MaskJob& job, const Tile& t, const PanopticScratch& s, int32_t count, int16_t* codes) {
  const int64_t each = resized_floats(job);
  const float threshold = job.threshold;
  for (int32_t c = 0; c < count; ++c) resize_columns(job, t, s.candidates[c], s.resized + c * each);
  memset(s.inside, 0, sizeof(int32_t) * most_lanes * count);
  for (int32_t y = 0; y < t.rows; ++y) {
    const Row row(job, t, y);
    for (int first = 0; first < blocks; first += blocks_at_once) {
      F32 best[blocks_at_once];
      I32 code[blocks_at_once];
      for (int b = 0; b < blocks_at_once; ++b) best[b] = all<F32>(INFINITY), code[b] = I32{};
      for (int32_t c = 0; c < count; ++c) {
        const float inverse = job.inverse[s.candidates[c]];
        I32 inside = {};
        for (int b = 0; b < blocks_at_once; ++b) {
          const F32 logit = row(s.resized + c * each, first + b);
          const I32 in = logit >= threshold;
          const F32 value = count == 1 ? F32{} : cost(logit) * inverse;
          const I32 better = value < best[b];
          best[b] = better ? value : best[b];
          code[b] = better ? 2 * s.candidates[c] - in : code[b];
          inside -= in & t.in_picture[first + b];
        }
        store(s.inside + c * lanes, load<I32>(s.inside + c * lanes) + inside);
      }
      for (int b = 0; b < blocks_at_once; ++b) {
        store(codes + y * stripe_width + (first + b) * lanes, __builtin_convertvector(code[b], I16));
      }
    }
  }
}

}  // namespace

void panoptic(const MaskJob& job, int32_t stripe, float* scratch, int16_t* codes, int64_t* own) {
  const PanopticScratch s = lay_out<PanopticScratch>(job, scratch);
  alignas(64) int16_t rows[tile_rows * stripe_width];
  for (int32_t y0 = 0; y0 < job.rows.count; y0 += tile_rows) {
    const Tile t = tile_at(job, stripe, y0);
    bound_queries(job, t, s);
    const int32_t count = find_candidates(job, s), first = s.candidates[0];
    add_own_areas(job, t, s, count, own);
    const bool all_inside = s.low[first] >= job.threshold, all_outside = s.high[first] < job.threshold;
    if (count == 1 && (all_inside || all_outside)) {
      fill((int16_t)(2 * first + all_inside), t, job.rows.count, codes);
      continue;
    }
    find_winners(job, t, s, count, rows);
    for (int32_t c = 0; c < count; ++c)
      if (!(s.low[s.candidates[c]] >= job.threshold))
        for (int i = 0; i < lanes; ++i) own[s.candidates[c]] += s.inside[c * lanes + i];
    transpose(rows, t, job.rows.count, codes);
  }
}

}  // namespace proscale::PROSCALE_SET
