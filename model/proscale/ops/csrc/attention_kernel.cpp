// What attention.h declares, built once per instruction set. A block of queries meets the keys chunk by chunk; the softmax of what it has
// met so far is corrected whenever a greater product comes (Rabe and Staats 2021, arXiv 2112.05682, section 3), so memory is bounded.
//
// Both products are of one kind: rows of words, each multiplied with all lanes of some vectors. A word is a float, or two neighbouring
// bfloats where the processor multiplies those. What the vectors are loaded from is packed in panels, so it is read in order.
#include "attention.h"

#include "cpu_halves.h"

namespace proscale::PROSCALE_SET {
namespace {

// Rows and vectors of a tile: its sums, one row of vectors and a word fit into the registers.
constexpr int rows = 6;
constexpr int vectors = vector_registers == 32 ? 4 : 2;
constexpr int panel = vectors * lanes;
constexpr float unseen = -1e30f;  // the product with a key that is not seen
constexpr float lowest = -1e20f;   // below every product with a key that is seen
constexpr int64_t keys_in_l1 = 128;  // whose values stay in the nearest cache
static_assert(query_block % rows == 0);

// What elements of memory are multiplied as.
template <class T>
struct Multiplied {
  typedef float Word;
  static constexpr int elements = 1;  // of a word
};
#ifdef __AVX512BF16__
template <>
struct Multiplied<BFloat> {
  typedef uint32_t Word;
  static constexpr int elements = 2;
};
inline F32 add_product(F32 sum, U32 a, U32 b) { return (F32)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b); }
#endif
inline F32 add_product(F32 sum, F32 a, F32 b) { return multiply_add(a, b, sum); }

template <class Word>
using WordsOf = Vector<Word, lanes>;

// c += a b for `rows` rows of a (row, depth), b (depth, count * lanes), c (row, count * lanes); `fresh`: c = a b.
template <int count, bool fresh, class Word>
inline void tile(const Word* a, int64_t a_stride, const Word* b, int64_t depth, float* c, int64_t c_stride) {
  F32 sums[rows][count];
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < count; ++v) sums[r][v] = fresh ? F32{} : load<F32>(c + r * c_stride + v * lanes);
  for (int64_t k = 0; k < depth; ++k) {
    WordsOf<Word> words[count];
    for (int v = 0; v < count; ++v) words[v] = load<WordsOf<Word>>(b + (k * count + v) * lanes);
    for (int r = 0; r < rows; ++r) {
      const WordsOf<Word> word = all<WordsOf<Word>>(a[r * a_stride + k]);
      for (int v = 0; v < count; ++v) sums[r][v] = add_product(sums[r][v], word, words[v]);
    }
  }
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < count; ++v) store(c + r * c_stride + v * lanes, sums[r][v]);
}

// `tile` for `height` rows and one panel of `width` columns: `count` vectors, or fewer.
template <bool fresh, int count = vectors, class Word>
inline void tiles(const Word* a, int64_t a_stride, const Word* b, int64_t width, int64_t depth, float* c, int64_t c_stride, int64_t height) {
  if constexpr (count > 1) {
    if (width < count * lanes) return tiles<fresh, count - 1>(a, a_stride, b, width, depth, c, c_stride, height);
  }
  for (int64_t r = 0; r < height; r += rows) tile<count, fresh>(a + r * a_stride, a_stride, b, depth, c + r * c_stride, c_stride);
}

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t round_up(int64_t a, int64_t step) { return (a + step - 1) / step * step; }

inline void words_of(const float* from, int64_t count, float* to) { memcpy(to, from, count * sizeof(float)); }
inline void words_of(const BFloat* from, int64_t count, float* to) { widen(from, to, (int)count); }
inline void words_of(const BFloat* from, int64_t count, uint32_t* to) { memcpy(to, from, count * sizeof(BFloat)); }

// Where a chunk of a head stands: its first key, and how many it has.
struct Chunk {
  int64_t picture, head, first, keys, padded;
};
inline Chunk chunk_at(const AttentionJob& job, int64_t number) {
  const int64_t of_picture = number / job.chunks, first = number % job.chunks * job.chunk, keys = least(job.chunk, job.keys - first);
  return {of_picture / job.heads, of_picture % job.heads, first, keys, round_up(keys, lanes)};
}

template <class Word>
inline Word* packed_at(const AttentionJob& job, int64_t chunk) {
  return (Word*)(static_cast<float*>(job.packed) + chunk * job.chunk_floats);
}

