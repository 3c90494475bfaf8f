// The arithmetic of the operator on one core, in the compiler's vector extensions: one source for AVX-512, AVX2 and everything else.
//
// Built once per instruction set with PROSCALE_SET naming it. Nothing here may be a shared inline function (no C++ library templates):
// the linker would keep one copy for all sets, perhaps the one that the machine cannot run.
#include "cpu_kernel.h"

#include <math.h>
#include <string.h>
#if defined(__F16C__)
#include <immintrin.h>
#endif

#define PROSCALE_JOIN_(a, b) a##b
#define PROSCALE_JOIN(a, b) PROSCALE_JOIN_(a, b)
#define PROSCALE_STRING_(a) #a
#define PROSCALE_STRING(a) PROSCALE_STRING_(a)

namespace proscale {
namespace {

typedef float f32x16 __attribute__((vector_size(64)));
typedef float f32x8 __attribute__((vector_size(32)));
typedef double f64x8 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef int32_t i32x8 __attribute__((vector_size(32)));
typedef int64_t i64x8 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));

// ---- vectors over the samples of a query: `lanes` samples at a time

template <class A>
struct Lanes;

template <>
struct Lanes<float> {
  static constexpr int count = 16;
  typedef f32x16 V;
  typedef i32x16 I;       // as wide as V: what its comparisons give
  typedef i32x16 Stored;  // int32_t in memory
  static I widen(Stored x) { return x; }
  static Stored narrow(I x) { return x; }
};

template <>
struct Lanes<double> {
  static constexpr int count = 8;
  typedef f64x8 V;
  typedef i64x8 I;
  typedef i32x8 Stored;
  static I widen(Stored x) { return __builtin_convertvector(x, i64x8); }
  static Stored narrow(I x) { return __builtin_convertvector(x, i32x8); }
};

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

template <class V, class E>
inline V all(E x) {
  return V{} + x;
}

// NaN in either place comes out as x: comparisons with it are false.
template <class V>
inline V at_least(V x, V low) {
  return x < low ? low : x;
}

template <class V>
inline V at_most(V x, V high) {
  return x > high ? high : x;
}

inline f32x16 magnitude(f32x16 x) { return (f32x16)((i32x16)x & 0x7fffffff); }
inline f64x8 magnitude(f64x8 x) { return (f64x8)((i64x8)x & 0x7fffffffffffffff); }

inline float total(f32x8 v) {
  typedef float f32x4 __attribute__((vector_size(16)));
  f32x4 s = __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
  s += __builtin_shufflevector(s, s, 2, 3, 0, 1);
  return s[0] + s[1];
}

inline float total(f32x16 v) {
  return total(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) + __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
}

inline double total(f64x8 v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }

inline float largest(f32x16 v) {
  typedef float f32x4 __attribute__((vector_size(16)));
  const f32x8 a = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7), b = __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  const f32x8 c = a > b ? a : b;
  const f32x4 d = __builtin_shufflevector(c, c, 0, 1, 2, 3), e = __builtin_shufflevector(c, c, 4, 5, 6, 7);
  const f32x4 f = d > e ? d : e, g = __builtin_shufflevector(f, f, 2, 3, 0, 1);
  const f32x4 h = f > g ? f : g;
  return h[0] > h[1] ? h[0] : h[1];
}

inline double largest(f64x8 v) {
  double m = v[0];
  for (int i = 1; i < 8; ++i) m = v[i] > m ? v[i] : m;
  return m;
}

// e^x for x <= 0: x = n ln 2 + r, |r| <= ln 2 / 2, Taylor to the 7th power (remainder 5e-9). Zero below -87, where floats turn subnormal.
inline f32x16 exponential(f32x16 x) {
  const f32x16 bounded = at_least(x, all<f32x16>(-87.0f));
  const i32x16 n = __builtin_convertvector(bounded * 1.44269504f - 0.5f, i32x16);
  const f32x16 whole = __builtin_convertvector(n, f32x16);
  const f32x16 r = (bounded - whole * 0.693359375f) + whole * 2.12194440e-4f;  // ln 2 in two parts; the first product is exact
  f32x16 p = r * (1.0f / 5040) + (1.0f / 720);
  p = p * r + (1.0f / 120);
  p = p * r + (1.0f / 24);
  p = p * r + (1.0f / 6);
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const f32x16 result = p * (f32x16)((n + 127) << 23);
  return x < -87.0f ? f32x16{} : result;
}

