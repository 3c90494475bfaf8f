// The arithmetic of the operator on one core: one source for AVX-512, AVX2 and everything else, built once per instruction set (simd.h).
//
// Where a query samples is worked out with vectors over its samples (cpu_samples.h); what it samples is summed with vectors over the
// channels of a head, each multiplied by one weight.
#include "cpu_samples.h"

#define PROSCALE_STRING_(a) #a
#define PROSCALE_STRING(a) PROSCALE_STRING_(a)

namespace proscale::PROSCALE_SET {
namespace {

// ---- the four jobs

constexpr int64_t ahead = 12;  // rows

// Rows of one head lie far apart, where no processor sees them coming.
inline void prefetch(const char* p, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i);
}
inline void prefetch_to_write(const char* p, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i, 1);
}

template <class A, class T>
void pack(const Problem& problem, const Plan<A>& plan, int64_t b, int64_t h, int64_t begin, int64_t end, A* packed) {
  const Strides& strides = problem.value_strides;
  const T* from = (const T*)problem.value + b * strides.batch + h * strides.head + begin * strides.row;
  A* to = packed + begin * plan.padded_channels;
  const int channels = problem.channels, padded = plan.padded_channels;
  const auto loop = [&](auto copy) {
    for (int64_t n = begin; n < end; ++n, from += strides.row, to += padded) {
      prefetch((const char*)(from + ahead * strides.row), channels * sizeof(T));
      copy();
    }
  };
  // A copy of so many bytes that the compiler knows their number is a few vectors, otherwise it is a call.
  if (channels == 32) return loop([&] { widen(from, to, 32); });
  loop([&] {
    widen(from, to, channels);
    for (int c = channels; c < padded; ++c) to[c] = 0;
  });
}

// What the samplings of one head read, query after query.
template <class A, class S>
struct Rows {
  const Problem& problem;
  const Plan<A>& plan;
  const S *offsets, *logits;
  Positions<A> at;

  Rows(const Problem& problem, const Plan<A>& plan, int64_t b, int64_t h, int64_t first)
      : problem(problem), plan(plan), at(problem, plan, b, first) {
    offsets = (const S*)problem.offsets + b * problem.offsets_strides.batch + h * problem.offsets_strides.head;
    logits = (const S*)problem.logits + b * problem.logits_strides.batch + h * problem.logits_strides.head;
  }

  // Query q, which comes after the one before, as the i-th of `s`.
  template <bool with_slopes>
  A locate(int64_t q, int i, Samples<A>& s, Slopes<A>* slopes) {
    const S *own_offsets = offsets + q * problem.offsets_strides.row, *own_logits = logits + q * problem.logits_strides.row;
    prefetch((const char*)own_offsets + ahead * problem.offsets_strides.row * sizeof(S), plan.samples * 2 * sizeof(S));
    prefetch((const char*)own_logits + ahead * problem.logits_strides.row * sizeof(S), plan.samples * sizeof(S));
    at.at(q);
    const int own = i * plan.padded;
    if (plan.few) return PROSCALE_SET::locate<typename Lanes<A>::Few, with_slopes>(plan, at, own_offsets, own_logits, own, s, slopes);
    return PROSCALE_SET::locate<typename Lanes<A>::V, with_slopes>(plan, at, own_offsets, own_logits, own, s, slopes);
  }
};

// Sums over the samples of one query, from sample k on, of `group` vectors of channels from `packed` on. `stride`: between tokens.
// Each corner of a window adds to sums of its own where registers allow: an addition then waits for no other.
template <class V, int group, int stride, class A>
inline void sample(const Problem& problem, const Plan<A>& plan, const Samples<A>& s, int k, const A* packed, V (&result)[group]) {
  constexpr int width = lanes_of<V>, free = vector_registers / 2 / group, corners = free < 2 ? 1 : free < 4 ? 2 : 4;
  V sum[corners][group] = {};
  for (int l = 0; l < problem.levels; ++l) {
    const int64_t right = plan.step_x[l] * stride, down = plan.step_y[l] * (int64_t)stride;
    for (int p = 0; p < problem.points; ++p, ++k) {
      const A *row0 = packed + (int64_t)s.token[k] * stride, *row1 = row0 + down;
      const A w00 = s.corner[0][k], w01 = s.corner[1][k], w10 = s.corner[2][k], w11 = s.corner[3][k];
      for (int c = 0; c < group; ++c) {
        sum[0][c] += load<V>(row0 + c * width) * w00;
        sum[1 % corners][c] += load<V>(row0 + right + c * width) * w01;
        sum[2 % corners][c] += load<V>(row1 + c * width) * w10;
        sum[3 % corners][c] += load<V>(row1 + right + c * width) * w11;
      }
    }
  }
  for (int c = 0; c < group; ++c) {
    if constexpr (corners == 4) result[c] = (sum[0][c] + sum[1][c]) + (sum[2][c] + sum[3][c]);
    else if constexpr (corners == 2) result[c] = sum[0][c] + sum[1][c];
    else result[c] = sum[0][c];
  }
}

