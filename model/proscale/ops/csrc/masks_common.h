// What the mask kernels share: bounds of logits, tiles, resizing. Part of masks_panoptic.cpp, masks_instance.cpp, masks_semantic.cpp.
//
// What is sampled between logits lies between their least and their greatest. So a tile's queries and classes are first bounded by the
// logits under it, and only those that can still win a pixel are computed there: inside and outside of objects that is one or two.
#pragma once

#include "masks.h"
#include "masks_scratch.h"
#include "simd.h"

namespace proscale::PROSCALE_SET {
namespace {

constexpr int blocks = stripe_width / lanes;  // vectors of a stripe
// Vectors of a row that are worked on together: as many as leave registers for what each needs.
constexpr int blocks_at_once = vector_registers == 32 ? 4 : 2;
constexpr float slack = 1e-5f;  // of bounds, relative: a hundred times what rounding can add to a weighted mean

inline F32 sigmoid(F32 x) { return 1.0f / (1.0f + exponential(-x)); }

// The sum of three values times their weights.
inline F32 weighted(F32 a, F32 wa, F32 b, F32 wb, F32 c, F32 wc) { return multiply_add(c, wc, multiply_add(a, wa, b * wb)); }

inline float sigmoid_of(float x) { return 1.0f / (1.0f + expf(-x)); }

// Lane after lane, so that the sum is the same for every width of a vector that holds the same numbers.
inline float sum_in_order(F32 v) {
  float sum = 0;
  for (int i = 0; i < lanes; ++i) sum += v[i];
  return sum;
}

// Least and greatest logit of one query in a window, with slack for rounding.
inline void bounds(const MaskJob& job, int32_t query, int32_t row, int32_t rows, int32_t column, int32_t columns, float* low, float* high) {
  const float* p = job.logits + ((int64_t)query * job.height + row) * job.width + column;
  float least = p[0], most = p[0];
  if (columns >= lanes) {
    F32 a = load<F32>(p), b = a;
    for (int32_t y = 0; y < rows; ++y, p += job.width) {
      for (int32_t x = 0; x < columns; x += lanes) {
        const F32 v = load<F32>(p + (x + lanes <= columns ? x : columns - lanes));
        a = smaller(a, v), b = greater(b, v);
      }
    }
    for (int i = 0; i < lanes; ++i) least = a[i] < least ? a[i] : least, most = b[i] > most ? b[i] : most;
  } else {
    for (int32_t y = 0; y < rows; ++y, p += job.width)
      for (int32_t x = 0; x < columns; ++x) least = p[x] < least ? p[x] : least, most = p[x] > most ? p[x] : most;
  }
  const float size = fabsf(least) > fabsf(most) ? fabsf(least) : fabsf(most);
  *low = least - slack * (size + 1), *high = most + slack * (size + 1);
}

// One row of `limit` values resized along `axis`: positions from..from + lanes.
inline F32 resize_row(const float* row, int32_t limit, const Resizing& axis, int32_t from) {
  const F32 w0 = load<F32>(axis.weight[0] + from), w1 = load<F32>(axis.weight[1] + from), w2 = load<F32>(axis.weight[2] + from);
#if defined(__AVX512F__)
  const int32_t first = axis.base[from], reach = axis.base[from + lanes - 1] + 3 - first;
  if (reach <= 2 * lanes) {
    const int32_t there = limit - first;
    const __mmask16 near = there >= lanes ? 0xffff : (__mmask16)((1u << there) - 1);
    const __m512 a = _mm512_maskz_loadu_ps(near, row + first);
    const __m512i place = _mm512_sub_epi32(_mm512_loadu_si512(axis.base + from), _mm512_set1_epi32(first));
    const __m512i second = _mm512_add_epi32(place, _mm512_set1_epi32(1)), third = _mm512_add_epi32(place, _mm512_set1_epi32(2));
    if (reach <= lanes) {
      return weighted(
          (F32)_mm512_permutexvar_ps(place, a), w0, (F32)_mm512_permutexvar_ps(second, a), w1, (F32)_mm512_permutexvar_ps(third, a), w2
      );
    }
    const int32_t beyond = there - lanes;
    const __mmask16 far = beyond >= lanes ? 0xffff : beyond > 0 ? (__mmask16)((1u << beyond) - 1) : 0;
    const __m512 b = _mm512_maskz_loadu_ps(far, row + first + lanes);
    return weighted(
        (F32)_mm512_permutex2var_ps(a, place, b), w0, (F32)_mm512_permutex2var_ps(a, second, b), w1,
        (F32)_mm512_permutex2var_ps(a, third, b), w2
    );
  }
#elif defined(__AVX2__)
  // Where the picture grows, all that a vector reads is in one vector, which begins where it ends within the row.
  const int32_t first = axis.base[from], reach = axis.base[from + lanes - 1] + 3 - first;
  const int32_t begin = first <= limit - lanes ? first : limit - lanes;
  if (begin >= 0 && first - begin + reach <= lanes) {
    const __m256 a = _mm256_loadu_ps(row + begin);
    const __m256i place = _mm256_sub_epi32(_mm256_loadu_si256((const __m256i*)(axis.base + from)), _mm256_set1_epi32(begin));
    const __m256i second = _mm256_add_epi32(place, _mm256_set1_epi32(1)), third = _mm256_add_epi32(place, _mm256_set1_epi32(2));
    return weighted(
        (F32)_mm256_permutevar8x32_ps(a, place), w0, (F32)_mm256_permutevar8x32_ps(a, second), w1,
        (F32)_mm256_permutevar8x32_ps(a, third), w2
    );
  }
#else
  (void)limit;
#endif
  F32 s0 = {}, s1 = {}, s2 = {};
  for (int i = 0; i < lanes; ++i) {
    const float* p = row + axis.base[from + i];
    s0[i] = p[0], s1[i] = p[1], s2[i] = p[2];
  }
  return weighted(s0, w0, s1, w1, s2, w2);
}

// One tile: output pixels and the window of logits under it.
struct Tile {
  int32_t x0, columns, y0, rows;                      // output
  int32_t from_y, rows_under, from_x, columns_under;  // logits
  I32 in_picture[blocks];                             // lanes that are columns of the picture
};

// The output pixels alone.
inline Tile tile_of(const Resizing& rows, const Resizing& columns, int32_t stripe, int32_t y0) {
  Tile t{};
  t.x0 = stripe * stripe_width, t.y0 = y0;
  t.columns = columns.count - t.x0 < stripe_width ? columns.count - t.x0 : stripe_width;
  t.rows = rows.count - y0 < tile_rows ? rows.count - y0 : tile_rows;
  for (int b = 0; b < blocks; ++b)
    for (int i = 0; i < lanes; ++i) t.in_picture[b][i] = b * lanes + i < t.columns ? -1 : 0;
  return t;
}

inline Tile tile_at(const MaskJob& job, int32_t stripe, int32_t y0) {
  Tile t = tile_of(job.rows, job.columns, stripe, y0);
  t.from_y = job.rows.base[y0], t.rows_under = job.rows.base[y0 + t.rows - 1] + 3 - t.from_y;
  t.from_x = job.columns.base[t.x0], t.columns_under = job.columns.base[t.x0 + t.columns - 1] + 3 - t.from_x;
  return t;
}

inline void tile_bounds(const MaskJob& job, const Tile& t, int32_t query, float* low, float* high) {
  bounds(job, query, t.from_y, t.rows_under, t.from_x, t.columns_under, low, high);
}

// The rows of logits under a tile, resized to the stripe's columns: (rows_under, stripe_width).
inline void resize_columns(const MaskJob& job, const Tile& t, int32_t query, float* to) {
  const float* row = job.logits + ((int64_t)query * job.height + t.from_y) * job.width;
  for (int32_t y = 0; y < t.rows_under; ++y, row += job.width)
    for (int b = 0; b < blocks; ++b, to += lanes) store(to, resize_row(row, job.width, job.columns, t.x0 + b * lanes));
}

// One row of a tile: where its rows of logits begin among those that `resize_columns` made, and their weights.
struct Row {
  int32_t offset;
  F32 w0, w1, w2;
  Row(const MaskJob& job, const Tile& t, int32_t y) {
    const int32_t at = t.y0 + y;
    offset = (job.rows.base[at] - t.from_y) * stripe_width;
    w0 = all<F32>(job.rows.weight[0][at]), w1 = all<F32>(job.rows.weight[1][at]), w2 = all<F32>(job.rows.weight[2][at]);
  }
  F32 operator()(const float* resized, int block) const {
    const float* p = resized + offset + block * lanes;
    return weighted(load<F32>(p), w0, load<F32>(p + stripe_width), w1, load<F32>(p + 2 * stripe_width), w2);
  }
};

// A tile's codes, row by row, to their place in the stripe's, column by column.
inline void transpose(const int16_t* rows, const Tile& t, int32_t height, int16_t* codes) {
  for (int32_t x = 0; x < t.columns; ++x) {
    int16_t* to = codes + (int64_t)x * height + t.y0;
    for (int32_t y = 0; y < t.rows; ++y) to[y] = rows[y * stripe_width + x];
  }
}

inline void fill(int16_t code, const Tile& t, int32_t height, int16_t* codes) {
  for (int32_t x = 0; x < t.columns; ++x) {
    int16_t* to = codes + (int64_t)x * height + t.y0;
    for (int32_t y = 0; y < t.rows; ++y) to[y] = code;
  }
}

}  // namespace
}  // namespace proscale::PROSCALE_SET
