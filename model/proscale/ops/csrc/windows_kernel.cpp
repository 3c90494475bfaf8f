// What windows.h declares, built once per instruction set: a window's keys and values lie in the cache, a few queries at a time in registers.
#include "windows.h"

#include "cpu_halves.h"

namespace proscale::PROSCALE_SET {
namespace {

// Queries computed together, and vectors of keys: their products, and one vector of keys, fit into the registers.
#if defined(__AVX512F__)
constexpr int rows = 4, vectors = 4;
#elif defined(__AVX2__)
constexpr int rows = 2, vectors = 7;
#else
constexpr int rows = 1, vectors = 7;
#endif
constexpr int channels = (int)window_channels, parts = channels / lanes, group = vectors * lanes;
static_assert(rows <= most_rows);

inline F32 read(const float* p) { return load<F32>(p); }
inline F32 read(const BFloat* p) { return widen<F32>(p); }
inline void write(F32 v, float* p) { store(p, v); }
inline void write(F32 v, BFloat* p) { narrow(v, p); }

// Products of `count` queries with all keys, added to the bias; then e to the difference to the row's greatest. Returns 1 / the sums.
template <int count>
inline void weights_of(const float* queries, const float* keys, const float* bias, int64_t columns, float* weights, float* shares) {
  F32 most[count];
  for (int r = 0; r < count; ++r) most[r] = all<F32>(-1e30f);
  for (int64_t column = 0; column < columns; column += group) {
    F32 sums[count][vectors];
    for (int r = 0; r < count; ++r)
      for (int v = 0; v < vectors; ++v) sums[r][v] = load<F32>(bias + r * columns + column + v * lanes);
    for (int c = 0; c < channels; ++c) {
      const float* key = keys + c * columns + column;
      for (int v = 0; v < vectors; ++v) {
        const F32 k = load<F32>(key + v * lanes);
        for (int r = 0; r < count; ++r) sums[r][v] += queries[r * channels + c] * k;
      }
    }
    for (int r = 0; r < count; ++r) {
      for (int v = 0; v < vectors; ++v) {
        most[r] = greater(most[r], sums[r][v]);
        store(weights + r * columns + column + v * lanes, sums[r][v]);
      }
    }
  }
  for (int r = 0; r < count; ++r) {
    const float peak = largest(most[r]);
    F32 sum{};
    for (int64_t column = 0; column < columns; column += lanes) {
      const F32 e = exponential(load<F32>(weights + r * columns + column) - peak);
      sum += e;
      store(weights + r * columns + column, e);
    }
    shares[r] = 1 / total(sum);
  }
}

template <int count, class T>
inline void attend(
    const float* queries, const float* keys, const float* values, const float* bias, const WindowJob& job, float* weights, T* out
) {
  float shares[count];
  weights_of<count>(queries, keys, bias, job.columns, weights, shares);
  F32 sums[count][parts];
  for (int r = 0; r < count; ++r)
    for (int p = 0; p < parts; ++p) sums[r][p] = F32{};
  for (int64_t j = 0; j < job.tokens; ++j) {
    for (int p = 0; p < parts; ++p) {
      const F32 value = load<F32>(values + j * channels + p * lanes);
      for (int r = 0; r < count; ++r) sums[r][p] += weights[r * job.columns + j] * value;
    }
  }
  for (int r = 0; r < count; ++r)
    for (int p = 0; p < parts; ++p) write(sums[r][p] * shares[r], out + r * job.heads * channels + p * lanes);
}

template <class T>
void window(const WindowJob& job, int64_t number, float* scratch) {
  const int64_t tokens = job.tokens, columns = job.columns, width = job.heads * channels;
  const T* from = static_cast<const T*>(job.qkv) + number * tokens * 3 * width;
  T* to = static_cast<T*>(job.out) + number * tokens * width;
  float* keys = scratch;                            // (channels, columns)
  float* values = keys + channels * columns;        // (tokens, channels)
  float* queries = values + tokens * channels;      // (rows, channels)
  float* weights = queries + most_rows * channels;  // (rows, columns)
  const float factor = 0.17677669529663687f;        // 1 / sqrt(channels)
  for (int64_t head = 0; head < job.heads; ++head, from += channels, to += channels) {
    for (int64_t j = 0; j < tokens; ++j) {
      const T* row = from + j * 3 * width;
      float key[channels];
      for (int p = 0; p < channels; p += lanes) {
        store(key + p, read(row + width + p));
        store(values + j * channels + p, read(row + 2 * width + p));
      }
      for (int c = 0; c < channels; ++c) keys[c * columns + j] = key[c];
    }
    for (int64_t j = tokens; j < columns; ++j)
      for (int c = 0; c < channels; ++c) keys[c * columns + j] = 0;
    const float* bias = job.bias + head * tokens * columns;
    for (int64_t i = 0; i < tokens; i += rows) {
      const int64_t count = tokens - i < rows ? tokens - i : rows;
      for (int64_t r = 0; r < count; ++r)
        for (int p = 0; p < channels; p += lanes) store(queries + r * channels + p, read(from + (i + r) * 3 * width + p) * factor);
      if (count == rows) {
        attend<rows>(queries, keys, values, bias + i * columns, job, weights, to + i * width);
      } else {
        for (int64_t r = 0; r < count; ++r) {
          attend<1>(queries + r * channels, keys, values, bias + (i + r) * columns, job, weights, to + (i + r) * width);
        }
      }
    }
  }
}

}  // namespace

extern const WindowKernels window_kernels = {group, window<float>, window<BFloat>};

}  // namespace proscale::PROSCALE_SET