// Keys: panels of keys, (channels, keys) each. Values: panels of channels, (keys, channels) each. Zeros stand for keys behind the last.
template <class T>
void pack(const AttentionJob& job, int64_t number) {
  typedef typename Multiplied<T>::Word Word;
  constexpr int elements = Multiplied<T>::elements;
  const Chunk chunk = chunk_at(job, number);
  const int64_t depth = job.channels / elements;
  Word* keys = packed_at<Word>(job, number);
  Word* values = keys + job.chunk * depth;
  const AttentionStrides of_keys = job.key_strides, of_values = job.value_strides;
  const T* key = static_cast<const T*>(job.key) + chunk.picture * of_keys.batch + chunk.head * of_keys.head + chunk.first * of_keys.token;
  Word row[most_channels];
  for (int64_t j = 0; j < chunk.padded; ++j) {
    const int64_t start = j / panel * panel, width = least(panel, chunk.padded - start);
    if (j < chunk.keys) {
      words_of(key + j * of_keys.token, job.channels, row);
    } else {
      memset(row, 0, depth * sizeof(Word));
    }
    Word* to = keys + start * depth + (j - start);
    for (int64_t k = 0; k < depth; ++k) to[k * width] = row[k];
  }
  const T* value =
      static_cast<const T*>(job.value) + chunk.picture * of_values.batch + chunk.head * of_values.head + chunk.first * of_values.token;
  for (int64_t j = 0; j < chunk.padded; j += elements) {
    for (int64_t start = 0; start < job.channels; start += panel) {
      const int64_t width = least(panel, job.channels - start);
      Word* to = values + (start * chunk.padded + j * width) / elements;
      const T* from = value + j * of_values.token + start;
      if constexpr (elements == 1) {
        if (j < chunk.keys) {
          words_of(from, width, to);
        } else {
          memset(to, 0, width * sizeof(Word));
        }
      } else {
        for (int64_t c = 0; c < width; ++c) {
          const Word low = j < chunk.keys ? from[c].bits : 0, high = j + 1 < chunk.keys ? from[of_values.token + c].bits : 0;
          to[c] = low | high << 16;
        }
      }
    }
  }
}

inline void write(F32 v, float* p) { store(p, v); }
inline void write(F32 v, BFloat* p) { narrow(v, p); }

inline void write_words(F32 v, float* p, int64_t at) { store(p + at, v); }
#ifdef __AVX512BF16__
inline void write_words(F32 v, uint32_t* p, int64_t at) { store(p + at / 2, (Vector<uint16_t, lanes>)_mm512_cvtneps_pbh((__m512)v)); }
#endif

// 2^x for x <= 0; 2^-126 or less below. Relative error at most 2e-7, more far from 0, where the result does not count.
inline F32 power_of_two(F32 x) {
#if defined(__AVX512F__)
  const F32 whole = (F32)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), r = x - whole;
#else
  const F32 bounded = greater(x, all<F32>(-126.0f)), shifted = bounded + 0x1.8p23f;  // whose last bits are the nearest whole number
  const F32 r = bounded - (shifted - 0x1.8p23f);
#endif
  // The polynomial of least relative error for |r| <= 1/2: 8e-8.
  F32 p = multiply_add(all<F32>(1.327647e-3f), r, all<F32>(9.675541e-3f));
  p = multiply_add(p, r, all<F32>(5.5507131e-2f));
  p = multiply_add(p, r, all<F32>(0.2402212f));
  p = multiply_add(p, r, all<F32>(0.69314694f));
  p = multiply_add(p, r, all<F32>(1.0000001f));
#if defined(__AVX512F__)
  return (F32)_mm512_scalef_ps((__m512)p, (__m512)whole);
#else
  return (F32)((I32)p + (((I32)shifted - 0x4b400000) << 23));
#endif
}

// What a query has met so far.
struct Row {
  float most;  // the greatest scaled product
  float sum;   // of powers of two: of their differences to it
};

// Products with a chunk's keys become very low where a query may not look, and behind the last key.
inline void hide(float* products, int64_t keys, int64_t padded, const uint8_t* allowed) {
  for (int64_t j = keys; j < padded; ++j) products[j] = unseen;
  if (!allowed) return;
  int64_t j = 0;
  for (; j + lanes <= keys; j += lanes) {
    const I32 may = __builtin_convertvector(load<Vector<uint8_t, lanes>>(allowed + j), I32);
    store(products + j, may != 0 ? load<F32>(products + j) : all<F32>(unseen));
  }
  for (; j < keys; ++j) products[j] = allowed[j] ? products[j] : unseen;
}

