// Attention of many queries to many keys. Plain data: it crosses into translation units built for other instruction sets.
#pragma once

#include <cstdint>

namespace proscale {

// Distances between neighbours, in elements; channels lie side by side.
struct AttentionStrides {
  int64_t batch, head, token;
};

struct AttentionJob {
  const void* query;       // (batch, heads, queries, channels), float32 or bfloat16
  const void* key;         // (batch, heads, keys, channels), of the same type, as are value and out
  const void* value;       // as key
  const uint8_t* allowed;  // (batch, queries, keys): 0 where a query may not look; or null
  void* out;               // (batch, queries, heads, channels), contiguous
  AttentionStrides query_strides, key_strides, value_strides;
  int64_t batch, heads, queries, keys, channels;
  float scale;           // log2(e) / sqrt(channels): softmax is computed with powers of two
  int64_t chunk;         // keys whose products are in memory at once
  int64_t chunks;        // of a head
  int64_t blocks;        // of `query_block` queries, of a head
  int64_t chunk_floats;  // that `packed` has for a chunk
  void* packed;          // aligned: keys and values of all chunks, in the order in which they are read
};

struct AttentionKernels {
  int64_t group;  // `chunk` is a multiple of it
  // Keys and values of one chunk; chunks are numbered within heads, heads within pictures.
  void (*pack_floats)(const AttentionJob&, int64_t chunk);
  void (*pack_bfloats)(const AttentionJob&, int64_t chunk);
  // One block of queries; blocks are numbered like chunks. `scratch` is aligned and has `attention_scratch` floats.
  void (*floats)(const AttentionJob&, int64_t block, float* scratch);
  void (*bfloats)(const AttentionJob&, int64_t block, float* scratch);
};

constexpr int64_t query_block = 48;    // queries that one call of a kernel answers
constexpr int64_t channels_step = 16;  // `channels` is a multiple of it
constexpr int64_t most_channels = 256;

constexpr int64_t attention_scratch(int64_t channels, int64_t chunk) { return query_block * (2 * channels + chunk); }

#define PROSCALE_ATTENTION_KERNELS(set)                      \
  namespace set {                                            \
  extern const AttentionKernels attention_kernels;           \
  }

PROSCALE_ATTENTION_KERNELS(plain)
#ifdef PROSCALE_X86
PROSCALE_ATTENTION_KERNELS(avx2)
PROSCALE_ATTENTION_KERNELS(avx512)
PROSCALE_ATTENTION_KERNELS(avx512bf16)
#endif

}  // namespace proscale
