// Vectors of one register each, in the compiler's vector extensions: 16 floats with AVX-512, 8 with AVX2, 4 elsewhere (SSE2, NEON).
//
// A vector wider than a register would live in memory: every operation on it would load and store its parts.
//
// Part of the kernels, which are built once per instruction set with PROSCALE_SET naming it. Everything of a set stands in the namespace of
// that name, and calls no shared inline function (no C++ library templates): the linker would keep one copy for all sets, perhaps the one
// that the machine cannot run.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef PROSCALE_X86
#include <immintrin.h>
#endif

namespace proscale::PROSCALE_SET {
namespace {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
constexpr int vector_registers = 32;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
constexpr int vector_registers = 16;
#elif defined(__aarch64__)
constexpr int vector_bytes = 16;
constexpr int vector_registers = 32;
#else
constexpr int vector_bytes = 16;
constexpr int vector_registers = 16;
#endif

template <class E, int count>
struct VectorOf {
  typedef E type __attribute__((vector_size(count * sizeof(E))));
};
template <class E, int count>
using Vector = typename VectorOf<E, count>::type;

constexpr int lanes = vector_bytes / 4;
typedef Vector<float, lanes> F32;
typedef Vector<int32_t, lanes> I32;
typedef Vector<uint32_t, lanes> U32;
typedef Vector<int16_t, lanes> I16;   // half a register
typedef Vector<uint16_t, lanes> U16;  // half a register
typedef Vector<double, lanes / 2> F64;

template <class V>
constexpr int lanes_of = sizeof(V) / sizeof(V{}[0]);

// At any address.
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

// The smaller and the greater of two; the second where one is NaN.
template <class V>
inline V smaller(V a, V b) {
  return a < b ? a : b;
}
template <class V>
inline V greater(V a, V b) {
  return a > b ? a : b;
}
#if defined(__AVX512F__)
inline F32 smaller(F32 a, F32 b) { return (F32)_mm512_min_ps((__m512)a, (__m512)b); }
inline F32 greater(F32 a, F32 b) { return (F32)_mm512_max_ps((__m512)a, (__m512)b); }
#endif
#if defined(__AVX2__)
inline Vector<float, 8> smaller(Vector<float, 8> a, Vector<float, 8> b) { return (Vector<float, 8>)_mm256_min_ps((__m256)a, (__m256)b); }
inline Vector<float, 8> greater(Vector<float, 8> a, Vector<float, 8> b) { return (Vector<float, 8>)_mm256_max_ps((__m256)a, (__m256)b); }
#elif defined(PROSCALE_X86)
inline F32 smaller(F32 a, F32 b) { return (F32)_mm_min_ps((__m128)a, (__m128)b); }
inline F32 greater(F32 a, F32 b) { return (F32)_mm_max_ps((__m128)a, (__m128)b); }
#endif

// a * b + c, rounded once where the set has such an instruction: said outright where the compiler would have to choose between two sums.
inline F32 multiply_add(F32 a, F32 b, F32 c) {
#if defined(__AVX512F__)
  return (F32)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (F32)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

// x between two bounds; NaN becomes `low`.
template <class V>
inline V between(V x, V low, V high) {
  return smaller(greater(x, low), high);
}

// The greatest whole number that is not greater; |x| < 2^31.
template <class V>
inline V floor_of(V x) {
  if constexpr (sizeof(x[0]) == 8) {
    constexpr double shift = 0x1.8p52;  // the sum's last bit is 1, so the processor's rounding makes it whole
    const V whole = (x + shift) - shift;
    return whole > x ? whole - 1.0 : whole;
  } else {
    const V whole = __builtin_convertvector(__builtin_convertvector(x, Vector<int32_t, lanes_of<V>>), V);
    return whole > x ? whole - 1.0f : whole;
  }
}
#if defined(__AVX512F__)
inline F32 floor_of(F32 x) { return (F32)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
#endif
#if defined(__AVX2__)
inline Vector<float, 8> floor_of(Vector<float, 8> x) { return (Vector<float, 8>)_mm256_floor_ps((__m256)x); }
#endif

template <class V>
inline V magnitude(V x) {
  if constexpr (sizeof(x[0]) == 8) {
    return (V)((Vector<int64_t, lanes_of<V>>)x & 0x7fffffffffffffff);
  } else {
    return (V)((Vector<int32_t, lanes_of<V>>)x & 0x7fffffff);
  }
}

// One half of a vector.
template <int half, class E, int count>
inline Vector<E, count / 2> half_of(Vector<E, count> v) {
  constexpr int i = half * count / 2;
  if constexpr (count == 16) {
    return __builtin_shufflevector(v, v, i, i + 1, i + 2, i + 3, i + 4, i + 5, i + 6, i + 7);
  } else if constexpr (count == 8) {
    return __builtin_shufflevector(v, v, i, i + 1, i + 2, i + 3);
  } else {
    return __builtin_shufflevector(v, v, i, i + 1);
  }
}

// The sum of all lanes: the halves are added until two are left.
template <class E, int count>
inline E total_of(Vector<E, count> v) {
  if constexpr (count == 2) {
    return v[0] + v[1];
  } else {
    return total_of<E, count / 2>(half_of<0, E, count>(v) + half_of<1, E, count>(v));
  }
}
template <class V>
inline auto total(V v) {
  return total_of<decltype(V{}[0] + V{}[0]), lanes_of<V>>(v);
}

// `total` of four vectors at once.
template <class E, int count>
inline Vector<E, 4> four_totals_of(Vector<E, count> a, Vector<E, count> b, Vector<E, count> c, Vector<E, count> d) {
  if constexpr (count == 2) {
    return Vector<E, 4>{a[0] + a[1], b[0] + b[1], c[0] + c[1], d[0] + d[1]};
  } else if constexpr (count == 4) {
    const Vector<E, 4> ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const Vector<E, 4> cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
    return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
  } else {
    return four_totals_of<E, count / 2>(
        half_of<0, E, count>(a) + half_of<1, E, count>(a), half_of<0, E, count>(b) + half_of<1, E, count>(b),
        half_of<0, E, count>(c) + half_of<1, E, count>(c), half_of<0, E, count>(d) + half_of<1, E, count>(d)
    );
  }
}
template <class V>
inline auto four_totals(V a, V b, V c, V d) {
  return four_totals_of<decltype(V{}[0] + V{}[0]), lanes_of<V>>(a, b, c, d);
}

// The greatest lane of a vector without NaN.
template <class E, int count>
inline E largest_of(Vector<E, count> v) {
  if constexpr (count == 2) {
    return v[0] > v[1] ? v[0] : v[1];
  } else {
    const Vector<E, count / 2> a = half_of<0, E, count>(v), b = half_of<1, E, count>(v);
    return largest_of<E, count / 2>(a > b ? a : b);
  }
}
template <class V>
inline auto largest(V v) {
  return largest_of<decltype(V{}[0] + V{}[0]), lanes_of<V>>(v);
}

// x0 y0 x1 y1 ... in two vectors -> x0 x1 ... and y0 y1 ..., and back.
template <class V>
inline void deinterleave(V a, V b, V& x, V& y) {
  if constexpr (lanes_of<V> == 16) {
    x = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    y = __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  } else if constexpr (lanes_of<V> == 8) {
    x = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
    y = __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
  } else if constexpr (lanes_of<V> == 4) {
    x = __builtin_shufflevector(a, b, 0, 2, 4, 6);
    y = __builtin_shufflevector(a, b, 1, 3, 5, 7);
  } else {
    x = __builtin_shufflevector(a, b, 0, 2);
    y = __builtin_shufflevector(a, b, 1, 3);
  }
}
template <class V>
inline void interleave(V x, V y, V& a, V& b) {
  if constexpr (lanes_of<V> == 16) {
    a = __builtin_shufflevector(x, y, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    b = __builtin_shufflevector(x, y, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  } else if constexpr (lanes_of<V> == 8) {
    a = __builtin_shufflevector(x, y, 0, 8, 1, 9, 2, 10, 3, 11);
    b = __builtin_shufflevector(x, y, 4, 12, 5, 13, 6, 14, 7, 15);
  } else if constexpr (lanes_of<V> == 4) {
    a = __builtin_shufflevector(x, y, 0, 4, 1, 5);
    b = __builtin_shufflevector(x, y, 2, 6, 3, 7);
  } else {
    a = __builtin_shufflevector(x, y, 0, 2);
    b = __builtin_shufflevector(x, y, 1, 3);
  }
}

// e^x. Valid for |x| <= 87; beyond that, e^87 or e^-87; NaN gives e^87. Relative error at most 2e-7 (tests/model/ops/test_simd.py).
// x = n ln 2 + r, |r| <= ln 2 / 2, Taylor to the 7th power (remainder 5e-9).
template <class V>
inline V exponential(V x) {
  if constexpr (sizeof(x[0]) == 8) {  // as the C library has it
    for (int i = 0; i < lanes_of<V>; ++i) x[i] = exp(x[i]);
    return x;
  } else {
    typedef Vector<int32_t, lanes_of<V>> I;
    const V bounded = greater(smaller(x, all<V>(87.0f)), all<V>(-87.0f));
    const V shifted = bounded * 1.44269504f + 0x1.8p23f;  // the sum's last bits are the whole number nearest to x / ln 2
    const I n = (I)shifted - 0x4b400000;
    const V whole = shifted - 0x1.8p23f;
    const V r = (bounded - whole * 0.693359375f) + whole * 2.12194440e-4f;  // ln 2 in two parts; the first product is exact
    V p = r * (1.0f / 5040) + (1.0f / 720);
    p = p * r + (1.0f / 120);
    p = p * r + (1.0f / 24);
    p = p * r + (1.0f / 6);
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * (V)((n + 127) << 23);
  }
}

}  // namespace
}  // namespace proscale::PROSCALE_SET
