// The operator on a GPU. The same source is compiled for the host by the tests (PROSCALE_EMULATE: lanes are fibers, shuffles are emulated).
//
// Eight channels per lane, `lanes` lanes per head; a warp holds 32 / lanes heads, for 8 heads of 32 channels one whole query. Every lane
// owns one sample at a time: it works out the sample's 2x2 window and weights once, and the lanes of its head read them by shuffle.
// No shared memory. Windows are clamped into the picture and weights fall to zero by themselves, so no load is conditional.
#pragma once

#include <cstdint>

#ifdef PROSCALE_EMULATE
#include "emulate.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace proscale::cuda {

constexpr int max_levels = 16;
constexpr int max_samples = 128;
constexpr int block_size = 256;
constexpr unsigned full_warp = 0xffffffffu;

// n / divisor for n < 2^31 as a product and shifts.
struct Divisor {
  uint32_t factor = 0, shift = 0;

  Divisor() = default;
  explicit Divisor(uint32_t divisor) {
    while ((uint64_t{1} << shift) < divisor) ++shift;
    factor = static_cast<uint32_t>(((uint64_t{1} << (31 + shift)) + divisor - 1) / divisor);
  }
};

struct LevelParameters {
  int32_t start, width;
  uint32_t step_x, step_y;   // elements to the right neighbour and the one below; 0 where there is none
  float columns, rows;       // width and height
  float first;               // start, of levels that whole numbers in floats reach
  float last_x, last_y;      // largest left column, upper row of a window
  float second_x, second_y;  // 1, or 0 where there is no second column, row
  float inverse_width, inverse_height;
  Divisor by_width;
};

struct Parameters {
  const void *value, *offsets, *logits, *out_gradient;
  const float* reference_points;
  void *out, *offsets_gradient, *logits_gradient;
  void* accumulator;        // float (B, N, heads, d), or int64_t when deterministic
  const uint32_t* largest;  // deterministic: bits of the largest |out_gradient|
  int64_t value_batch, offsets_batch, logits_batch, reference_points_batch, reference_points_query;  // strides in elements
  uint32_t value_row, value_head, offsets_row, offsets_head, logits_row, logits_head;
  int32_t batch, queries, heads, channels, levels, points, samples, tokens;
  uint32_t items;  // queries * heads
  bool float_sampling, deterministic;
  Divisor by_heads, by_points;
  LevelParameters level[max_levels];
};

#ifdef PROSCALE_EMULATE
#define PROSCALE_PARAMETERS const Parameters& p
#else
#define PROSCALE_PARAMETERS const __grid_constant__ Parameters p
#endif

__device__ inline uint32_t divide(uint32_t n, const Divisor& by) { return __umulhi(2 * n, by.factor) >> by.shift; }

// ---- eight channels

template <class T>
struct Eight;

template <>
struct Eight<float> {
  float4 low, high;
  __device__ void load(const float* p) {
    low = __ldg(reinterpret_cast<const float4*>(p)), high = __ldg(reinterpret_cast<const float4*>(p + 4));
  }
  __device__ void store(float* p) const { *reinterpret_cast<float4*>(p) = low, *reinterpret_cast<float4*>(p + 4) = high; }
  __device__ void widen(float (&x)[8]) const {
    x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w, x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
  }
  __device__ void narrow(const float (&x)[8]) { low = {x[0], x[1], x[2], x[3]}, high = {x[4], x[5], x[6], x[7]}; }
};

template <class T>
struct EightHalves {
  uint4 bits;
  __device__ void load(const T* p) { bits = __ldg(reinterpret_cast<const uint4*>(p)); }
  __device__ void store(T* p) const { *reinterpret_cast<uint4*>(p) = bits; }
};

