// What quantise.h declares, built once per instruction set.
#include "quantise.h"

#include "cpu_halves.h"

namespace proscale::PROSCALE_SET {
namespace {

typedef Vector<uint8_t, lanes> U8;

inline F32 read(const float* p) { return load<F32>(p); }
inline F32 read(const uint16_t* p) { return widen<F32>(reinterpret_cast<const BFloat*>(p)); }
inline float read_one(const float* p) { return *p; }
inline float read_one(const uint16_t* p) {
  const uint32_t bits = (uint32_t)*p << 16;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// A sum with 1.5 * 2^23 is rounded to a whole number, which its last bits are.
inline void write(F32 x, const ByteScale& scale, uint8_t* out) {
  const F32 bounded = between<F32>(x * scale.inverse + scale.zero, all<F32>(0.0f), all<F32>(255.0f));
  store(out, __builtin_convertvector((I32)(bounded + 0x1.8p23f) - 0x4b400000, U8));
}
inline void write_one(float x, const ByteScale& scale, uint8_t* out) {
  const float scaled = x * scale.inverse + scale.zero;
  const float bounded = scaled > 0 ? (scaled < 255 ? scaled : 255) : 0;
  *out = (uint8_t)(int32_t)(bounded + 0x1.8p23f - 0x1.8p23f);
}

template <class T>
void quantise(const T* x, int64_t count, const ByteScale& scale, uint8_t* out) {
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) write(read(x + i), scale, out + i);
  for (; i < count; ++i) write_one(read_one(x + i), scale, out + i);
}

template <class T>
void normed(const T* x, int64_t rows, const Norm& norm, const ByteScale& scale, uint8_t* out) {
  const int64_t channels = norm.channels;
  for (int64_t row = 0; row < rows; ++row, x += channels, out += channels) {
    F32 sums{}, squares{};
    float sum = 0, square = 0;
    int64_t i = 0;
    for (; i + lanes <= channels; i += lanes) sums += read(x + i);
    for (; i < channels; ++i) sum += read_one(x + i);
    const float mean = (total(sums) + sum) / (float)channels;
    for (i = 0; i + lanes <= channels; i += lanes) {
      const F32 off = read(x + i) - mean;
      squares += off * off;
    }
    for (; i < channels; ++i) square += (read_one(x + i) - mean) * (read_one(x + i) - mean);
    const float factor = 1 / sqrtf((total(squares) + square) / (float)channels + norm.epsilon);
    for (i = 0; i + lanes <= channels; i += lanes) {
      write((read(x + i) - mean) * factor * load<F32>(norm.weight + i) + load<F32>(norm.bias + i), scale, out + i);
    }
    for (; i < channels; ++i) write_one((read_one(x + i) - mean) * factor * norm.weight[i] + norm.bias[i], scale, out + i);
  }
}

}  // namespace

void quantise_floats(const float* x, int64_t count, const ByteScale& scale, uint8_t* out) { quantise(x, count, scale, out); }
void quantise_bfloats(const uint16_t* x, int64_t count, const ByteScale& scale, uint8_t* out) { quantise(x, count, scale, out); }
void quantise_normed_floats(const float* x, int64_t rows, const Norm& norm, const ByteScale& scale, uint8_t* out) {
  normed(x, rows, norm, scale, out);
}
void quantise_normed_bfloats(const uint16_t* x, int64_t rows, const Norm& norm, const ByteScale& scale, uint8_t* out) {
  normed(x, rows, norm, scale, out);
}

}  // namespace proscale::PROSCALE_SET
