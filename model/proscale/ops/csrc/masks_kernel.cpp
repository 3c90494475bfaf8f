// The arithmetic of masks.h on one core, in the compiler's vector extensions; built once per instruction set, like cpu_kernel.cpp.
//
// What is sampled between logits lies between their least and their greatest. So a tile's queries and classes are first bounded by the
// logits under it, and only those that can still win a pixel are computed there: inside and outside of objects that is one or two.
//
// Nothing here may be a shared inline function (no C++ library templates): the linker would keep one copy for all instruction sets.
#include "masks.h"

#include <math.h>
#include <string.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#define PROSCALE_JOIN_(a, b) a##b
#define PROSCALE_JOIN(a, b) PROSCALE_JOIN_(a, b)

namespace proscale {
namespace {

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef int16_t i16x16 __attribute__((vector_size(32)));

constexpr int lanes = 16, blocks = stripe_width / lanes;
constexpr float slack = 1e-5f;  // of bounds, relative: a hundred times what rounding can add to a weighted mean
constexpr float saturated = 17.4f;  // sigmoid is 1 in float32

template <class V, class E>
inline V load(const E* p) {
  V v;
  memcpy(&v, p, sizeof v);
  return v;
}

template <class V, class E>
inline void store(E* p, V v) {
  memcpy(p, &v, sizeof v);
}

inline f32x16 all(float x) { return f32x16{} + x; }
inline f32x16 smaller(f32x16 a, f32x16 b) { return a < b ? a : b; }
inline f32x16 greater(f32x16 a, f32x16 b) { return a > b ? a : b; }

inline float total(f32x16 v) {
  float sum = 0;
  for (int i = 0; i < lanes; ++i) sum += v[i];
  return sum;
}

// e^x between e^-87 and e^87: x = n ln 2 + r, |r| <= ln 2 / 2, Taylor to the 7th power (remainder 5e-9).
inline f32x16 exponential(f32x16 x) {
  const f32x16 bounded = greater(smaller(x, all(87.0f)), all(-87.0f));
  const f32x16 shifted = bounded * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the sum's last bits are the rounded whole
  const i32x16 n = (i32x16)shifted - 0x4b400000;
  const f32x16 whole = shifted - 12582912.0f;
  const f32x16 r = (bounded - whole * 0.693359375f) + whole * 2.12194440e-4f;  // ln 2 in two parts; the first product is exact
  f32x16 p = r * (1.0f / 5040) + (1.0f / 720);
  p = p * r + (1.0f / 120);
  p = p * r + (1.0f / 24);
  p = p * r + (1.0f / 6);
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return p * (f32x16)((n + 127) << 23);
}

inline f32x16 sigmoid(f32x16 x) { return 1.0f / (1.0f + exponential(-x)); }

inline float sigmoid_of(float x) { return 1.0f / (1.0f + expf(-x)); }

// Least and greatest logit of one query in a window, with slack for rounding.
inline void bounds(const MaskJob& job, int32_t query, int32_t row, int32_t rows, int32_t column, int32_t columns, float* low, float* high) {
  const float* p = job.logits + ((int64_t)query * job.height + row) * job.width + column;
  float least = p[0], most = p[0];
  if (columns >= lanes) {
    f32x16 a = load<f32x16>(p), b = a;
    for (int32_t y = 0; y < rows; ++y, p += job.width) {
      for (int32_t x = 0; x < columns; x += lanes) {
        const f32x16 v = load<f32x16>(p + (x + lanes <= columns ? x : columns - lanes));
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

// One row of `limit` values resized along `axis`, positions from..from + 16.
inline f32x16 spread(const float* row, int32_t limit, const Axis& axis, int32_t from) {
  const f32x16 w0 = load<f32x16>(axis.weight[0] + from), w1 = load<f32x16>(axis.weight[1] + from), w2 = load<f32x16>(axis.weight[2] + from);
#if defined(__AVX512F__)
  const int32_t first = axis.base[from], reach = axis.base[from + lanes - 1] + 3 - first;
  if (reach <= 2 * lanes) {
    const int32_t there = limit - first;
    const __mmask16 near = there >= lanes ? 0xffff : (__mmask16)((1u << there) - 1);
    const __m512 a = _mm512_maskz_loadu_ps(near, row + first);
    const __m512i place = _mm512_sub_epi32(_mm512_loadu_si512(axis.base + from), _mm512_set1_epi32(first));
    const __m512i second = _mm512_add_epi32(place, _mm512_set1_epi32(1)), third = _mm512_add_epi32(place, _mm512_set1_epi32(2));
    if (reach <= lanes) {
      return w0 * (f32x16)_mm512_permutexvar_ps(place, a) + w1 * (f32x16)_mm512_permutexvar_ps(second, a) +
             w2 * (f32x16)_mm512_permutexvar_ps(third, a);
    }
    const int32_t beyond = there - lanes;
    const __mmask16 far = beyond >= lanes ? 0xffff : beyond > 0 ? (__mmask16)((1u << beyond) - 1) : 0;
    const __m512 b = _mm512_maskz_loadu_ps(far, row + first + lanes);
    return w0 * (f32x16)_mm512_permutex2var_ps(a, place, b) + w1 * (f32x16)_mm512_permutex2var_ps(a, second, b) +
           w2 * (f32x16)_mm512_permutex2var_ps(a, third, b);
  }
#else
  (void)limit;
#endif
  float s0[lanes], s1[lanes], s2[lanes];
  for (int i = 0; i < lanes; ++i) {
    const float* p = row + axis.base[from + i];
    s0[i] = p[0], s1[i] = p[1], s2[i] = p[2];
  }
  return w0 * load<f32x16>(s0) + w1 * load<f32x16>(s1) + w2 * load<f32x16>(s2);
}

// One tile: output pixels and the window of logits under it.
struct Tile {
  int32_t x0, columns, y0, rows;              // output
  int32_t from_y, rows_under, from_x, columns_under;  // logits
};

inline Tile tile_at(const MaskJob& job, int32_t stripe, int32_t y0) {
  Tile t;
  t.x0 = stripe * stripe_width, t.y0 = y0;
  t.columns = job.columns.count - t.x0 < stripe_width ? job.columns.count - t.x0 : stripe_width;
  t.rows = job.rows.count - y0 < tile_rows ? job.rows.count - y0 : tile_rows;
  t.from_y = job.rows.base[y0], t.rows_under = job.rows.base[y0 + t.rows - 1] + 3 - t.from_y;
  t.from_x = job.columns.base[t.x0], t.columns_under = job.columns.base[t.x0 + t.columns - 1] + 3 - t.from_x;
  return t;
}

inline void tile_bounds(const MaskJob& job, const Tile& t, int32_t query, float* low, float* high) {
  bounds(job, query, t.from_y, t.rows_under, t.from_x, t.columns_under, low, high);
}

// The rows of logits under a tile, resized to the stripe's columns: (rows_under, stripe_width).
inline void widen(const MaskJob& job, const Tile& t, int32_t query, float* to) {
  const float* row = job.logits + ((int64_t)query * job.height + t.from_y) * job.width;
  for (int32_t y = 0; y < t.rows_under; ++y, row += job.width)
    for (int b = 0; b < blocks; ++b, to += lanes) store(to, spread(row, job.width, job.columns, t.x0 + b * lanes));
}

// One row of a tile: where its rows of logits begin, and their weights.
struct Row {
  int32_t offset;
  float w0, w1, w2;
  Row(const MaskJob& job, const Tile& t, int32_t y) {
    const int32_t at = t.y0 + y;
    offset = (job.rows.base[at] - t.from_y) * stripe_width;
    w0 = job.rows.weight[0][at], w1 = job.rows.weight[1][at], w2 = job.rows.weight[2][at];
  }
  f32x16 operator()(const float* widened, int block) const {
    const float* p = widened + offset + block * lanes;
    return load<f32x16>(p) * w0 + load<f32x16>(p + stripe_width) * w1 + load<f32x16>(p + 2 * stripe_width) * w2;
  }
};

// Lanes of a block that are columns of the picture.
inline void mark_columns(int32_t columns, i32x16* valid) {
  for (int b = 0; b < blocks; ++b)
    for (int i = 0; i < lanes; ++i) valid[b][i] = b * lanes + i < columns ? -1 : 0;
}

inline void turn(const int16_t* rows, const Tile& t, int32_t height, int16_t* codes) {
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

// ---- panoptic: score * sigmoid(logit) is greatest where (1 + e^-logit) / score is least, which needs no division

inline f32x16 cost(f32x16 logit, float inverse) { return (1.0f + exponential(-logit)) * inverse; }

// Scratch: widened logits (queries, window, stripe_width); low, high (queries each); counts (queries, lanes).
void panoptic(const MaskJob& job, int32_t stripe, float* scratch, int16_t* codes, int64_t* own) {
  const int64_t each = (int64_t)job.window * stripe_width, padded = (job.queries + lanes - 1) / lanes * lanes;
  float *widened = scratch, *low = widened + job.queries * each, *high = low + padded;
  int32_t *counts = (int32_t*)(high + padded), *able = counts + padded * lanes;
  const float threshold = job.threshold;
  alignas(64) int16_t turned[tile_rows * stripe_width];
  i32x16 valid[blocks];
  for (int32_t y0 = 0; y0 < job.rows.count; y0 += tile_rows) {
    const Tile t = tile_at(job, stripe, y0);
    mark_columns(t.columns, valid);
    for (int64_t q = job.queries; q < padded; ++q) low[q] = high[q] = 0;
    for (int32_t q = 0; q < job.queries; ++q) tile_bounds(job, t, q, low + q, high + q);
    // The least cost that is certain everywhere, and who may fall below it somewhere.
    float limit = INFINITY;
    for (int64_t q = 0; q < job.queries; q += lanes) {
      const f32x16 worst = 1.0f + exponential(-load<f32x16>(low + q));
      for (int i = 0; i < lanes && q + i < job.queries; ++i) {
        const float value = worst[i] * job.inverse[q + i];
        limit = value < limit ? value : limit;
      }
    }
    int32_t count = 0;
    for (int64_t q = 0; q < job.queries; q += lanes) {
      const f32x16 best = (1.0f + exponential(-load<f32x16>(high + q))) * (1 - slack);
      for (int i = 0; i < lanes && q + i < job.queries; ++i)
        if (!(best[i] * job.inverse[q + i] > limit)) able[count++] = (int32_t)(q + i);
    }
    // Own areas of queries that cannot win here.
    for (int32_t q = 0, a = 0; q < job.queries; ++q) {
      const bool wins = a < count && able[a] == q;
      a += wins;
      if (low[q] >= threshold) {
        own[q] += (int64_t)t.rows * t.columns;
      } else if (!wins && high[q] >= threshold) {
        widen(job, t, q, widened);
        i32x16 inside = {};
        for (int32_t y = 0; y < t.rows; ++y) {
          const Row row(job, t, y);
          for (int b = 0; b < blocks; ++b) inside -= (i32x16)(row(widened, b) >= threshold) & valid[b];
        }
        for (int i = 0; i < lanes; ++i) own[q] += inside[i];
      }
    }
    if (count == 1 && (low[able[0]] >= threshold || high[able[0]] < threshold)) {
      fill((int16_t)(2 * able[0] + (low[able[0]] >= threshold)), t, job.rows.count, codes);
      continue;
    }
    for (int32_t a = 0; a < count; ++a) widen(job, t, able[a], widened + a * each);
    memset(counts, 0, sizeof(int32_t) * lanes * count);
    for (int32_t y = 0; y < t.rows; ++y) {
      const Row row(job, t, y);
      f32x16 best[blocks];
      i32x16 code[blocks];
      for (int b = 0; b < blocks; ++b) best[b] = all(INFINITY), code[b] = i32x16{};
      for (int32_t a = 0; a < count; ++a) {
        const float inverse = job.inverse[able[a]];
        i32x16 inside = {};
        for (int b = 0; b < blocks; ++b) {
          const f32x16 logit = row(widened + a * each, b);
          const i32x16 in = logit >= threshold;
          const f32x16 value = count == 1 ? f32x16{} : cost(logit, inverse);
          const i32x16 better = value < best[b];
          best[b] = better ? value : best[b];
          code[b] = better ? 2 * able[a] - in : code[b];
          inside -= in & valid[b];
        }
        store(counts + a * lanes, load<i32x16>(counts + a * lanes) + inside);
      }
      for (int b = 0; b < blocks; ++b) store(turned + y * stripe_width + b * lanes, __builtin_convertvector(code[b], i16x16));
    }
    for (int32_t a = 0; a < count; ++a)
      if (!(low[able[a]] >= threshold))
        for (int i = 0; i < lanes; ++i) own[able[a]] += counts[a * lanes + i];
    turn(turned, t, job.rows.count, codes);
  }
}

// ---- instance

// Scratch: widened logits (window, stripe_width).
double instance(const MaskJob& job, int32_t query, int32_t stripe, float* scratch, uint32_t* words) {
  const int32_t tiles = (job.rows.count + tile_rows - 1) / tile_rows;
  const float threshold = job.threshold;
  double sum = 0;
  i32x16 valid[blocks];
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
    mark_columns(t.columns, valid);
    widen(job, t, query, scratch);
    i32x16 bits[blocks] = {};
    f32x16 inside[blocks] = {};
    for (int32_t y = 0; y < t.rows; ++y) {
      const Row row(job, t, y);
      const int32_t bit = (int32_t)(1u << y);
      for (int b = 0; b < blocks; ++b) {
        const f32x16 logit = row(scratch, b);
        const i32x16 in = (logit > threshold) & valid[b];
        bits[b] |= in & bit;
        inside[b] += in ? sigmoid(logit) : f32x16{};
      }
    }
    for (int b = 0; b < blocks; ++b) sum += total(inside[b]);
    for (int32_t x = 0; x < t.columns; ++x) words[(int64_t)x * tiles + tile] = (uint32_t)bits[x / lanes][x % lanes];
  }
  return sum;
}

// ---- semantic

// Sums over queries, `count` rows of weights (count, queries) at a time, for columns..columns + 16 * vectors of probabilities.
template <int rows_at_once, int vectors>
inline void products(const float* weights, int32_t queries, const float* probabilities, int64_t step, float* out, int64_t out_step) {
  f32x16 sum[rows_at_once][vectors] = {};
  for (int32_t q = 0; q < queries; ++q, probabilities += step) {
    f32x16 p[vectors];
    for (int b = 0; b < vectors; ++b) p[b] = load<f32x16>(probabilities + b * lanes);
    for (int k = 0; k < rows_at_once; ++k)
      for (int b = 0; b < vectors; ++b) sum[k][b] += p[b] * weights[(int64_t)k * queries + q];
  }
  for (int k = 0; k < rows_at_once; ++k)
    for (int b = 0; b < vectors; ++b) store(out + k * out_step + b * lanes, sum[k][b]);
}

// (count, queries) x (queries, width) -> (count, width), width a multiple of 16.
inline void multiply(const float* weights, int32_t count, int32_t queries, const float* probabilities, int32_t width, float* out) {
#if defined(__AVX512F__)
  constexpr int at_once = 4, wide = 4;
#else
  constexpr int at_once = 2, wide = 1;
#endif
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

// Classes that can be the best somewhere, given the bounds of every query's probability; their weights as (count + 1, queries), the last
// row being the sum over all classes. Returns count.
inline int32_t able_classes(
    const MaskJob& job, const float* low, const float* high, float* least, float* most, int32_t* able, float* weights
) {
  for (int32_t k = 0; k < job.padded_classes; k += lanes) {
    f32x16 a = {}, b = {};
    for (int32_t q = 0; q < job.queries; ++q) {
      const f32x16 w = load<f32x16>(job.weights + (int64_t)q * job.padded_classes + k);
      a += w * low[q], b += w * high[q];
    }
    store(least + k, a), store(most + k, b);
  }
  float certain = 0;
  for (int32_t k = 0; k < job.classes; ++k) certain = least[k] > certain ? least[k] : certain;
  int32_t count = 0;
  for (int32_t k = 0; k < job.classes; ++k)
    if (!(most[k] * (1 + slack) < certain)) able[count++] = k;
  for (int32_t i = 0; i < count; ++i)
    for (int32_t q = 0; q < job.queries; ++q) weights[(int64_t)i * job.queries + q] = job.weights[(int64_t)q * job.padded_classes + able[i]];
  memcpy(weights + (int64_t)count * job.queries, job.totals, sizeof(float) * job.queries);
  return count;
}

// The best of scores (count + 1, stripe_width), the last row their sum over all classes: codes, and shares by class.
inline void pick(const float* scores, int32_t count, const int32_t* able, const i32x16* valid, int32_t columns, int16_t* codes, double* shares) {
  for (int b = 0; b < blocks; ++b) {
    f32x16 best = load<f32x16>(scores + b * lanes);
    i32x16 code = i32x16{} + able[0];
    for (int32_t i = 1; i < count; ++i) {
      const f32x16 value = load<f32x16>(scores + (int64_t)i * stripe_width + b * lanes);
      const i32x16 better = value > best;
      best = better ? value : best;
      code = better ? i32x16{} + able[i] : code;
    }
    const f32x16 sum = load<f32x16>(scores + (int64_t)count * stripe_width + b * lanes);
    const f32x16 share = best / greater(sum, all(1e-6f));
    store(codes + b * lanes, __builtin_convertvector(code, i16x16));
    if (count == 1) {
      shares[able[0]] += total(valid[b] ? share : f32x16{});
    } else {
      for (int i = 0; i < lanes && b * lanes + i < columns; ++i) shares[code[i]] += share[i];
    }
  }
}

struct ClassRoom {  // scratch that both orders need
  float *low, *high, *least, *most, *weights;
  int32_t* able;
  float* rest;
};

inline ClassRoom class_room(const MaskJob& job, float* scratch) {
  ClassRoom r;
  const int64_t padded = (job.queries + lanes - 1) / lanes * lanes;
  r.low = scratch, r.high = r.low + padded, r.least = r.high + padded, r.most = r.least + job.padded_classes;
  r.able = (int32_t*)(r.most + job.padded_classes);
  r.weights = (float*)(r.able + job.padded_classes);
  r.rest = r.weights + ((job.classes + 1) * (int64_t)job.queries + lanes - 1) / lanes * lanes;
  return r;
}

void probabilities_of(const MaskJob& job, int32_t from_y, int32_t rows, int32_t from_x, int32_t columns, const ClassRoom& r) {
  for (int32_t q = 0; q < job.queries; ++q) {
    bounds(job, q, from_y, rows, from_x, columns, r.low + q, r.high + q);
    r.low[q] = sigmoid_of(r.low[q]), r.high[q] = sigmoid_of(r.high[q]);
  }
}

// Scratch behind ClassRoom: widened (queries, window, stripe_width); probabilities (queries, stripe_width); scores (classes + 1, stripe_width).
void masks_first(const MaskJob& job, int32_t stripe, float* scratch, int16_t* codes, double* shares) {
  const ClassRoom r = class_room(job, scratch);
  const int64_t each = (int64_t)job.window * stripe_width;
  float *widened = r.rest, *probabilities = widened + job.queries * each, *scores = probabilities + (int64_t)job.queries * stripe_width;
  alignas(64) int16_t turned[tile_rows * stripe_width];
  i32x16 valid[blocks];
  for (int32_t y0 = 0; y0 < job.rows.count; y0 += tile_rows) {
    const Tile t = tile_at(job, stripe, y0);
    mark_columns(t.columns, valid);
    probabilities_of(job, t.from_y, t.rows_under, t.from_x, t.columns_under, r);
    const int32_t count = able_classes(job, r.low, r.high, r.least, r.most, r.able, r.weights);
    for (int32_t q = 0; q < job.queries; ++q) widen(job, t, q, widened + q * each);
    for (int32_t y = 0; y < t.rows; ++y) {
      const Row row(job, t, y);
      for (int32_t q = 0; q < job.queries; ++q)
        for (int b = 0; b < blocks; ++b) store(probabilities + q * stripe_width + b * lanes, sigmoid(row(widened + q * each, b)));
      multiply(r.weights, count + 1, job.queries, probabilities, stripe_width, scores);
      pick(scores, count, r.able, valid, t.columns, turned + y * stripe_width, shares);
    }
    turn(turned, t, job.rows.count, codes);
  }
}

// Scratch behind ClassRoom: one row of logits (width, and a vector); probabilities (queries, span); scores of two rows of the resized
// picture (2, classes + 1, span); one row mixed of them (span); scores (classes + 1, stripe_width).
void scores_first(const MaskJob& job, int32_t stripe, float* scratch, int16_t* codes, double* shares) {
  const ClassRoom r = class_room(job, scratch);
  const int64_t each = (int64_t)(job.classes + 1) * job.span;
  float *line = r.rest, *probabilities = line + (job.width + 2 * lanes - 1) / lanes * lanes;
  float *upper = probabilities + (int64_t)job.queries * job.span, *lower = upper + each, *mixed = lower + each, *scores = mixed + job.span + lanes;
  const Axis &rows = job.last_rows, &columns = job.last_columns;
  alignas(64) int16_t turned[tile_rows * stripe_width];
  i32x16 valid[blocks];
  for (int32_t y0 = 0; y0 < rows.count; y0 += tile_rows) {
    Tile t{};
    t.x0 = stripe * stripe_width, t.y0 = y0;
    t.columns = columns.count - t.x0 < stripe_width ? columns.count - t.x0 : stripe_width;
    t.rows = rows.count - y0 < tile_rows ? rows.count - y0 : tile_rows;
    mark_columns(t.columns, valid);
    const int32_t x_from = columns.base[t.x0], x_last = columns.base[t.x0 + t.columns - 1] + 1, y_last = rows.base[y0 + t.rows - 1] + 1;
    const int32_t from_y = job.rows.base[rows.base[y0]], from_x = job.columns.base[x_from];
    const int32_t end_x = job.columns.base[x_last] + 3;
    probabilities_of(job, from_y, job.rows.base[y_last] + 3 - from_y, from_x, end_x - from_x, r);
    const int32_t count = able_classes(job, r.low, r.high, r.least, r.most, r.able, r.weights);
    const int32_t width = (x_last + 1 - x_from + lanes - 1) / lanes * lanes;
    store(mixed + width, f32x16{});  // is read with no weight
    memset(line, 0, sizeof(float) * job.width);
    int32_t in_upper = -1, in_lower = -1;  // which rows of the resized picture are there
    const auto make = [&](int32_t at, float* to) {
      const float w0 = job.rows.weight[0][at], w1 = job.rows.weight[1][at], w2 = job.rows.weight[2][at];
      for (int32_t q = 0; q < job.queries; ++q) {
        const float* p = job.logits + ((int64_t)q * job.height + job.rows.base[at]) * job.width;
        for (int32_t x = from_x; x < end_x; ++x) line[x] = p[x] * w0 + p[x + job.width] * w1 + p[x + 2 * job.width] * w2;
        for (int32_t x = 0; x < width; x += lanes)
          store(probabilities + (int64_t)q * width + x, sigmoid(spread(line, job.width, job.columns, x_from + x)));
      }
      multiply(r.weights, count + 1, job.queries, probabilities, width, to);
    };
    for (int32_t y = 0; y < t.rows; ++y) {
      const int32_t at = rows.base[y0 + y];
      if (in_upper != at) {
        if (in_lower == at) {
          float* other = upper;
          upper = lower, lower = other, in_lower = in_upper;
        } else {
          make(at, upper);
        }
        in_upper = at;
      }
      if (in_lower != at + 1) make(at + 1, lower), in_lower = at + 1;
      const float w0 = rows.weight[0][y0 + y], w1 = rows.weight[1][y0 + y];
      for (int32_t i = 0; i <= count; ++i) {
        const float *a = upper + (int64_t)i * width, *b = lower + (int64_t)i * width;
        for (int32_t x = 0; x < width; x += lanes) store(mixed + x, load<f32x16>(a + x) * w0 + load<f32x16>(b + x) * w1);
        // Bases count from the picture's left edge; what is behind `width` has no weight.
        for (int b16 = 0; b16 < blocks; ++b16)
          store(scores + (int64_t)i * stripe_width + b16 * lanes, spread(mixed - x_from, x_from + width + lanes, columns, t.x0 + b16 * lanes));
      }
      pick(scores, count, r.able, valid, t.columns, turned + y * stripe_width, shares);
    }
    turn(turned, t, rows.count, codes);
  }
}

void semantic(const MaskJob& job, int32_t stripe, float* scratch, int16_t* codes, double* shares) {
  (job.combine_first ? scores_first : masks_first)(job, stripe, scratch, codes, shares);
}

}  // namespace

const MaskKernels& PROSCALE_JOIN(mask_kernels_, PROSCALE_SET)() {
  static const MaskKernels kernels = {panoptic, instance, semantic};
  return kernels;
}

}  // namespace proscale