__device__ inline float2 widen_pair(uint32_t bits, __half) {
  __half2 pair;
  memcpy(&pair, &bits, 4);
  return __half22float2(pair);
}
__device__ inline uint32_t narrow_pair(float x, float y, __half) {
  const __half2 pair = __floats2half2_rn(x, y);
  uint32_t bits;
  memcpy(&bits, &pair, 4);
  return bits;
}
__device__ inline float2 widen_pair(uint32_t bits, __nv_bfloat16) {
  return {__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u)};
}
__device__ inline uint32_t narrow_pair(float x, float y, __nv_bfloat16) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
  uint32_t bits;
  memcpy(&bits, &pair, 4);
  return bits;
}

template <class T>
struct HalvesOf : EightHalves<T> {
  __device__ void widen(float (&x)[8]) const {
    const uint32_t words[4] = {this->bits.x, this->bits.y, this->bits.z, this->bits.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = widen_pair(words[i], T{});
      x[2 * i] = pair.x, x[2 * i + 1] = pair.y;
    }
  }
  __device__ void narrow(const float (&x)[8]) {
    this->bits = {narrow_pair(x[0], x[1], T{}), narrow_pair(x[2], x[3], T{}), narrow_pair(x[4], x[5], T{}), narrow_pair(x[6], x[7], T{})};
  }
};
template <>
struct Eight<__half> : HalvesOf<__half> {};
template <>
struct Eight<__nv_bfloat16> : HalvesOf<__nv_bfloat16> {};

// ---- offsets and logits: of value's type, or float

template <class T>
__device__ inline float2 load_pair(const void* base, int64_t i, bool is_float) {
  if (is_float) return *reinterpret_cast<const float2*>(static_cast<const float*>(base) + i);
  return widen_pair(*reinterpret_cast<const uint32_t*>(static_cast<const uint16_t*>(base) + i), T{});
}
template <>
__device__ inline float2 load_pair<float>(const void* base, int64_t i, bool) {
  return *reinterpret_cast<const float2*>(static_cast<const float*>(base) + i);
}
template <class T>
__device__ inline float load_one(const void* base, int64_t i, bool is_float) {
  if (is_float) return static_cast<const float*>(base)[i];
  return widen_pair(static_cast<const uint16_t*>(base)[i], T{}).x;
}
template <>
__device__ inline float load_one<float>(const void* base, int64_t i, bool) {
  return static_cast<const float*>(base)[i];
}
template <class T>
__device__ inline void store_pair(void* base, int64_t i, float2 v, bool is_float) {
  if (is_float) {
    *reinterpret_cast<float2*>(static_cast<float*>(base) + i) = v;
  } else {
    const uint32_t bits = narrow_pair(v.x, v.y, T{});
    *reinterpret_cast<uint32_t*>(static_cast<char*>(base) + 2 * i) = bits;
  }
}
template <>
__device__ inline void store_pair<float>(void* base, int64_t i, float2 v, bool) {
  *reinterpret_cast<float2*>(static_cast<float*>(base) + i) = v;
}
template <class T>
__device__ inline void store_one(void* base, int64_t i, float v, bool is_float) {
  if (is_float) {
    static_cast<float*>(base)[i] = v;
  } else {
    static_cast<uint16_t*>(base)[i] = static_cast<uint16_t>(narrow_pair(v, 0.0f, T{}));
  }
}
template <>
__device__ inline void store_one<float>(void* base, int64_t i, float v, bool) {
  static_cast<float*>(base)[i] = v;
}

// `levels` > 0: so many levels of at least two rows and columns, fewer than 2^24 tokens in all, `fixed_heads` heads of 32 channels without
// gaps, `lanes` = 4 points, offsets in value's type, no reference points, sums in any order. A warp is one query, and a token's
// neighbours lie at distances known when compiling.
constexpr int fixed_heads = 8, fixed_row = 256;

template <int levels>
__device__ inline bool float_sampling(const Parameters& p) {
  return levels == 0 && p.float_sampling;
}
template <int levels>
__device__ inline bool has_reference_points(const Parameters& p) {
  return levels == 0 && p.reference_points != nullptr;
}