template <class A, class T, class S, class V, int chunks>
void forward(const Problem& problem, const Plan<A>& plan, int64_t b, int64_t h, int64_t begin, int64_t end, const A* packed) {
  constexpr int width = lanes_of<V>, stride = width * chunks;
  constexpr int group = chunks < vector_registers / 2 ? chunks : vector_registers / 2;  // vectors of channels that are summed at once
  const int block = max_samples / plan.padded;  // queries located at once: one after the other, each would wait for its own
  Samples<A> s;
  A scale[max_samples];
  Rows<A, S> rows(problem, plan, b, h, begin);
  T* out = (T*)problem.out + (b * problem.queries * problem.heads + h) * problem.channels;
  for (int64_t first = begin; first < end; first += block) {
    const int count = (int)(end - first < block ? end - first : block);
    for (int i = 0; i < count; ++i) scale[i] = rows.template locate<false>(first + i, i, s, nullptr);
    for (int i = 0; i < count; ++i) {
      alignas(64) A result[stride < 16 ? 16 : stride];
      for (int c = 0; c < chunks; c += group) {
        V sums[group];
        sample<V, group, stride>(problem, plan, s, i * plan.padded, packed + c * width, sums);
        for (int j = 0; j < group; ++j) store(result + (c + j) * width, sums[j] * scale[i]);
      }
      T* const to = out + (first + i) * problem.heads * problem.channels;
      prefetch_to_write((const char*)to + ahead * problem.heads * problem.channels * sizeof(T), problem.channels * sizeof(T));
      if (problem.channels == stride) {
        narrow(result, to, stride);
      } else {
        narrow(result, to, problem.channels);
      }
    }
  }
}

// What the pixels of each sample's window contribute, without their weights: the incoming gradient times their values, summed up.
template <class A>
struct Dots {
  alignas(64) A corner[4][max_samples] = {};
};

// One query: the dots of its samples, and what it adds to the gradient of the values.
template <class A, class V, int chunks>
inline void scatter(
    const Problem& problem, const Plan<A>& plan, const Samples<A>& s, int first, const V (&g)[chunks], const A* packed, A* gradient,
    Dots<A>& dots
) {
  constexpr int width = lanes_of<V>, stride = width * chunks;
  for (int k = first, l = 0; l < problem.levels; ++l) {
    const int64_t right = (int64_t)plan.step_x[l] * stride, down = (int64_t)plan.step_y[l] * stride;
    for (int p = 0; p < problem.points; ++p, ++k) {
      const int64_t place = (int64_t)s.token[k] * stride;
      const A w00 = s.corner[0][k], w01 = s.corner[1][k], w10 = s.corner[2][k], w11 = s.corner[3][k];
      V sum00 = {}, sum01 = {}, sum10 = {}, sum11 = {};
      for (int c = 0; c < chunks; ++c) {
        const int64_t i = place + c * width;
        sum00 += load<V>(packed + i) * g[c];
        sum01 += load<V>(packed + i + right) * g[c];
        sum10 += load<V>(packed + i + down) * g[c];
        sum11 += load<V>(packed + i + down + right) * g[c];
        // One after the other: in a level with one row or column these are the same places.
        store(gradient + i, load<V>(gradient + i) + g[c] * w00);
        store(gradient + i + right, load<V>(gradient + i + right) + g[c] * w01);
        store(gradient + i + down, load<V>(gradient + i + down) + g[c] * w10);
        store(gradient + i + down + right, load<V>(gradient + i + down + right) + g[c] * w11);
      }
      const auto sums = four_totals(sum00, sum01, sum10, sum11);
      for (int corner = 0; corner < 4; ++corner) dots.corner[corner][k] = sums[corner];
    }
  }
}

