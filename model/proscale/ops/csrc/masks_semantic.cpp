// Semantic: the class of greatest score at each pixel; a score is the sum over queries of class probability x mask probability.
#include "masks_common.h"

namespace proscale::PROSCALE_SET {
namespace {

// Sums over queries: rows_at_once rows of weights (rows, queries) x so many vectors of columns of probabilities (queries, step).
template <int rows_at_once, int vectors>
inline void products(const float* weights, int32_t queries, const float* probabilities, int64_t step, float* out, int64_t out_step) {
  F32 sum[rows_at_once][vectors] = {};
  for (int32_t q = 0; q < queries; ++q, probabilities += step) {
    F32 p[vectors];
    for (int b = 0; b < vectors; ++b) p[b] = load<F32>(probabilities + b * lanes);
    for (int k = 0; k < rows_at_once; ++k)
      for (int b = 0; b < vectors; ++b) sum[k][b] += p[b] * weights[(int64_t)k * queries + q];
  }
  for (int k = 0; k < rows_at_once; ++k)
    for (int b = 0; b < vectors; ++b) store(out + k * out_step + b * lanes, sum[k][b]);
}

// (count, queries) x (queries, width) -> (count, width), width a multiple of the lanes.
inline void multiply(const float* weights, int32_t count, int32_t queries, const float* probabilities, int32_t width, float* out) {
  constexpr int at_once = 4, wide = vector_registers == 32 ? 4 : 2;  // sums that the registers hold beside what is added to them
  for (int32_t k = 0; k < count;) {
    const bool several = k + at_once <= count;
    const float* row = weights + (int64_t)k * queries;
    float* to = out + (int64_t)k * width;
    int32_t x = 0;
    for (; x + wide * lanes <= width; x += wide * lanes) {
      if (several) products<at_once, wide>(row, queries, probabilities + x, width, to + x, width);
      else products<1, wide>(row, queries, probabilities + x, width, to + x, width);
    }
    for (; x < width; x += lanes) {
      if (several) products<at_once, 1>(row, queries, probabilities + x, width, to + x, width);
      else products<1, 1>(row, queries, probabilities + x, width, to + x, width);
    }
    k += several ? at_once : 1;
  }
}

// Bounds of every query's probability in a window of logits.
inline void bound_probabilities(const MaskJob& job, int32_t from_y, int32_t rows, int32_t from_x, int32_t columns, const ClassScratch& s) {
  for (int32_t q = 0; q < job.queries; ++q) {
    bounds(job, q, from_y, rows, from_x, columns, s.low + q, s.high + q);
    s.low[q] = sigmoid_of(s.low[q]), s.high[q] = sigmoid_of(s.high[q]);
  }
}

// Classes that can be the best somewhere, given the bounds of every query's probability, and their weights. Returns how many.
inline int32_t find_candidates(const MaskJob& job, const ClassScratch& s) {
  for (int32_t k = 0; k < job.padded_classes; k += lanes) {
    F32 least = {}, most = {};
    for (int32_t q = 0; q < job.queries; ++q) {
      const F32 w = load<F32>(job.weights + (int64_t)q * job.padded_classes + k);
      least += w * s.low[q], most += w * s.high[q];
    }
    store(s.least + k, least), store(s.most + k, most);
  }
  float certain = 0;
  for (int32_t k = 0; k < job.classes; ++k) certain = s.least[k] > certain ? s.least[k] : certain;
  int32_t count = 0;
  for (int32_t k = 0; k < job.classes; ++k)
    if (!(s.most[k] * (1 + slack) < certain)) s.candidates[count++] = k;
  for (int32_t i = 0; i < count; ++i) {
    const float* from = job.weights + s.candidates[i];
    for (int32_t q = 0; q < job.queries; ++q) s.weights[(int64_t)i * job.queries + q] = from[(int64_t)q * job.padded_classes];
  }
  memcpy(s.weights + (int64_t)count * job.queries, job.totals, sizeof(float) * job.queries);
  return count;
}

// The best of scores (count + 1, stripe_width), the last row their sum over all classes: codes, and shares by class.
inline void pick(const float* scores, int32_t count, const int32_t* candidates, const Tile& t, int16_t* codes, double* shares) {
  for (int b = 0; b < blocks; ++b) {
    F32 best = load<F32>(scores + b * lanes);
    I32 code = I32{} + candidates[0];
    for (int32_t i = 1; i < count; ++i) {
      const F32 value = load<F32>(scores + (int64_t)i * stripe_width + b * lanes);
      const I32 better = value > best;
      best = better ? value : best;
      code = better ? I32{} + candidates[i] : code;
    }
    const F32 sum = load<F32>(scores + (int64_t)count * stripe_width + b * lanes);
    const F32 share = best / greater(sum, all<F32>(1e-6f));
    store(codes + b * lanes, __builtin_convertvector(code, I16));
    if (count == 1) {
      shares[candidates[0]] += sum_in_order(t.in_picture[b] ? share : F32{});
    } else {
      for (int i = 0; i < lanes && b * lanes + i < t.columns; ++i) shares[code[i]] += share[i];
    }
  }
}

void masks_first(const MaskJob& job, int32_t stripe, float* scratch, int16_t* codes, double* shares) {
  const MasksFirstScratch s = lay_out<MasksFirstScratch>(job, scratch);
  const int64_t each = resized_floats(job);
  alignas(64) int16_t best[tile_rows * stripe_width];
  for (int32_t y0 = 0; y0 < job.rows.count; y0 += tile_rows) {
    const Tile t = tile_at(job, stripe, y0);
    bound_probabilities(job, t.from_y, t.rows_under, t.from_x, t.columns_under, s.classes);
    const int32_t count = find_candidates(job, s.classes);
    for (int32_t q = 0; q < job.queries; ++q) resize_columns(job, t, q, s.resized + q * each);
    for (int32_t y = 0; y < t.rows; ++y) {
      const Row row(job, t, y);
      for (int32_t q = 0; q < job.queries; ++q)
        for (int b = 0; b < blocks; ++b) store(s.probabilities + q * stripe_width + b * lanes, sigmoid(row(s.resized + q * each, b)));
      multiply(s.classes.weights, count + 1, job.queries, s.probabilities, stripe_width, s.scores);
      pick(s.scores, count, s.classes.candidates, t, best + y * stripe_width, shares);
    }
    transpose(best, t, job.rows.count, codes);
  }
}

// What lies under a tile where scores are made first.
struct Beneath {
  int32_t x_from, width;                  // columns of the resized picture; in whole vectors
  int32_t from_y, rows, from_x, columns;  // logits