// ---- where a lane works

// One query and head, shared by `lanes` lanes. In a warp with work, lanes without any repeat the last item, so that shuffles stay whole,
// and store nothing.
template <int lanes, int levels>
struct Item {
  uint32_t batch, query, head, lane;
  bool live, warp_live;
  float x, y;  // centre of the query's token, in pixels of its own level, or its reference point, in 0..1
  float u, v;  // the same in 0..1
  float inverse_width, inverse_height, width, height;  // of its own level

  __device__ explicit Item(const Parameters& p) {
    batch = blockIdx.z * gridDim.y + blockIdx.y;
    lane = threadIdx.x % lanes;
    if constexpr (levels > 0) {
      query = blockIdx.x * (block_size / 32) + threadIdx.x / 32;
      head = threadIdx.x % 32 / lanes;
      live = warp_live = query < static_cast<uint32_t>(p.queries);
    } else {
      uint32_t item = blockIdx.x * (block_size / lanes) + threadIdx.x / lanes;
      live = item < p.items, warp_live = true;
      item = live ? item : p.items - 1;
      query = divide(item, p.by_heads);
      head = item - query * p.heads;
    }
    warp_live = warp_live && batch < static_cast<uint32_t>(p.batch);
  }

  __device__ void locate(const Parameters& p) {
    if (has_reference_points<levels>(p)) {
      const float* point = p.reference_points + batch * p.reference_points_batch + query * p.reference_points_query;
      x = u = point[0], y = v = point[1];
      return;
    }
    int own = 0;
    if constexpr (levels > 0) {
#pragma unroll
      for (int l = 1; l < levels; ++l)
        if (query >= static_cast<uint32_t>(p.level[l].start)) own = l;
    } else {
      for (int l = 1; l < p.levels; ++l)
        if (query >= static_cast<uint32_t>(p.level[l].start)) own = l;
    }
    const LevelParameters& level = p.level[own];
    const uint32_t token = query - level.start, row = divide(token, level.by_width);
    x = static_cast<float>(token - row * level.width) + 0.5f, y = static_cast<float>(row) + 0.5f;
    width = level.columns, height = level.rows;
    inverse_width = level.inverse_width, inverse_height = level.inverse_height;
    u = x * inverse_width, v = y * inverse_height;
  }

  // Index of the first logit, the first offset of this query and head.
  __device__ int64_t logits(const Parameters& p) const {
    return batch * p.logits_batch + (static_cast<uint64_t>(query) * p.logits_row + head * p.logits_head);
  }
  __device__ int64_t offsets(const Parameters& p) const {
    return batch * p.offsets_batch + (static_cast<uint64_t>(query) * p.offsets_row + head * p.offsets_head);
  }
  // A head whose channels do not fill its lanes: the idle ones read what the first reads, and store nothing.
  __device__ bool has_channels(const Parameters& p) const { return levels > 0 || lane * 8 < static_cast<uint32_t>(p.channels); }
  // Index of this lane's channels within a token of value, and in tensors like out.
  __device__ uint32_t in_value(const Parameters& p) const {
    if constexpr (levels > 0) return threadIdx.x % 32 * 8;
    return head * p.value_head + (has_channels(p) ? lane * 8 : 0);
  }
  __device__ int64_t in_out(const Parameters& p) const {
    const int64_t row = static_cast<int64_t>(batch) * p.queries + query;
    if constexpr (levels > 0) return row * fixed_row + threadIdx.x % 32 * 8;
    return (row * p.heads + head) * p.channels + (has_channels(p) ? lane * 8 : 0);
  }
};

// The columns, or the rows, of one sample's window. The position is kept as a whole number and a small rest, so that no digit is spent on
// the size of the picture: (centre to / from - 1/2) = whole + rest, with the products below exact up to 2^24.
struct WindowSpan {
  float place;     // of the window, clamped into the level; a whole number
  float w0, w1;    // weights of its first and second column
  float distance;  // of the sample from the first column