// One query: the gradients of its logits and offsets from the dots of its samples.
template <class W, class A, class S>
inline void differentiate(
    const Plan<A>& plan, const Samples<A>& s, const Slopes<A>& slopes, const Dots<A>& dots, int first, S* to_logits, S* to_offsets
) {
  constexpr int width = lanes_of<W>;
  alignas(64) A by_logit[max_samples], by_offset[2 * max_samples];
  W mean = {};
  for (int i = 0; i < plan.padded; i += width) {
    const int k = first + i;
    const W x0 = load<W>(slopes.x0 + k), x1 = load<W>(slopes.x1 + k), y0 = load<W>(slopes.y0 + k), y1 = load<W>(slopes.y1 + k);
    const W d00 = load<W>(dots.corner[0] + k), d01 = load<W>(dots.corner[1] + k);
    const W d10 = load<W>(dots.corner[2] + k), d11 = load<W>(dots.corner[3] + k);
    const W a = load<W>(s.attention + k);
    const W upper = d00 * x0 + d01 * x1, lower = d10 * x0 + d11 * x1;
    const W sample = upper * y0 + lower * y1;
    const W by_x = (d00 * load<W>(slopes.slope_x0 + k) + d01 * load<W>(slopes.slope_x1 + k)) * y0 +
                   (d10 * load<W>(slopes.slope_x0 + k) + d11 * load<W>(slopes.slope_x1 + k)) * y1;
    const W by_y = upper * load<W>(slopes.slope_y0 + k) + lower * load<W>(slopes.slope_y1 + k);
    mean += a * sample;
    store(by_logit + i, sample);
    W even, odd;
    interleave(a * by_x, a * by_y, even, odd);
    store(by_offset + 2 * i, even), store(by_offset + 2 * i + width, odd);
  }
  const A expected = total(mean);
  for (int i = 0; i < plan.padded; i += width) {
    store(by_logit + i, load<W>(s.attention + first + i) * (load<W>(by_logit + i) - expected));
  }
  narrow(by_logit, to_logits, plan.samples);
  narrow(by_offset, to_offsets, plan.samples * 2);
}

template <class A, class T, class S, class V, int chunks>
void backward(const Problem& problem, const Plan<A>& plan, int64_t b, int64_t h, const A* packed, A* gradient) {
  constexpr int width = lanes_of<V>, stride = width * chunks;
  const int block = max_samples / plan.padded;  // queries that are worked on together: a step of one query does not wait for its last
  Samples<A> s;
  Slopes<A> slopes;
  Dots<A> dots;
  Rows<A, S> rows(problem, plan, b, h, 0);
  const int64_t head = b * problem.queries * problem.heads + h;  // row of the head's first query; the next is `heads` further
  for (int64_t first = 0; first < problem.queries; first += block) {
    const int count = (int)(problem.queries - first < block ? problem.queries - first : block);
    for (int i = 0; i < count; ++i) rows.template locate<true>(first + i, i, s, &slopes);
    for (int i = 0; i < count; ++i) {
      const T* const from = (const T*)problem.out_gradient + (head + (first + i) * problem.heads) * problem.channels;
      prefetch((const char*)from + ahead * problem.heads * problem.channels * sizeof(T), problem.channels * sizeof(T));
      alignas(64) A incoming[stride < 16 ? 16 : stride] = {};
      if (problem.channels == stride) {
        widen(from, incoming, stride);
      } else {
        widen(from, incoming, problem.channels);
      }
      V g[chunks];
      for (int c = 0; c < chunks; ++c) g[c] = load<V>(incoming + c * width);
      scatter(problem, plan, s, i * plan.padded, g, packed, gradient, dots);
    }
    for (int i = 0; i < count; ++i) {
      const int64_t row = head + (first + i) * problem.heads;
      S* const to_logits = (S*)problem.logits_gradient + row * plan.samples;
      S* const to_offsets = (S*)problem.offsets_gradient + row * plan.samples * 2;
      prefetch_to_write((const char*)to_logits + ahead * problem.heads * plan.samples * sizeof(S), plan.samples * sizeof(S));
      prefetch_to_write((const char*)to_offsets + ahead * problem.heads * plan.samples * 2 * sizeof(S), plan.samples * 2 * sizeof(S));
      if (plan.few) {
        differentiate<typename Lanes<A>::Few>(plan, s, slopes, dots, i * plan.padded, to_logits, to_offsets);
      } else {
        differentiate<typename Lanes<A>::V>(plan, s, slopes, dots, i * plan.padded, to_logits, to_offsets);
      }
    }
  }
}

