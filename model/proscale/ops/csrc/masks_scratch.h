// Scratch memory of the mask kernels. Each struct lays its arrays out in one place: over memory it hands them out, over none it measures
// them. So what is allocated and what is used cannot differ.
#pragma once

#include "masks.h"

namespace proscale {
namespace {  // a copy in each translation unit: they are built for different instruction sets

class Layout {
 public:
  explicit Layout(float* memory) : memory_(memory) {}

  // Aligned to 64 bytes.
  template <class E>
  E* array(int64_t count) {
    E* const p = memory_ ? (E*)(memory_ + floats_) : nullptr;
    floats_ += padded_to_lanes((count * (int64_t)sizeof(E) + 3) / 4);
    return p;
  }
  int64_t floats() const { return floats_; }

 private:
  float* memory_;
  int64_t floats_ = 0;
};

// One query's logits under a tile, resized to the stripe's columns.
inline int64_t resized_floats(const MaskJob& job) { return (int64_t)job.window * stripe_width; }

struct PanopticScratch {
  float* resized;       // (queries, resized_floats); candidates alone
  float *low, *high;    // (queries) bounds of the logits under a tile, whole vectors
  int32_t* candidates;  // (queries) that may win a pixel of the tile
  int32_t* inside;      // (queries, most_lanes); of candidates: pixels inside the own mask, per lane

  PanopticScratch(const MaskJob& job, Layout& layout)
      : resized(layout.array<float>(job.queries * resized_floats(job))),
        low(layout.array<float>(padded_to_lanes(job.queries))),
        high(layout.array<float>(padded_to_lanes(job.queries))),
        candidates(layout.array<int32_t>(job.queries)),
        inside(layout.array<int32_t>(job.queries * most_lanes)) {}
};

struct InstanceScratch {
  float* resized;  // (resized_floats)

  InstanceScratch(const MaskJob& job, Layout& layout) : resized(layout.array<float>(resized_floats(job))) {}
};

// What both orders of semantic inference need: bounds, and the classes that can be the best.
struct ClassScratch {
  float *low, *high;    // (queries) bounds of the probabilities under a tile
  float *least, *most;  // (padded_classes) bounds of the scores
  int32_t* candidates;  // (classes) that may be the best of a pixel
  float* weights;       // (classes + 1, queries): the candidates' probabilities, then the sums over all classes

  ClassScratch(const MaskJob& job, Layout& layout)
      : low(layout.array<float>(job.queries)),
        high(layout.array<float>(job.queries)),
        least(layout.array<float>(job.padded_classes)),
        most(layout.array<float>(job.padded_classes)),
        candidates(layout.array<int32_t>(job.classes)),
        weights(layout.array<float>((job.classes + 1) * (int64_t)job.queries)) {}
};

// Masks are resized, then combined.
struct MasksFirstScratch {
  ClassScratch classes;
  float* resized;        // (queries, resized_floats)
  float* probabilities;  // (queries, stripe_width)
  float* scores;         // (classes + 1, stripe_width)

  MasksFirstScratch(const MaskJob& job, Layout& layout)
      : classes(job, layout),
        resized(layout.array<float>(job.queries * resized_floats(job))),
        probabilities(layout.array<float>((int64_t)job.queries * stripe_width)),
        scores(layout.array<float>((job.classes + 1) * (int64_t)stripe_width)) {}
};

// Masks are combined at the resized picture's size, then the scores are resized.
struct ScoresFirstScratch {
  ClassScratch classes;
  float* line;            // (width) one row of logits, and a vector behind it
  float* probabilities;   // (queries, span)
  float *upper, *lower;   // (classes + 1, span) scores of two rows of the resized picture
  float* mixed;           // (span) one row between them, and a vector behind it
  float* scores;          // (classes + 1, stripe_width)

  ScoresFirstScratch(const MaskJob& job, Layout& layout)
      : classes(job, layout),
        line(layout.array<float>(job.width + most_lanes)),
        probabilities(layout.array<float>((int64_t)job.queries * job.span)),
        upper(layout.array<float>((job.classes + 1) * (int64_t)job.span)),
        lower(layout.array<float>((job.classes + 1) * (int64_t)job.span)),
        mixed(layout.array<float>(job.span + most_lanes)),
        scores(layout.array<float>((job.classes + 1) * (int64_t)stripe_width)) {}
};

template <class Scratch>
inline int64_t scratch_floats(const MaskJob& job) {
  Layout layout(nullptr);
  (void)Scratch(job, layout);
  return layout.floats();
}

template <class Scratch>
inline Scratch lay_out(const MaskJob& job, float* memory) {
  Layout layout(memory);
  return Scratch(job, layout);
}

}  // namespace
}  // namespace proscale