  __device__ WindowSpan(bool has_reference, float centre, float share, float inverse_from, float from, float to, float last, float offset) {
    const float whole = floorf(share * to);
    float t;
    if (has_reference) {
      t = (fmaf(share, to, -whole) - 0.5f) + offset;
    } else {
      t = fmaf(fmaf(centre, to, -fmaf(whole, from, 0.5f * from)), inverse_from, offset);
    }
    // Whole numbers in floats; infinities and NaN end with weights of zero, as saturating makes zero of it.
    const float down = floorf(t);
    const float left = whole + down;
    place = fminf(fmaxf(left, 0.0f), last);
    distance = (left - place) + (t - down);
    w0 = __saturatef(1.0f - fabsf(distance));
    w1 = __saturatef(1.0f - fabsf(distance - 1.0f));
  }

  // Derivative of the weights by the position; from the right at the kinks, as floor has it.
  __device__ static float slope(float d) { return d >= 0.0f ? (d < 1.0f ? -1.0f : 0.0f) : (d >= -1.0f ? 1.0f : 0.0f); }
};

// The 2x2 pixels around a sample in one level.
template <int lanes, int levels>
struct Window {
  WindowSpan x, y;
  uint32_t token;  // left upper

  __device__ Window(const Parameters& p, const Item<lanes, levels>& item, const LevelParameters& level, float2 offset)
      : x(has_reference_points<levels>(p), item.x, item.u, item.inverse_width, item.width, level.columns, level.last_x, offset.x),
        y(has_reference_points<levels>(p), item.y, item.v, item.inverse_height, item.height, level.rows, level.last_y, offset.y) {
    if constexpr (levels > 0) {
      token = static_cast<uint32_t>(fmaf(y.place, level.columns, x.place + level.first));
    } else {
      token = level.start + static_cast<int32_t>(y.place) * level.width + static_cast<int32_t>(x.place);
      x.w1 *= level.second_x, y.w1 *= level.second_y;
    }
  }
};

template <int lanes>
__device__ inline float over_lanes_sum(float v) {
#pragma unroll
  for (int i = lanes / 2; i > 0; i /= 2) v += __shfl_xor_sync(full_warp, v, i);
  return v;
}
template <int lanes>
__device__ inline float over_lanes_max(float v) {
#pragma unroll
  for (int i = lanes / 2; i > 0; i /= 2) v = fmaxf(v, __shfl_xor_sync(full_warp, v, i));
  return v;
}

constexpr float log2_e = 1.44269504088896f;
constexpr float no_logit = -1e30f;  // of a lane that holds no sample; e^(no_logit - m) is 0