  Beneath(const MaskJob& job, const Tile& t) {
    const Resizing &across = job.last_columns, &down = job.last_rows;
    x_from = across.base[t.x0];
    const int32_t x_last = across.base[t.x0 + t.columns - 1] + 1, y_last = down.base[t.y0 + t.rows - 1] + 1;
    width = (x_last + 1 - x_from + lanes - 1) / lanes * lanes;
    from_y = job.rows.base[down.base[t.y0]], rows = job.rows.base[y_last] + 3 - from_y;
    from_x = job.columns.base[x_from], columns = job.columns.base[x_last] + 3 - from_x;
  }
};

// Scores of one row of the resized picture: (count + 1, width).
void score_row(const MaskJob& job, const Beneath& under, const ScoresFirstScratch& s, int32_t count, int32_t at, float* to) {
  const float w0 = job.rows.weight[0][at], w1 = job.rows.weight[1][at], w2 = job.rows.weight[2][at];
  const int32_t end_x = under.from_x + under.columns;
  for (int32_t q = 0; q < job.queries; ++q) {
    const float* p = job.logits + ((int64_t)q * job.height + job.rows.base[at]) * job.width;
    for (int32_t x = under.from_x; x < end_x; ++x) s.line[x] = p[x] * w0 + p[x + job.width] * w1 + p[x + 2 * job.width] * w2;
    for (int32_t x = 0; x < under.width; x += lanes)
      store(s.probabilities + (int64_t)q * under.width + x, sigmoid(resize_row(s.line, job.width, job.columns, under.x_from + x)));
  }
  multiply(s.classes.weights, count + 1, job.queries, s.probabilities, under.width, to);
}

// One output row of scores (count + 1, stripe_width) between two rows of the resized picture.
void resize_scores(const MaskJob& job, const Tile& t, const Beneath& under, const ScoresFirstScratch& s, int32_t count, int32_t y) {
  const float w0 = job.last_rows.weight[0][y], w1 = job.last_rows.weight[1][y];
  store(s.mixed + under.width, F32{});  // is read with no weight
  for (int32_t i = 0; i <= count; ++i) {
    const float *a = s.upper + (int64_t)i * under.width, *b = s.lower + (int64_t)i * under.width;
    for (int32_t x = 0; x < under.width; x += lanes) store(s.mixed + x, load<F32>(a + x) * w0 + load<F32>(b + x) * w1);
    // Bases count from the picture's left edge; what is behind `width` has no weight.
    const float* const row = s.mixed - under.x_from;
    const int32_t limit = under.x_from + under.width + lanes;
    for (int block = 0; block < blocks; ++block) {
      store(s.scores + (int64_t)i * stripe_width + block * lanes, resize_row(row, limit, job.last_columns, t.x0 + block * lanes));
    }
  }
}

void scores_first(const MaskJob& job, int32_t stripe, float* scratch, int16_t* codes, double* shares) {
  ScoresFirstScratch s = lay_out<ScoresFirstScratch>(job, scratch);
  const Resizing& rows = job.last_rows;
  alignas(64) int16_t best[tile_rows * stripe_width];
  memset(s.line, 0, sizeof(float) * (job.width + most_lanes));
  for (int32_t y0 = 0; y0 < rows.count; y0 += tile_rows) {
    const Tile t = tile_of(rows, job.last_columns, stripe, y0);
    const Beneath under(job, t);
    bound_probabilities(job, under.from_y, under.rows, under.from_x, under.columns, s.classes);
    const int32_t count = find_candidates(job, s.classes);
    int32_t in_upper = -1, in_lower = -1;  // which rows of the resized picture are there
    for (int32_t y = 0; y < t.rows; ++y) {
      const int32_t at = rows.base[y0 + y];
      if (in_upper != at) {
        if (in_lower == at) {
          float* const other = s.upper;
          s.upper = s.lower, s.lower = other, in_lower = in_upper;
        } else {
          score_row(job, under, s, count, at, s.upper);
        }
        in_upper = at;
      }
      if (in_lower != at + 1) score_row(job, under, s, count, at + 1, s.lower), in_lower = at + 1;
      resize_scores(job, t, under, s, count, y0 + y);
      pick(s.scores, count, s.classes.candidates, t, best + y * stripe_width, shares);
    }
    transpose(best, t, rows.count, codes);
  }
}

}  // namespace

void semantic(const MaskJob& job, int32_t stripe, float* scratch, int16_t* codes, double* shares) {
  (job.combine_first ? scores_first : masks_first)(job, stripe, scratch, codes, shares);
}

}  // namespace proscale::PROSCALE_SET
