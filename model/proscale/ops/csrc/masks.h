// From stride-4 mask logits to answers, stripe by stripe. Plain data: it crosses into translation units built for other instruction sets.
#pragma once

#include <cstdint>

namespace proscale {

constexpr int32_t stripe_width = 64;  // columns that are worked on from top to bottom by one thread
constexpr int32_t tile_rows = 32;     // rows of a stripe whose logits are bounded together; the bits of one word of a binary mask
constexpr int64_t most_lanes = 16;    // of the widest vectors; arrays that are read in vectors are padded to a multiple of it

constexpr int64_t padded_to_lanes(int64_t count) { return (count + most_lanes - 1) / most_lanes * most_lanes; }

// A bilinear resizing, or two in a row, along one axis: position i is the sum of weight[k][i] * source[base[i] + k], k = 0, 1, 2. Bases do
// not fall, and all of base, base + 1, base + 2 exist. Arrays go on for `stripe_width` entries of zero weight behind the last position.
struct Resizing {
  int32_t count;
  const int32_t* base;
  const float* weight[3];
};

struct MaskJob {
  const float* logits;  // (queries, height, width) without gaps, stride 4 of the padded picture
  int32_t queries, height, width;
  Resizing rows, columns;  // from the logits to the output; to the resized picture where `combine_first`
  int32_t window;          // most rows of logits under one tile
  float threshold;         // logit from which a pixel is inside a mask
  const float* inverse;    // panoptic: 1 / score of every query
  // Semantic: class probabilities (queries, padded_classes), zero behind the last class, and their sums (queries).
  const float* weights;
  const float* totals;
  int32_t classes, padded_classes;
  bool combine_first;                // scores are summed up at the resized picture's size
  Resizing last_rows, last_columns;  // where `combine_first`: from the resized picture to the output, weight[2] zero
  int32_t span;                      // then: columns of the resized picture under one stripe, in whole vectors
};

// Work of one thread on one stripe; `scratch` is aligned to 64 bytes and has the size that masks_scratch.h tells.
struct MaskKernels {
  // Codes 2 * winner + (inside its own mask), column by column, and pixels of every query's own mask (added).
  void (*panoptic)(const MaskJob&, int32_t stripe, float* scratch, int16_t* codes, int64_t* own);
  // Bits of one query's mask: words (stripe_width, tiles), lowest bit on top; returns the sum of mask probabilities inside.
  double (*instance)(const MaskJob&, int32_t query, int32_t stripe, float* scratch, uint32_t* words);
  // Best classes, column by column, and the sum of their shares by class (added).
  void (*semantic)(const MaskJob&, int32_t stripe, float* scratch, int16_t* codes, double* shares);
};

#define PROSCALE_MASK_KERNELS(set)                                                                   \
  namespace set {                                                                                    \
  void panoptic(const MaskJob&, int32_t stripe, float* scratch, int16_t* codes, int64_t* own);       \
  double instance(const MaskJob&, int32_t query, int32_t stripe, float* scratch, uint32_t* words);   \
  void semantic(const MaskJob&, int32_t stripe, float* scratch, int16_t* codes, double* shares);     \
  constexpr MaskKernels mask_kernels = {panoptic, instance, semantic};                               \
  }

PROSCALE_MASK_KERNELS(plain)
#ifdef PROSCALE_X86
PROSCALE_MASK_KERNELS(avx2)
PROSCALE_MASK_KERNELS(avx512)
#endif

}  // namespace proscale
