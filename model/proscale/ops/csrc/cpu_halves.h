// Half precision in memory, float in registers.
// Part of cpu_kernel.cpp, built once per instruction set: everything is in an unnamed namespace, so that the linker mixes no two of them.
#pragma once

#include "cpu_vectors.h"

namespace proscale {
namespace {

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

// The first `count` of a vector's elements, in arithmetic type; zeros after them. Nothing beyond them is read.
template <class V, class A>
  requires(sizeof(A) > 2)
inline V load_part(const A* p, int count) {
  V v = {};
  memcpy(&v, p, sizeof(A) * count);
  return v;
}
template <class V, class H>
  requires(sizeof(H) == 2)
inline V load_part(const H* p, int count) {
  H part[16] = {};
  memcpy(part, p, sizeof(H) * count);
  return widen16(part);
}
#if defined(__AVX512F__)
template <>
inline f32x16 load_part<f32x16>(const float* p, int count) {
  return (f32x16)_mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), p);
}
template <>
inline f32x16 load_part<f32x16>(const Half* p, int count) {
  return (f32x16)_mm512_cvtph_ps(_mm256_maskz_loadu_epi16((__mmask16)((1u << count) - 1), p));
}
template <>
inline f32x16 load_part<f32x16>(const BFloat* p, int count) {
  return (f32x16)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16((__mmask16)((1u << count) - 1), p)), 16);
}
#elif defined(__AVX2__)
template <>
inline f32x16 load_part<f32x16>(const float* p, int count) {
  f32x16 v;
  for (int i = 0; i < 2; ++i) {
    const __m256i index = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(8 * i));
    const __m256 part = _mm256_maskload_ps(p + 8 * i, _mm256_cmpgt_epi32(_mm256_set1_epi32(count), index));
    memcpy((char*)&v + 32 * i, &part, 32);
  }
  return v;
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

}  // namespace
}  // namespace proscale
