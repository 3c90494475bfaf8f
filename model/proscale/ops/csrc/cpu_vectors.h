// Vectors over the samples of a query, and what is done with them, in the compiler's vector extensions.
// Part of cpu_kernel.cpp, built once per instruction set: everything is in an unnamed namespace, so that the linker mixes no two of them.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

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
  typedef i32x16 Stored;  // int32_t in memory
};

template <>
struct Lanes<double> {
  static constexpr int count = 8;
  typedef f64x8 V;
  typedef i32x8 Stored;
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

// What is no number becomes `low`.
template <class V>
inline V at_least(V x, V low) {
  return x > low ? x : low;
}
#if defined(__AVX512F__)
inline f32x16 at_least(f32x16 x, f32x16 low) { return (f32x16)_mm512_max_ps((__m512)x, (__m512)low); }
#endif

// The bounded x; what is no number becomes `low`.
template <class V>
inline V between(V x, V low, V high) {
  const V v = x > low ? x : low;
  return v < high ? v : high;
}

#if defined(__AVX512F__)
inline f32x16 between(f32x16 x, f32x16 low, f32x16 high) {
  return (f32x16)_mm512_min_ps(_mm512_max_ps((__m512)x, (__m512)low), (__m512)high);
}
inline f32x16 floor_of(f32x16 x) { return (f32x16)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
#else
// |x| < 2^31.
inline f32x16 floor_of(f32x16 x) {
  const f32x16 whole = __builtin_convertvector(__builtin_convertvector(x, i32x16), f32x16);
  return whole > x ? whole - 1.0f : whole;
}
#endif
inline f64x8 floor_of(f64x8 x) {
  const f64x8 whole = __builtin_convertvector(__builtin_convertvector(x, i64x8), f64x8);
  return whole > x ? whole - 1.0 : whole;
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

}  // namespace
}  // namespace proscale
