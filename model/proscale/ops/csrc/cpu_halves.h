// Half precision in memory, float in registers. Part of cpu_kernel.cpp.
#pragma once

#include "simd.h"

namespace proscale::PROSCALE_SET {
namespace {

struct Half {
  uint16_t bits;
};
struct BFloat {
  uint16_t bits;
};

// `narrow` rounds a vector to nearest, ties to even.

inline void narrow(F32 v, BFloat* p) {
  const U32 bits = (U32)v;
  const U32 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const I32 is_nan = v != v;
  const U32 result = is_nan ? ((bits >> 16) | 0x40) : rounded;
  store(p, __builtin_convertvector(result, U16));
}

inline void narrow(F32 v, Half* p) {
#if defined(__AVX512F__)
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__F16C__)
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__aarch64__)
  __fp16 h[lanes];
  for (int i = 0; i < lanes; ++i) h[i] = (__fp16)v[i];
  memcpy(p, h, sizeof h);
#else
  // The float adder rounds subnormal halves at the right place; the others are rounded as BFloat's are, three bits lower.
  const U32 bits = (U32)v, sign = (bits >> 16) & 0x8000, size = bits & 0x7fffffff;
  const U32 small = (U32)((F32)size + 0.5f) - 0x3f000000;
  const U32 normal = (size - 0x38000000 + 0xfff + ((size >> 13) & 1)) >> 13;
  U32 result = (I32)size < 0x38800000 ? small : normal;
  result = (I32)size >= 0x477ff000 ? U32{} + 0x7c00 : result;  // rounds to 65536 or more
  result = (I32)size > 0x7f800000 ? U32{} + 0x7e00 : result;
  store(p, __builtin_convertvector(sign | result, U16));
#endif
}

// `widen` reads halves into a vector of floats.

template <class V>
inline V widen(const BFloat* p) {
  constexpr int count = lanes_of<V>;
  return (V)(__builtin_convertvector(load<Vector<uint16_t, count>>(p), Vector<uint32_t, count>) << 16);
}

template <class V>
inline V widen(const Half* p) {
  constexpr int count = lanes_of<V>;
#if defined(__AVX512F__)
  if constexpr (count == 16) return (V)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#endif
#if defined(__F16C__)
  if constexpr (count == 8) return (V)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#elif defined(__aarch64__)
  V v;
  __fp16 h[count];
  memcpy(h, p, sizeof h);
  for (int i = 0; i < count; ++i) v[i] = (float)h[i];
  return v;
#else
  // Exponents are moved by multiplying with 2^112, which also makes the subnormal halves right.
  typedef Vector<uint32_t, count> U;
  const U h = __builtin_convertvector(load<Vector<uint16_t, count>>(p), U);
  const V scaled = (V)((h & 0x7fff) << 13) * 0x1p112f;
  const Vector<int32_t, count> special = (Vector<int32_t, count>)((h & 0x7c00) == 0x7c00);
  const U bits = special ? (((h & 0x3ff) << 13) | 0x7f800000u) : (U)scaled;
  return (V)(bits | ((h & 0x8000) << 16));
#endif
}

#if defined(__AVX512F__)
// `widen` of 16 halves of a kind that are in a register.
template <class V>
inline V widened(__m256i v, const BFloat*) {
  return (V)_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16);
}
template <class V>
inline V widened(__m256i v, const Half*) {
  return (V)_mm512_cvtph_ps(v);
}
#endif

// The first `count` elements as a vector of arithmetic type, zeros behind them. Nothing beyond them is read.
template <class V, class A>
  requires(sizeof(A) > 2)
inline V load_part(const A* p, int count) {
  if (count >= lanes_of<V>) return load<V>(p);
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64 && sizeof(A) == 4) return (V)_mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), p);
#endif
#if defined(__AVX2__)
  if constexpr (sizeof(V) == 32 && sizeof(A) == 4) {
    const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return (V)_mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(count), index));
  }
#endif
  V v = {};
  for (int i = 0; i < count; ++i) v[i] = p[i];
  return v;
}
template <class V, class H>
  requires(sizeof(H) == 2)
inline V load_part(const H* p, int count) {
  if (count >= lanes_of<V>) return widen<V>(p);
#if defined(__AVX512F__)
  if constexpr (lanes_of<V> == 16) return widened<V>(_mm256_maskz_loadu_epi16((__mmask16)((1u << count) - 1), p), p);
#endif
  alignas(32) H part[lanes_of<V>] = {};
  if (2 * count == lanes_of<V>) {
    memcpy(part, p, sizeof part / 2);  // of a size known when compiling, so not a call
  } else {
    for (int i = 0; i < count; ++i) part[i] = p[i];
  }
  return widen<V>(part);
}

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
  for (; i + lanes <= count; i += lanes) store(to + i, widen<F32>(from + i));
  if (i < count) {
    H part[lanes] = {};
    memcpy(part, from + i, sizeof(H) * (count - i));
    const F32 v = widen<F32>(part);
    memcpy(to + i, &v, sizeof(float) * (count - i));
  }
}

template <class A>
  requires(sizeof(A) > 2)
inline void narrow(const A* from, A* to, int count) {
  constexpr int step = 16 / sizeof(A);
  int i = 0;
  for (; i + step <= count; i += step) memcpy(to + i, from + i, 16);  // of a size known when compiling, so not a call
  for (; i < count; ++i) to[i] = from[i];
}

template <class H>
  requires(sizeof(H) == 2)
inline void narrow(const float* from, H* to, int count) {
  int i = 0;
  for (; i + lanes <= count; i += lanes) narrow(load<F32>(from + i), to + i);
  if (i < count) {
    F32 v = {};
    memcpy(&v, from + i, sizeof(float) * (count - i));
    H part[lanes];
    narrow(v, part);
    memcpy(to + i, part, sizeof(H) * (count - i));
  }
}

}  // namespace
}  // namespace proscale::PROSCALE_SET