inline f64x8 exponential(f64x8 x) {
  for (int i = 0; i < 8; ++i) x[i] = exp(x[i]);
  return x;
}

// ---- half precision in memory, float in registers; 16 at a time

struct Half {
  uint16_t bits;
};
struct BFloat {
  uint16_t bits;
};

inline f32x16 widen16(const BFloat* p) { return (f32x16)(__builtin_convertvector(load<u16x16>(p), u32x16) << 16); }

inline void narrow16(f32x16 v, BFloat* p) {
  const u32x16 bits = (u32x16)v;
  const u32x16 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even
  const i32x16 is_nan = v != v;
  const u32x16 result = is_nan ? ((bits >> 16) | 0x40) : rounded;
  store(p, __builtin_convertvector(result, u16x16));
}

#if defined(__AVX512F__)
inline f32x16 widen16(const Half* p) { return (f32x16)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
inline void narrow16(f32x16 v, Half* p) {
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#elif defined(__F16C__)
inline f32x16 widen16(const Half* p) {
  f32x16 v;
  for (int i = 0; i < 2; ++i) {
    const __m256 part = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p + i));
    memcpy((char*)&v + 32 * i, &part, 32);
  }
  return v;
}
inline void narrow16(f32x16 v, Half* p) {
  for (int i = 0; i < 2; ++i) {
    __m256 part;
    memcpy(&part, (const char*)&v + 32 * i, 32);
    _mm_storeu_si128((__m128i*)p + i, _mm256_cvtps_ph(part, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
}
#elif defined(__aarch64__)
inline f32x16 widen16(const Half* p) {
  f32x16 v;
  __fp16 h[16];
  memcpy(h, p, sizeof h);
  for (int i = 0; i < 16; ++i) v[i] = (float)h[i];
  return v;
}
inline void narrow16(f32x16 v, Half* p) {
  __fp16 h[16];
  for (int i = 0; i < 16; ++i) h[i] = (__fp16)v[i];
  memcpy(p, h, sizeof h);
}
#else
// Exponents are moved by multiplying with 2^112, which also makes the subnormal halves right.
inline f32x16 widen16(const Half* p) {
  const u32x16 h = __builtin_convertvector(load<u16x16>(p), u32x16);
  const f32x16 scaled = (f32x16)((h & 0x7fff) << 13) * 0x1p112f;
  const i32x16 special = (i32x16)((h & 0x7c00) == 0x7c00);
  const u32x16 bits = special ? (((h & 0x3ff) << 13) | 0x7f800000u) : (u32x16)scaled;
  return (f32x16)(bits | ((h & 0x8000) << 16));
}
inline uint16_t narrow1(float v) {
  uint32_t bits;
  memcpy(&bits, &v, 4);
  const uint32_t sign = (bits >> 16) & 0x8000, size = bits & 0x7fffffff;
  if (size > 0x7f800000) return (uint16_t)(sign | 0x7e00);
  if (size >= 0x477ff000) return (uint16_t)(sign | 0x7c00);  // rounds to 65536 or more
  if (size < 0x38800000) {                                   // subnormal: let the float adder round at the right place
    float f;
    memcpy(&f, &size, 4);
    f += 0.5f;
    memcpy(&bits, &f, 4);
    return (uint16_t)(sign | (bits - 0x3f000000));
  }
  return (uint16_t)(sign | ((size - 0x38000000 + 0xfff + ((size >> 13) & 1)) >> 13));
}
inline void narrow16(f32x16 v, Half* p) {
  for (int i = 0; i < 16; ++i) p[i].bits = narrow1(v[i]);
}
#endif

// `count` elements of memory into arithmetic type, and back.
template <class A>
  requires(sizeof(A) > 2)
inline void widen(const A* from, A* to, int count) {
  memcpy(to, from, sizeof(A) * count);
}

template <class H>
  requires(sizeof(H) == 2)
inline void widen(const H* from, float* to, int count) {
  int i = 0;
  for (; i + 16 <= count; i += 16) store(to + i, widen16(from + i));
  if (i < count) {
    H part[16] = {};
    memcpy(part, from + i, sizeof(H) * (count - i));
    const f32x16 v = widen16(part);
    memcpy(to + i, &v, sizeof(float) * (count - i));
  }
}

template <class A>
  requires(sizeof(A) > 2)
inline void narrow(const A* from, A* to, int count) {
  memcpy(to, from, sizeof(A) * count);
}

template <class H>
  requires(sizeof(H) == 2)
inline void narrow(const float* from, H* to, int count) {
  int i = 0;
  for (; i + 16 <= count; i += 16) narrow16(load<f32x16>(from + i), to + i);
  if (i < count) {
    f32x16 v = {};
    memcpy(&v, from + i, sizeof(float) * (count - i));
    H part[16];
    narrow16(v, part);
    memcpy(to + i, part, sizeof(H) * (count - i));
  }
}

// ---- where a query's samples lie

// Walks the queries in order and says where each lies in every level, per sample: base + fraction, pixel centres at whole numbers.
template <class A>
struct Positions {
  const Problem& problem;
  const Plan<A>& plan;
  int64_t batch;
  int32_t level, x, y;  // of the token a query sits on
  const int32_t *base_x, *base_y;
  const A *fraction_x, *fraction_y;
  alignas(64) int32_t own_base_x[max_samples], own_base_y[max_samples];
  alignas(64) A own_fraction_x[max_samples], own_fraction_y[max_samples];

  Positions(const Problem& problem, const Plan<A>& plan, int64_t batch, int64_t first) : problem(problem), plan(plan), batch(batch) {
    level = x = y = 0;
    if (!problem.reference) {
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
    if (problem.reference) {
      const A* point = (const A*)problem.reference + batch * problem.reference_batch_stride + query * problem.reference_query_stride;
      int k = 0;
      for (int l = 0; l < problem.levels; ++l) {
        const double px = split((double)point[0] * problem.level[l].width - 0.5);
        const double py = split((double)point[1] * problem.level[l].height - 0.5);
        const double bx = floor(px), by = floor(py);
        for (int p = 0; p < problem.points; ++p, ++k) {
          own_base_x[k] = (int32_t)bx, own_base_y[k] = (int32_t)by;
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

  // Far outside is outside; what is no number samples nothing.
  static double split(double position) {
    if (!(position > -1e8)) return -1e8;
    return position > 1e8 ? 1e8 : position;
  }
};

// All samples of one query and head. Weights of the window's two columns and rows, without the attention; slopes are their derivatives.
template <class A>
struct Samples {
  alignas(64) int32_t token[max_samples];  // left upper token of the window
  alignas(64) A attention[max_samples];
  alignas(64) A x0[max_samples], x1[max_samples], y0[max_samples], y1[max_samples];
  alignas(64) A slope_x0[max_samples], slope_x1[max_samples], slope_y0[max_samples], slope_y1[max_samples];
  alignas(64) A pairs[2 * max_samples];  // offsets as they come
};

// The weight that a pixel at distance d from the sample has, and its derivative by the sample's position (from the right, as floor has it).
template <class V>
inline V hat(V distance) {
  return at_least(1 - magnitude(distance), V{});
}

template <class V>
inline V hat_slope(V distance) {
  const V rising = distance >= -1 ? (distance < 0 ? V{} + 1 : V{}) : V{};
  return distance >= 0 ? (distance < 1 ? V{} - 1 : V{}) : rising;
}

template <bool slopes, class V, class I, class A>
inline I axis(V offset, I base, V fraction, I last, V second, A* w0, A* w1, [[maybe_unused]] A* slope0, [[maybe_unused]] A* slope1) {
  constexpr A far = 1 << 26;  // more than any level, and whole numbers up to here are exact enough not to overflow
  const V t = at_most(at_least(fraction + offset, all<V>(-far)), all<V>(far));
  I whole = __builtin_convertvector(t, I);
  whole += (I)(__builtin_convertvector(whole, V) > t);  // truncation to floor: true is -1
  const V rest = t - __builtin_convertvector(whole, V);
  const I left = base + whole;
  const I bounded = at_most(at_least(left, I{}), last);
  // Inside the window this is the fraction; beside it the weights fall off to zero by themselves.
  const V d0 = __builtin_convertvector(left - bounded, V) + rest;
  const V d1 = d0 - 1;
  store(w0, hat(d0));
  store(w1, hat(d1) * second);
  if constexpr (slopes) {
    store(slope0, hat_slope(d0));
    store(slope1, hat_slope(d1) * second);
  }
  return bounded;
}

template <class A>
inline void deinterleave(const A* pairs, typename Lanes<A>::V& x, typename Lanes<A>::V& y) {
  typedef typename Lanes<A>::V V;
  const V a = load<V>(pairs), b = load<V>(pairs + Lanes<A>::count);
  if constexpr (Lanes<A>::count == 16) {
    x = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    y = __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  } else {
    x = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
    y = __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
  }
}

template <bool slopes, class A, class S>
inline void locate(const Plan<A>& plan, const Positions<A>& at, const S* offsets, const S* logits, Samples<A>& s) {
  typedef Lanes<A> L;
  typedef typename L::V V;
  typedef typename L::I I;
  typedef typename L::Stored Stored;
  widen(offsets, s.pairs, 2 * plan.samples);
  widen(logits, s.attention, plan.samples);
  V top = load<V>(s.attention);
  for (int k = L::count; k < plan.padded; k += L::count) {
    const V v = load<V>(s.attention + k);
    top = v > top ? v : top;
  }
  const A highest = largest(top);
  V sum = {};
  for (int k = 0; k < plan.padded; k += L::count) {
    const V e = exponential(load<V>(s.attention + k) - highest);
    store(s.attention + k, e);
    sum += e;
  }
  const A scale = 1 / total(sum);
  for (int k = 0; k < plan.padded; k += L::count) {
    store(s.attention + k, load<V>(s.attention + k) * scale);
    V dx, dy;
    deinterleave(s.pairs + 2 * k, dx, dy);
    const I x = axis<slopes>(
        dx, L::widen(load<Stored>(at.base_x + k)), load<V>(at.fraction_x + k), L::widen(load<Stored>(plan.last_x + k)),
        load<V>(plan.second_x + k), s.x0 + k, s.x1 + k, s.slope_x0 + k, s.slope_x1 + k
    );
    const I y = axis<slopes>(
        dy, L::widen(load<Stored>(at.base_y + k)), load<V>(at.fraction_y + k), L::widen(load<Stored>(plan.last_y + k)),
        load<V>(plan.second_y + k), s.y0 + k, s.y1 + k, s.slope_y0 + k, s.slope_y1 + k
    );
    store(s.token + k, load<Stored>(plan.start + k) + L::narrow(y) * load<Stored>(plan.width + k) + L::narrow(x));
  }
}

// ---- the four jobs

constexpr double no_logit = -1e30;  // of lanes that hold no sample: e^no_logit is 0, and no_logit - no_logit is not NaN

template <class A>
inline void clear(Samples<A>& s) {
  memset(s.pairs, 0, sizeof s.pairs);
  for (int k = 0; k < max_samples; ++k) s.attention[k] = (A)no_logit;
}

// The lanes beyond the last sample hold 0 after a softmax; the next one must not see that as a logit.
template <class A>
inline void reset_padding(const Plan<A>& plan, Samples<A>& s) {
  for (int k = plan.samples; k < plan.padded; ++k) s.attention[k] = (A)no_logit;
}

template <class A, class T>
void pack(const Problem& problem, const Plan<A>& plan, int64_t b, int64_t h, int64_t begin, int64_t end, A* packed) {
  const Strides& strides = problem.value_strides;
  const T* from = (const T*)problem.value + b * strides.batch + h * strides.head + begin * strides.row;
  A* to = packed + begin * plan.padded_channels;
  const int channels = problem.channels, padded = plan.padded_channels;
  for (int64_t n = begin; n < end; ++n, from += strides.row, to += padded) {
    widen(from, to, channels);
    for (int c = channels; c < padded; ++c) to[c] = 0;
  }
}

template <class A, class T, class S, class V, int chunks>
void forward(const Problem& problem, const Plan<A>& plan, int64_t b, int64_t h, int64_t begin, int64_t end, const A* packed) {
  constexpr int width = sizeof(V) / sizeof(A), stride = width * chunks;
  Samples<A> s;
  clear(s);
  Positions<A> at(problem, plan, b, begin);
  const S* offsets = (const S*)problem.offsets + b * problem.offsets_strides.batch + h * problem.offsets_strides.head;
  const S* logits = (const S*)problem.logits + b * problem.logits_strides.batch + h * problem.logits_strides.head;
  T* out = (T*)problem.out + (b * problem.queries * problem.heads + h) * problem.channels;
  for (int64_t q = begin; q < end; ++q) {
    at.at(q);
    reset_padding(plan, s);
    locate<false>(plan, at, offsets + q * problem.offsets_strides.row, logits + q * problem.logits_strides.row, s);
    V upper[chunks] = {}, lower[chunks] = {};
    for (int k = 0; k < plan.samples; ++k) {
      const A* row0 = packed + (int64_t)s.token[k] * stride;
      const A* row1 = row0 + (int64_t)plan.step_y[k] * stride;
      const int64_t right = (int64_t)plan.step_x[k] * stride;
      const A w0 = s.attention[k] * s.y0[k], w1 = s.attention[k] * s.y1[k];
      const A w00 = w0 * s.x0[k], w01 = w0 * s.x1[k], w10 = w1 * s.x0[k], w11 = w1 * s.x1[k];
      for (int c = 0; c < chunks; ++c) {
        upper[c] += load<V>(row0 + c * width) * w00;
        upper[c] += load<V>(row0 + right + c * width) * w01;
        lower[c] += load<V>(row1 + c * width) * w10;
        lower[c] += load<V>(row1 + right + c * width) * w11;
      }
    }
    alignas(64) A result[stride < 16 ? 16 : stride];
    for (int c = 0; c < chunks; ++c) store(result + c * width, upper[c] + lower[c]);
    narrow(result, out + q * problem.heads * problem.channels, problem.channels);
  }
}

template <class A, class T, class S, class V, int chunks>
void backward(const Problem& problem, const Plan<A>& plan, int64_t b, int64_t h, const A* packed, A* gradient) {
  typedef Lanes<A> L;
  typedef typename L::V W;
  constexpr int width = sizeof(V) / sizeof(A), stride = width * chunks;
  Samples<A> s;
  clear(s);
  alignas(64) A dot00[max_samples], dot01[max_samples], dot10[max_samples], dot11[max_samples];
  alignas(64) A by_logit[max_samples], by_offset[2 * max_samples];
  memset(dot00, 0, sizeof dot00), memset(dot01, 0, sizeof dot01), memset(dot10, 0, sizeof dot10), memset(dot11, 0, sizeof dot11);
  Positions<A> at(problem, plan, b, 0);
  const S* offsets = (const S*)problem.offsets + b * problem.offsets_strides.batch + h * problem.offsets_strides.head;
  const S* logits = (const S*)problem.logits + b * problem.logits_strides.batch + h * problem.logits_strides.head;
  for (int64_t q = 0; q < problem.queries; ++q) {
    at.at(q);
    reset_padding(plan, s);
    locate<true>(plan, at, offsets + q * problem.offsets_strides.row, logits + q * problem.logits_strides.row, s);
    const int64_t row = (b * problem.queries + q) * problem.heads + h;
    alignas(64) A incoming[stride < 16 ? 16 : stride] = {};
    widen((const T*)problem.out_gradient + row * problem.channels, incoming, problem.channels);
    V g[chunks];
    for (int c = 0; c < chunks; ++c) g[c] = load<V>(incoming + c * width);
    for (int k = 0; k < plan.samples; ++k) {
      const int64_t place = (int64_t)s.token[k] * stride;
      const int64_t right = (int64_t)plan.step_x[k] * stride, down = (int64_t)plan.step_y[k] * stride;
      const A w0 = s.attention[k] * s.y0[k], w1 = s.attention[k] * s.y1[k];
      const A w00 = w0 * s.x0[k], w01 = w0 * s.x1[k], w10 = w1 * s.x0[k], w11 = w1 * s.x1[k];
      V sum00 = {}, sum01 = {}, sum10 = {}, sum11 = {};
      for (int c = 0; c < chunks; ++c) {
        const int64_t i = place + c * width;
        sum00 += load<V>(packed + i) * g[c];
        sum01 += load<V>(packed + i + right) * g[c];
        sum10 += load<V>(packed + i + down) * g[c];
        sum11 += load<V>(packed + i + down + right) * g[c];
        // One after the other: in a level with one row or column these are the same places.
        store(gradient + i, load<V>(gradient + i) + g[c] * w00);
        store(gradient + i + right, load<V>(gradient + i + right) + g[c] * w01);
        store(gradient + i + down, load<V>(gradient + i + down) + g[c] * w10);
        store(gradient + i + down + right, load<V>(gradient + i + down + right) + g[c] * w11);
      }
      dot00[k] = total(sum00), dot01[k] = total(sum01), dot10[k] = total(sum10), dot11[k] = total(sum11);
    }
    W mean = {};
    for (int k = 0; k < plan.padded; k += L::count) {
      const W x0 = load<W>(s.x0 + k), x1 = load<W>(s.x1 + k), y0 = load<W>(s.y0 + k), y1 = load<W>(s.y1 + k);
      const W d00 = load<W>(dot00 + k), d01 = load<W>(dot01 + k), d10 = load<W>(dot10 + k), d11 = load<W>(dot11 + k);
      const W a = load<W>(s.attention + k);
      const W upper = d00 * x0 + d01 * x1, lower = d10 * x0 + d11 * x1;
      const W sample = upper * y0 + lower * y1;
      const W by_x = (d00 * load<W>(s.slope_x0 + k) + d01 * load<W>(s.slope_x1 + k)) * y0 +
                     (d10 * load<W>(s.slope_x0 + k) + d11 * load<W>(s.slope_x1 + k)) * y1;
      const W by_y = upper * load<W>(s.slope_y0 + k) + lower * load<W>(s.slope_y1 + k);
      mean += a * sample;
      store(by_logit + k, sample);
      for (int i = 0; i < L::count; ++i) by_offset[2 * (k + i)] = a[i] * by_x[i], by_offset[2 * (k + i) + 1] = a[i] * by_y[i];
    }
    const A expected = total(mean);
    for (int k = 0; k < plan.padded; k += L::count) store(by_logit + k, load<W>(s.attention + k) * (load<W>(by_logit + k) - expected));
    narrow(by_logit, (S*)problem.logits_gradient + row * plan.samples, plan.samples);
    narrow(by_offset, (S*)problem.offsets_gradient + row * plan.samples * 2, plan.samples * 2);
  }
}

template <class A, class T>
void unpack(const Problem& problem, const Plan<A>& plan, int64_t b, int64_t h, const A* gradient) {
  T* to = (T*)problem.value_gradient + (b * problem.tokens * problem.heads + h) * problem.channels;
  for (int64_t n = 0; n < problem.tokens; ++n, to += (int64_t)problem.heads * problem.channels)
    narrow(gradient + n * plan.padded_channels, to, problem.channels);
}

// ---- from types and sizes known when running to instances known when compiling

template <template <class, class> class Job, class A, class... Args>
inline void by_value_type(const Problem& problem, Args... args) {
  if constexpr (sizeof(A) == 8) {
    Job<A, double>::run(problem, args...);
  } else {
    switch (problem.value_type) {
      case Type::f16: return Job<A, Half>::run(problem, args...);
      case Type::bf16: return Job<A, BFloat>::run(problem, args...);
      default: return Job<A, float>::run(problem, args...);
    }
  }
}

template <template <class, class, class, class, int> class Job, class A, class T, class S, class... Args>
inline void by_channels(const Problem& problem, const Plan<A>& plan, Args... args) {
  if constexpr (sizeof(A) == 8) {
    switch (plan.padded_channels) {
      case 8: return Job<A, T, S, f64x8, 1>::run(problem, plan, args...);
      case 16: return Job<A, T, S, f64x8, 2>::run(problem, plan, args...);
      case 32: return Job<A, T, S, f64x8, 4>::run(problem, plan, args...);
      default: return Job<A, T, S, f64x8, 8>::run(problem, plan, args...);
    }
  } else {
    switch (plan.padded_channels) {
      case 8: return Job<A, T, S, f32x8, 1>::run(problem, plan, args...);
      case 16: return Job<A, T, S, f32x16, 1>::run(problem, plan, args...);
      case 32: return Job<A, T, S, f32x16, 2>::run(problem, plan, args...);
      default: return Job<A, T, S, f32x16, 4>::run(problem, plan, args...);
    }
  }
}

template <template <class, class, class, class, int> class Job, class A, class... Args>
inline void by_types(const Problem& problem, Args... args) {
  if constexpr (sizeof(A) == 8) {
    by_channels<Job, A, double, double>(problem, args...);
  } else {
    const bool same = problem.sampling_type == problem.value_type;
    switch (problem.value_type) {
      case Type::f16: return same ? by_channels<Job, A, Half, Half>(problem, args...) : by_channels<Job, A, Half, float>(problem, args...);
      case Type::bf16:
        return same ? by_channels<Job, A, BFloat, BFloat>(problem, args...) : by_channels<Job, A, BFloat, float>(problem, args...);
      default: return by_channels<Job, A, float, float>(problem, args...);
    }
  }
}

template <class A, class T>
struct Pack {
  template <class... Args>
  static void run(Args&... args) {
    pack<A, T>(args...);
  }
};
template <class A, class T>
struct Unpack {
  template <class... Args>
  static void run(Args&... args) {
    unpack<A, T>(args...);
  }
};
template <class A, class T, class S, class V, int chunks>
struct Forward {
  template <class... Args>
  static void run(Args&... args) {
    forward<A, T, S, V, chunks>(args...);
  }
};
template <class A, class T, class S, class V, int chunks>
struct Backward {
  template <class... Args>
  static void run(Args&... args) {
    backward<A, T, S, V, chunks>(args...);
  }
};

template <class A>
Kernels<A> kernels() {
  return {
      [](const Problem& p, const Plan<A>& plan, int64_t b, int64_t h, int64_t begin, int64_t end, A* packed) {
        by_value_type<Pack, A>(p, plan, b, h, begin, end, packed);
      },
      [](const Problem& p, const Plan<A>& plan, int64_t b, int64_t h, int64_t begin, int64_t end, const A* packed) {
        by_types<Forward, A>(p, plan, b, h, begin, end, packed);
      },
      [](const Problem& p, const Plan<A>& plan, int64_t b, int64_t h, const A* packed, A* gradient) {
        by_types<Backward, A>(p, plan, b, h, packed, gradient);
      },
      [](const Problem& p, const Plan<A>& plan, int64_t b, int64_t h, const A* gradient) {
        by_value_type<Unpack, A>(p, plan, b, h, gradient);
      },
  };
}

}  // namespace

const KernelSet& PROSCALE_JOIN(kernels_, PROSCALE_SET)() {
  static const KernelSet set = {PROSCALE_STRING(PROSCALE_SET), kernels<float>(), kernels<double>()};
  return set;
}

}  // namespace proscale
