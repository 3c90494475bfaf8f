// Attention inside windows of tokens. Plain data: it crosses into translation units built for other instruction sets.
#pragma once

#include <cstdint>

namespace proscale {

constexpr int64_t window_channels = 32;  // per head, in every Swin

struct WindowJob {
  const void* qkv;     // (windows, tokens, 3, heads, window_channels), float32 or bfloat16
  const float* bias;   // (heads, tokens, columns), very low behind the last token
  void* out;           // (windows, tokens, heads, window_channels) of the same type
  int64_t tokens, heads, columns;
};

struct WindowKernels {
  int64_t group;  // `columns` is `tokens` rounded up to a multiple of it
  // One window; `scratch` has `window_scratch` floats and is aligned to 64 bytes.
  void (*floats)(const WindowJob&, int64_t window, float* scratch);
  void (*bfloats)(const WindowJob&, int64_t window, float* scratch);
};

constexpr int64_t most_rows = 4;  // queries that are computed together

constexpr int64_t window_scratch(int64_t tokens, int64_t columns) {
  return window_channels * (columns + tokens + most_rows) + most_rows * columns;
}

#define PROSCALE_WINDOW_KERNELS(set)                             \
  namespace set {                                                \
  extern const WindowKernels window_kernels;                     \
  }

PROSCALE_WINDOW_KERNELS(plain)
#ifdef PROSCALE_X86
PROSCALE_WINDOW_KERNELS(avx2)
PROSCALE_WINDOW_KERNELS(avx512)
#endif

}  // namespace proscale