template <class A, class T>
void unpack(const Problem& problem, const Plan<A>& plan, int64_t b, int64_t h, const A* gradient) {
  T* to = (T*)problem.value_gradient + (b * problem.tokens * problem.heads + h) * problem.channels;
  const int64_t row = (int64_t)problem.heads * problem.channels;
  const auto loop = [&](auto copy) {
    for (int64_t n = 0; n < problem.tokens; ++n, to += row, gradient += plan.padded_channels) {
      prefetch_to_write((const char*)(to + ahead * row), problem.channels * sizeof(T));
      copy();
    }
  };
  if (problem.channels == 32) return loop([&] { narrow(gradient, to, 32); });
  loop([&] { narrow(gradient, to, problem.channels); });
}

// ---- from types and sizes known when running to instances known when compiling

template <class A, class Job>
inline void by_value_type(const Problem& problem, Job job) {
  if constexpr (sizeof(A) == 8) {
    job.template operator()<double>();
  } else {
    switch (problem.value_type) {
      case Type::f16: return job.template operator()<Half>();
      case Type::bf16: return job.template operator()<BFloat>();
      default: return job.template operator()<float>();
    }
  }
}

// A head's channels as so many vectors; as one half of a vector where they fill no more.
template <class A, int padded_channels, class Job>
inline void in_vectors(Job job) {
  if constexpr (padded_channels < Lanes<A>::count) {
    job.template operator()<Vector<A, padded_channels>, 1>();
  } else {
    job.template operator()<typename Lanes<A>::V, padded_channels / Lanes<A>::count>();
  }
}

template <class A, class Job>
inline void by_channels(const Plan<A>& plan, Job job) {
  switch (plan.padded_channels) {
    case 8: return in_vectors<A, 8>(job);
    case 16: return in_vectors<A, 16>(job);
    case 32: return in_vectors<A, 32>(job);
    default: return in_vectors<A, 64>(job);
  }
}

// Types of value, and of offsets and logits; the vector, and how many of them hold a head's channels.
template <class A, class Job>
inline void by_types(const Problem& problem, const Plan<A>& plan, Job job) {
  by_value_type<A>(problem, [&]<class T>() {
    by_channels<A>(plan, [&]<class V, int chunks>() {
      if constexpr (sizeof(T) == 2) {
        if (problem.sampling_type != problem.value_type) return job.template operator()<T, float, V, chunks>();
      }
      job.template operator()<T, T, V, chunks>();
    });
  });
}

template <class A>
Kernels<A> kernels() {
  return {
      Lanes<A>::count,
      Lanes<A>::few,
      [](const Problem& p, const Plan<A>& plan, int64_t b, int64_t h, int64_t begin, int64_t end, A* packed) {
        by_value_type<A>(p, [&]<class T>() { pack<A, T>(p, plan, b, h, begin, end, packed); });
      },
      [](const Problem& p, const Plan<A>& plan, int64_t b, int64_t h, int64_t begin, int64_t end, const A* packed) {
        by_types<A>(p, plan, [&]<class T, class S, class V, int chunks>() {
          forward<A, T, S, V, chunks>(p, plan, b, h, begin, end, packed);
        });
      },
      [](const Problem& p, const Plan<A>& plan, int64_t b, int64_t h, const A* packed, A* gradient) {
        by_types<A>(p, plan, [&]<class T, class S, class V, int chunks>() {
          backward<A, T, S, V, chunks>(p, plan, b, h, packed, gradient);
        });
      },
      [](const Problem& p, const Plan<A>& plan, int64_t b, int64_t h, const A* gradient) {
        by_value_type<A>(p, [&]<class T>() { unpack<A, T>(p, plan, b, h, gradient); });
      },
  };
}

}  // namespace

const KernelSet& kernel_set() {
  static const KernelSet set = {PROSCALE_STRING(PROSCALE_SET), kernels<float>(), kernels<double>()};
  return set;
}

}  // namespace proscale::PROSCALE_SET