#ifdef PROSCALE_EMULATE
__device__ inline float power_of_two(float x) { return exp2f(x); }
__device__ inline float inverse(float x) { return 1.0f / x; }
template <class T>
__device__ inline const T* settled(const T* p) {
  return p;
}
#else
// Without the instructions that exp2f and a division add for subnormal numbers: sums here are at least 1, and what is that small is 0.
__device__ inline float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline float inverse(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// An address that the compiler takes as it is: it would put off its last addition, and make it again for every load.
template <class T>
__device__ inline const T* settled(const T* p) {
  asm("" : "+l"(p));
  return p;
}
#endif

// Calls body(round, k, level index, valid) for the samples that this lane owns. With `levels` known, points == lanes: one level per round.
template <int lanes, int levels, class Body>
__device__ inline void own_samples(const Parameters& p, uint32_t lane, Body body) {
  if constexpr (levels > 0) {
#pragma unroll
    for (int round = 0; round < levels; ++round) body(round, static_cast<int>(round * lanes + lane), round, true);
  } else {
#pragma unroll 1
    for (int first = 0, round = 0; first < p.samples; first += lanes, ++round) {
      const int k = first + static_cast<int>(lane);
      const bool valid = k < p.samples;
      body(round, k, valid ? static_cast<int>(divide(k, p.by_points)) : 0, valid);
    }
  }
}

// Softmax over the samples of one head, shared by its lanes: e^(logit - highest) * scale, in powers of two.
template <class T, int lanes, int levels>
struct Softmax {
  float highest, scale;  // the highest logit times log2 e
  float own[levels > 0 ? levels : 1];

  __device__ Softmax(const Parameters& p, uint32_t lane, int64_t row) {
    highest = no_logit;
    own_samples<lanes, levels>(p, lane, [&](int round, int k, int, bool valid) {
      const float logit = valid ? load_one<T>(p.logits, row + k, float_sampling<levels>(p)) : no_logit;
      if constexpr (levels > 0) own[round] = logit;
      highest = fmaxf(highest, logit);
    });
    highest = over_lanes_max<lanes>(highest) * log2_e;
    float sum = 0.0f;
    own_samples<lanes, levels>(p, lane, [&](int round, int k, int, bool valid) {
      const float e = power(p, row, round, k, valid);
      if constexpr (levels > 0) own[round] = e;
      sum += e;
    });
    scale = inverse(over_lanes_sum<lanes>(sum));
  }

  __device__ float power(const Parameters& p, int64_t row, [[maybe_unused]] int round, int k, bool valid) const {
    float logit;
    if constexpr (levels > 0) {
      logit = own[round];
    } else {
      logit = valid ? load_one<T>(p.logits, row + k, float_sampling<levels>(p)) : no_logit;
    }
    return power_of_two(fmaf(logit, log2_e, -highest));
  }

  __device__ float weight(const Parameters& p, int64_t row, int round, int k, bool valid) const {
    if constexpr (levels > 0) {
      return own[round] * scale;
    } else {
      return power(p, row, round, k, valid) * scale;
    }
  }
};

template <class T>
__device__ inline void add_scaled(float (&sum)[8], const Eight<T>& eight, float weight) {
  float x[8];
  eight.widen(x);
#pragma unroll
  for (int c = 0; c < 8; ++c) sum[c] = fmaf(x[c], weight, sum[c]);
}

// In bytes, which is one instruction.
template <class T>
__device__ inline const T* fixed_token(const T* value, uint32_t token) {
  return reinterpret_cast<const T*>(reinterpret_cast<const char*>(value) + uint64_t{token} * (fixed_row * sizeof(T)));
}

// T: type of value and out. levels: 0 for any shape. Blocks per multiprocessor: fewer registers than these leave it would spill some.
template <class T, int lanes, int levels>
__global__ void __launch_bounds__(block_size, levels == 1 ? 5 : 3) forward_kernel(PROSCALE_PARAMETERS) {
  Item<lanes, levels> item(p);
  if (!item.warp_live) return;
  item.locate(p);
  const int64_t logits = item.logits(p), offsets = item.offsets(p);
  const Softmax<T, lanes, levels> softmax(p, item.lane, logits);
  const T* const value = settled(static_cast<const T*>(p.value) + item.batch * p.value_batch + item.in_value(p));
  float sum[8] = {};
  own_samples<lanes, levels>(p, item.lane, [&](int round, int k, int l, bool valid) {
    const LevelParameters& level = p.level[l];
    const float2 offset = valid ? load_pair<T>(p.offsets, offsets + 2 * k, float_sampling<levels>(p)) : float2{0.0f, 0.0f};
    const Window<lanes, levels> window(p, item, level, offset);
    const float attention = softmax.weight(p, logits, round, k, valid);
    const float w0 = window.y.w0 * attention, w1 = window.y.w1 * attention;
    const float w00 = w0 * window.x.w0, w01 = w0 * window.x.w1, w10 = w1 * window.x.w0, w11 = w1 * window.x.w1;
    const T* const below = settled(value + level.step_y);
#pragma unroll
    for (int owner = 0; owner < lanes; ++owner) {
      const uint32_t token = __shfl_sync(full_warp, window.token, owner, lanes);
      const T *row0, *row1;
      uint32_t step_x = fixed_row;
      if constexpr (levels > 0) {
        row0 = fixed_token(value, token), row1 = fixed_token(below, token);
      } else {
        row0 = value + static_cast<uint64_t>(token) * p.value_row;
        row1 = row0 + __shfl_sync(full_warp, level.step_y, owner, lanes);
        step_x = __shfl_sync(full_warp, level.step_x, owner, lanes);
      }
      Eight<T> v00, v01, v10, v11;
      v00.load(row0);
      v01.load(row0 + step_x);
      v10.load(row1);
      v11.load(row1 + step_x);
      add_scaled(sum, v00, __shfl_sync(full_warp, w00, owner, lanes));
      add_scaled(sum, v01, __shfl_sync(full_warp, w01, owner, lanes));
      add_scaled(sum, v10, __shfl_sync(full_warp, w10, owner, lanes));
      add_scaled(sum, v11, __shfl_sync(full_warp, w11, owner, lanes));
    }
  });
  if (!item.live || !item.has_channels(p)) return;
  Eight<T> result;
  result.narrow(sum);
  result.store(static_cast<T*>(p.out) + item.in_out(p));
}

// ---- backward

// Deterministic sums are sums of whole numbers, which come out the same in any order. One unit is 2^-40 of the largest incoming gradient:
// every contribution is at most that gradient, and 2^22 of them fit into what is left of 63 bits.
__device__ inline float unit_exponent(uint32_t largest) {
  const int exponent = static_cast<int>(largest >> 23) - 126;  // largest < 2^exponent
  return static_cast<float>(40 - exponent);
}

__device__ inline void add_to(float* p, const float (&g)[8], float weight) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  atomicAdd(reinterpret_cast<float4*>(p), float4{g[0] * weight, g[1] * weight, g[2] * weight, g[3] * weight});
  atomicAdd(reinterpret_cast<float4*>(p) + 1, float4{g[4] * weight, g[5] * weight, g[6] * weight, g[7] * weight});
#else
#pragma unroll
  for (int c = 0; c < 8; ++c) atomicAdd(p + c, g[c] * weight);
#endif
}

