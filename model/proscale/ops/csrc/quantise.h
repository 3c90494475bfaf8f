// Floats -> bytes for products of bytes. Plain data: it crosses into translation units built for other instruction sets.
#pragma once

#include <cstdint>

namespace proscale {

// A float x becomes round(x * inverse + zero), ties to even, kept within 0..255; NaN becomes 0.
struct ByteScale {
  float inverse, zero;
};

// Layer normalisation over `channels`, both arrays of that many floats.
struct Norm {
  const float *weight, *bias;
  float epsilon;
  int64_t channels;
};

struct QuantiseKernels {
  void (*floats)(const float* x, int64_t count, const ByteScale&, uint8_t* out);
  void (*bfloats)(const uint16_t* x, int64_t count, const ByteScale&, uint8_t* out);
  // Every row of `channels` values normalised on the way.
  void (*normed_floats)(const float* x, int64_t rows, const Norm&, const ByteScale&, uint8_t* out);
  void (*normed_bfloats)(const uint16_t* x, int64_t rows, const Norm&, const ByteScale&, uint8_t* out);
};

#define PROSCALE_QUANTISE_KERNELS(set)                                                             \
  namespace set {                                                                                  \
  void quantise_floats(const float*, int64_t, const ByteScale&, uint8_t*);                         \
  void quantise_bfloats(const uint16_t*, int64_t, const ByteScale&, uint8_t*);                     \
  void quantise_normed_floats(const float*, int64_t, const Norm&, const ByteScale&, uint8_t*);     \
  void quantise_normed_bfloats(const uint16_t*, int64_t, const Norm&, const ByteScale&, uint8_t*); \
  constexpr QuantiseKernels quantise_kernels = {                                                   \
      quantise_floats, quantise_bfloats, quantise_normed_floats, quantise_normed_bfloats           \
  };                                                                                               \
  }

PROSCALE_QUANTISE_KERNELS(plain)
#ifdef PROSCALE_X86
PROSCALE_QUANTISE_KERNELS(avx2)
PROSCALE_QUANTISE_KERNELS(avx512)
#endif

}  // namespace proscale
