// What the CUDA kernels use of CUDA, on the host: the lanes of a warp are fibers, and a shuffle is where all of them meet.
#pragma once

#include <math.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <functional>
#include <memory>

#define __device__
#define __global__
#define __launch_bounds__(...)

using std::max;
using std::min;

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct dim3 {
  uint32_t x, y, z;
  dim3(uint32_t x = 1, uint32_t y = 1, uint32_t z = 1) : x(x), y(y), z(z) {}
};

namespace emulate {

constexpr int lanes = 32;

struct Warp {
  ucontext_t scheduler, fiber[lanes];
  std::unique_ptr<char[]> stack[lanes];
  bool done[lanes];
  // Two sets of slots: a fiber that runs ahead to its next shuffle must not overwrite what others have yet to read.
  uint64_t slot[2][lanes];
  uint32_t shuffles[lanes];
  int current = 0;
  std::function<void()> body;
};

inline thread_local Warp* warp = nullptr;
inline thread_local dim3 thread_index, block_index, grid_size;

inline void run_fiber() {
  Warp& w = *warp;
  w.body();
  w.done[w.current] = true;
}

inline void run_warp(Warp& w, uint32_t first_thread) {
  constexpr size_t stack_size = 256 << 10;
  warp = &w;
  for (int i = 0; i < lanes; ++i) {
    if (!w.stack[i]) w.stack[i] = std::make_unique<char[]>(stack_size);
    w.done[i] = false, w.shuffles[i] = 0;
    getcontext(&w.fiber[i]);
    w.fiber[i].uc_stack.ss_sp = w.stack[i].get();
    w.fiber[i].uc_stack.ss_size = stack_size;
    w.fiber[i].uc_link = &w.scheduler;
    makecontext(&w.fiber[i], run_fiber, 0);
  }
  for (bool running = true; running;) {
    running = false;
    for (int i = 0; i < lanes; ++i) {
      if (w.done[i]) continue;
      w.current = i;
      thread_index.x = first_thread + i;
      swapcontext(&w.scheduler, &w.fiber[i]);
      running |= !w.done[i];
    }
  }
}

template <class Body>
void launch(dim3 grid, int block, Body body) {
  Warp w;
  w.body = body;
  grid_size = grid;
  for (uint32_t z = 0; z < grid.z; ++z)
    for (uint32_t y = 0; y < grid.y; ++y)
      for (uint32_t x = 0; x < grid.x; ++x) {
        block_index = dim3(x, y, z);
        for (int thread = 0; thread < block; thread += lanes) run_warp(w, thread);
      }
}

template <class V>
V exchange(V value, int source) {
  Warp& w = *warp;
  const int self = w.current;
  const uint32_t set = w.shuffles[self]++ & 1;
  w.slot[set][self] = 0;
  memcpy(&w.slot[set][self], &value, sizeof value);
  swapcontext(&w.fiber[self], &w.scheduler);
  memcpy(&value, &w.slot[set][source], sizeof value);
  return value;
}

}  // namespace emulate

#define threadIdx emulate::thread_index
#define blockIdx emulate::block_index
#define gridDim emulate::grid_size

template <class V>
V __shfl_sync(unsigned, V value, int source, int width = 32) {
  const int self = emulate::warp->current;
  return emulate::exchange(value, self / width * width + source % width);
}
template <class V>
V __shfl_xor_sync(unsigned, V value, int mask) {
  return emulate::exchange(value, emulate::warp->current ^ mask);
}
template <class V>
V atomicAdd(V* p, V value) {
  const V before = *p;
  *p += value;
  return before;
}
inline uint32_t atomicMax(uint32_t* p, uint32_t value) {
  const uint32_t before = *p;
  *p = max(*p, value);
  return before;
}
template <class V>
V __ldg(const V* p) {
  return *p;
}
inline uint32_t __umulhi(uint32_t a, uint32_t b) { return static_cast<uint32_t>((uint64_t{a} * b) >> 32); }
inline float __saturatef(float x) { return x > 0.0f ? min(x, 1.0f) : 0.0f; }
inline float __uint_as_float(uint32_t x) { return std::bit_cast<float>(x); }
inline uint32_t __float_as_uint(float x) { return std::bit_cast<uint32_t>(x); }

// Half precision by bits; the compiler's _Float16 is not in every g++.
struct __half {
  uint16_t bits;
};
struct __half2 {
  __half x, y;
};
struct __nv_bfloat16 {
  uint16_t bits;
};
struct __nv_bfloat162 {
  __nv_bfloat16 x, y;
};

inline float __half2float(__half h) {
  const uint32_t sign = uint32_t{h.bits} >> 15 << 31, exponent = h.bits >> 10 & 31, mantissa = h.bits & 1023;
  if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | mantissa << 13);
  const float size =
      exponent ? ldexpf(static_cast<float>(1024 + mantissa), static_cast<int>(exponent) - 25) : ldexpf(static_cast<float>(mantissa), -24);
  return sign ? -size : size;
}
inline __half __float2half(float x) {
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const double size = fabs(static_cast<double>(x));
  if (std::isnan(x)) return {0x7e00};
  if (size == 0.0) return {sign};
  if (size >= 65520.0) return {static_cast<uint16_t>(sign | 0x7c00)};
  int exponent;
  frexp(size, &exponent);
  const int unit = max(exponent - 11, -24);  // exponent of the last place
  const auto units = static_cast<uint32_t>(nearbyint(ldexp(size, -unit)));
  return {static_cast<uint16_t>(sign | (units + (static_cast<uint32_t>(unit + 24) << 10)))};
}
inline float2 __half22float2(__half2 h) { return {__half2float(h.x), __half2float(h.y)}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__float2half(x), __float2half(y)}; }
inline __nv_bfloat16 __float2bfloat16(float x) {
  const uint32_t bits = __float_as_uint(x);
  if (std::isnan(x)) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__float2bfloat16(x), __float2bfloat16(y)}; }