__device__ inline void add_to(unsigned long long* p, const float (&g)[8], float weight, float exponent) {
#pragma unroll
  for (int c = 0; c < 8; ++c) {
    const double units = ldexp(static_cast<double>(g[c] * weight), static_cast<int>(exponent));
    atomicAdd(p + c, static_cast<unsigned long long>(static_cast<long long>(rint(units))));
  }
}

template <class T>
__device__ inline float dot(const float (&g)[8], const Eight<T>& eight) {
  float x[8], sum = 0.0f;
  eight.widen(x);
#pragma unroll
  for (int c = 0; c < 8; ++c) sum = fmaf(x[c], g[c], sum);
  return sum;
}

template <class T, int lanes, int levels>
__global__ void __launch_bounds__(block_size) backward_kernel(PROSCALE_PARAMETERS) {
  Item<lanes, levels> item(p);
  if (!item.warp_live) return;
  item.locate(p);
  const int64_t logits = item.logits(p), offsets = item.offsets(p);
  const Softmax<T, lanes, levels> softmax(p, item.lane, logits);
  const T* const value = settled(static_cast<const T*>(p.value) + item.batch * p.value_batch + item.in_value(p));
  const int32_t heads = levels > 0 ? fixed_heads : p.heads, token_size = levels > 0 ? fixed_row : p.heads * p.channels;
  const int64_t row = (static_cast<int64_t>(item.batch) * p.queries + item.query) * heads + item.head;
  const bool adds = item.live && item.has_channels(p);
  float g[8] = {};
  if (item.has_channels(p)) {
    Eight<T> incoming;
    incoming.load(static_cast<const T*>(p.out_gradient) + item.in_out(p));
    incoming.widen(g);
  }
  // The accumulator is laid out without gaps, unlike value.
  const int64_t target = static_cast<int64_t>(item.batch) * p.tokens * token_size +
                         (levels > 0 ? threadIdx.x % 32 * 8 : item.head * p.channels + (item.has_channels(p) ? item.lane * 8 : 0));
  const float exponent = levels == 0 && p.deterministic ? unit_exponent(*p.largest) : 0.0f;
  float sampled[levels > 0 ? levels : max_samples];  // what each own sample gave: incoming gradient . sample
  float expected = 0.0f;
  own_samples<lanes, levels>(p, item.lane, [&](int round, int k, int l, bool valid) {
    const LevelParameters& level = p.level[l];
    const float2 offset = valid ? load_pair<T>(p.offsets, offsets + 2 * k, float_sampling<levels>(p)) : float2{0.0f, 0.0f};
    const Window<lanes, levels> window(p, item, level, offset);
    const WindowSpan &x = window.x, &y = window.y;
    const float attention = softmax.weight(p, logits, round, k, valid);
    const float w0 = y.w0 * attention, w1 = y.w1 * attention;
    const float w00 = w0 * x.w0, w01 = w0 * x.w1, w10 = w1 * x.w0, w11 = w1 * x.w1;
    float d00 = 0.0f, d01 = 0.0f, d10 = 0.0f, d11 = 0.0f;  // incoming gradient . each corner of the own sample
#pragma unroll
    for (int owner = 0; owner < lanes; ++owner) {
      uint32_t step_x = fixed_row, step_y = level.step_y;
      int32_t next_x = 1, next_y = level.width;
      if constexpr (levels == 0) {
        step_x = level.step_x;
        next_x = step_x ? 1 : 0, next_y = step_y ? level.width : 0;
        step_x = __shfl_sync(full_warp, step_x, owner, lanes), step_y = __shfl_sync(full_warp, step_y, owner, lanes);
        next_x = __shfl_sync(full_warp, next_x, owner, lanes), next_y = __shfl_sync(full_warp, next_y, owner, lanes);
      }
      const int32_t at = __shfl_sync(full_warp, static_cast<int32_t>(window.token), owner, lanes);
      const float b00 = __shfl_sync(full_warp, w00, owner, lanes), b01 = __shfl_sync(full_warp, w01, owner, lanes);
      const float b10 = __shfl_sync(full_warp, w10, owner, lanes), b11 = __shfl_sync(full_warp, w11, owner, lanes);
      const T* const row0 = value + static_cast<uint64_t>(at) * (levels > 0 ? fixed_row : p.value_row);
      const T* const row1 = row0 + step_y;
      Eight<T> v00, v01, v10, v11;
      v00.load(row0);
      v01.load(row0 + step_x);
      v10.load(row1);
      v11.load(row1 + step_x);
      const float s00 = over_lanes_sum<lanes>(dot(g, v00)), s01 = over_lanes_sum<lanes>(dot(g, v01));
      const float s10 = over_lanes_sum<lanes>(dot(g, v10)), s11 = over_lanes_sum<lanes>(dot(g, v11));
      if (item.lane == static_cast<uint32_t>(owner)) d00 = s00, d01 = s01, d10 = s10, d11 = s11;
      if (adds) {
        const int64_t i00 = target + static_cast<int64_t>(at) * token_size, i10 = i00 + static_cast<int64_t>(next_y) * token_size;
        const int64_t right = static_cast<int64_t>(next_x) * token_size;
        if (levels == 0 && p.deterministic) {
          unsigned long long* const sum = static_cast<unsigned long long*>(p.accumulator);
          if (b00 != 0.0f) add_to(sum + i00, g, b00, exponent);
          if (b01 != 0.0f) add_to(sum + i00 + right, g, b01, exponent);
          if (b10 != 0.0f) add_to(sum + i10, g, b10, exponent);
          if (b11 != 0.0f) add_to(sum + i10 + right, g, b11, exponent);
        } else {
          // A sample beside the picture adds nothing, and there may be many of them: they would all queue at its border.
          float* const sum = static_cast<float*>(p.accumulator);
          if (b00 != 0.0f) add_to(sum + i00, g, b00);
          if (b01 != 0.0f) add_to(sum + i00 + right, g, b01);
          if (b10 != 0.0f) add_to(sum + i10, g, b10);
          if (b11 != 0.0f) add_to(sum + i10 + right, g, b11);
        }
      }
    }
    const float upper = d00 * x.w0 + d01 * x.w1, lower = d10 * x.w0 + d11 * x.w1;
    const float sample = upper * y.w0 + lower * y.w1;
    sampled[round] = sample;
    expected += attention * sample;
    const float x0 = WindowSpan::slope(x.distance), x1 = WindowSpan::slope(x.distance - 1.0f) * level.second_x;
    const float y0 = WindowSpan::slope(y.distance), y1 = WindowSpan::slope(y.distance - 1.0f) * level.second_y;
    const float by_x = attention * ((d00 * x0 + d01 * x1) * y.w0 + (d10 * x0 + d11 * x1) * y.w1);
    const float by_y = attention * (upper * y0 + lower * y1);
    if (item.live && valid) store_pair<T>(p.offsets_gradient, (row * p.samples + k) * 2, float2{by_x, by_y}, float_sampling<levels>(p));
  });
  expected = over_lanes_sum<lanes>(expected);
  own_samples<lanes, levels>(p, item.lane, [&](int round, int k, int, bool valid) {
    const float gradient = softmax.weight(p, logits, round, k, valid) * (sampled[round] - expected);
    if (item.live && valid) store_one<T>(p.logits_gradient, row * p.samples + k, gradient, float_sampling<levels>(p));
  });
}