// A query's products with a chunk -> powers of two of their scaled differences to the greatest, as words, in place. Where the greatest has
// grown, `outs` and the sum are corrected. Infinite products and NaN make the sum NaN.
template <class Word>
inline void soften(float* products, int64_t padded, float scale, Row& row, float* outs, int64_t channels) {
  F32 greatest = all<F32>(unseen), strange{};
  for (int64_t j = 0; j < padded; j += lanes) {
    const F32 product = load<F32>(products + j);
    greatest = greater(product, greatest);
    strange += product - product;
  }
  const float peak = largest(greatest) * scale;
  if (peak > row.most) {
    const float share = power_of_two(all<F32>(row.most - peak))[0];
    row.sum *= share;
    for (int64_t c = 0; c < channels; c += lanes) store(outs + c, load<F32>(outs + c) * share);
    row.most = peak;
  }
  F32 sums = strange;
  for (int64_t j = 0; j < padded; j += lanes) {
    const F32 weight = power_of_two(load<F32>(products + j) * scale - row.most);
    sums += weight;
    write_words(weight, (Word*)products, j);
  }
  row.sum += total(sums);
}

template <class T>
void attend(const AttentionJob& job, int64_t number, float* scratch) {
  typedef typename Multiplied<T>::Word Word;
  constexpr int elements = Multiplied<T>::elements;
  const int64_t head = number / job.blocks, first = number % job.blocks * query_block;
  const int64_t count = least(query_block, job.queries - first), height = round_up(count, rows);
  const int64_t channels = job.channels, depth = channels / elements;
  float* products = scratch;                               // (height, chunk); words after the softmax
  float* outs = products + query_block * job.chunk;        // (height, channels)
  Word* queries = (Word*)(outs + query_block * channels);  // (height, depth)
  const int64_t picture = head / job.heads, column = head % job.heads;
  const AttentionStrides of_queries = job.query_strides;
  const T* query = static_cast<const T*>(job.query) + picture * of_queries.batch + column * of_queries.head + first * of_queries.token;
  for (int64_t r = 0; r < count; ++r) words_of(query + r * of_queries.token, channels, queries + r * depth);
  memset(queries + count * depth, 0, (height - count) * depth * sizeof(Word));
  memset(outs, 0, height * channels * sizeof(float));
  Row met[query_block];
  for (int64_t r = 0; r < height; ++r) met[r] = {lowest, 0};
  for (int64_t each = head * job.chunks; each < (head + 1) * job.chunks; ++each) {
    const Chunk chunk = chunk_at(job, each);
    const Word* keys = packed_at<Word>(job, each);
    const Word* values = keys + job.chunk * depth;
    for (int64_t start = 0; start < chunk.padded; start += panel) {
      tiles<true>(queries, depth, keys + start * depth, least(panel, chunk.padded - start), depth, products + start, job.chunk, height);
    }
    for (int64_t r = 0; r < height; ++r) {
      float* of_row = products + r * job.chunk;
      const bool masked = job.allowed && r < count;
      const uint8_t* allowed = masked ? job.allowed + (picture * job.queries + first + r) * job.keys + chunk.first : nullptr;
      hide(of_row, chunk.keys, chunk.padded, allowed);
      soften<Word>(of_row, chunk.padded, job.scale, met[r], outs + r * channels, channels);
    }
    for (int64_t j = 0; j < chunk.padded; j += keys_in_l1) {
      const int64_t some = least(keys_in_l1, chunk.padded - j) / elements;
      for (int64_t start = 0; start < channels; start += panel) {
        const int64_t width = least(panel, channels - start);
        const Word* from = values + (start * chunk.padded + j * width) / elements;
        tiles<false>((const Word*)products + j / elements, job.chunk, from, width, some, outs + start, channels, height);
      }
    }
  }
  T* out = static_cast<T*>(job.out) + ((picture * job.queries + first) * job.heads + column) * channels;
  for (int64_t r = 0; r < count; ++r) {
    const float share = 1 / met[r].sum;
    for (int64_t c = 0; c < channels; c += lanes) write(load<F32>(outs + r * channels + c) * share, out + r * job.heads * channels + c);
  }
}

}  // namespace

extern const AttentionKernels attention_kernels = {panel, pack<float>, pack<BFloat>, attend<float>, attend<BFloat>};

}  // namespace proscale::PROSCALE_SET