// Bits of the largest |x|; those of an infinity or NaN are larger than all others.
template <class T>
__global__ void __launch_bounds__(block_size) largest_kernel(const T* x, int64_t eights, uint32_t* largest) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * block_size + threadIdx.x;
  uint32_t bits = 0;
  if (i < eights) {
    Eight<T> eight;
    float v[8];
    eight.load(x + 8 * i);
    eight.widen(v);
    for (int c = 0; c < 8; ++c) bits = max(bits, __float_as_uint(v[c]) & 0x7fffffffu);
  }
  for (int d = 16; d > 0; d /= 2) bits = max(bits, __shfl_xor_sync(full_warp, bits, d));
  if (threadIdx.x % 32 == 0 && bits) atomicMax(largest, bits);
}

// Sums into value's type. An infinite or undefined incoming gradient makes all of them undefined.
template <class T>
__global__ void __launch_bounds__(block_size) convert_kernel(const void* sums, T* to, int64_t eights, const uint32_t* largest) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * block_size + threadIdx.x;
  if (i >= eights) return;
  float v[8];
  if (largest) {
    const bool broken = *largest >= 0x7f800000u;
    const int exponent = -static_cast<int>(unit_exponent(*largest));
    for (int c = 0; c < 8; ++c) {
      const long long units = static_cast<const long long*>(sums)[8 * i + c];
      v[c] = broken ? __uint_as_float(0x7fffffffu) : static_cast<float>(ldexp(static_cast<double>(units), exponent));
    }
  } else {
    Eight<float> eight;
    eight.load(static_cast<const float*>(sums) + 8 * i);
    eight.widen(v);
  }
  Eight<T> result;
  result.narrow(v);
  result.store(to + 8 * i);
}

}  // namespace proscale::cuda
