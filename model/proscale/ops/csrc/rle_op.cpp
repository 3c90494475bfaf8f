// proscale::map_runs, mask_runs, encode_runs: maps and masks -> runs -> COCO run-length encoding, byte for byte as pycocotools writes it.
#include <algorithm>
#include <limits>
#include <string>
#include <tuple>

#include "runs.h"

namespace proscale {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t columns_at_once = 32;  // transposed together: two cache lines of a row of bytes or more

void check_pixels(int64_t height, int64_t width) {
  STD_TORCH_CHECK(height * width < std::numeric_limits<int32_t>::max(), "more pixels than 31 bits count");
}

// Runs of a map that lies row by row or column by column, whatever its strides are.
template <class T>
std::vector<Run> runs_of(const T* values, int64_t height, int64_t width, int64_t row_step, int64_t column_step) {
  std::vector<Run> runs;
  if (row_step == 1 && column_step == height) {
    append_runs(values, height * width, 0, runs);
    return runs;
  }
  std::vector<T> transposed(columns_at_once * height);
  for (int64_t x = 0; x < width; x += columns_at_once) {
    const int64_t columns = std::min(columns_at_once, width - x);
    const T* from = values + x * column_step;
    for (int64_t y = 0; y < height; ++y, from += row_step)
      for (int64_t k = 0; k < columns; ++k) transposed[k * height + y] = from[k * column_step];
    append_runs(transposed.data(), columns * height, x * height, runs);
  }
  return runs;
}

// (H, W) int32, int16 or uint8 -> runs (R, 3) of equal values, all pixels covered
Tensor map_runs(const Tensor& map) {
  STD_TORCH_CHECK(map.dim() == 2, "a map must be (H, W), not of ", map.dim(), " dimensions");
  const int64_t height = map.size(0), width = map.size(1);
  check_pixels(height, width);
  std::vector<std::vector<Run>> runs(1);
  if (height * width == 0) return join(map, runs);
  const void* p = map.const_data_ptr();
  switch (map.scalar_type()) {
    case ScalarType::Int: runs[0] = runs_of(static_cast<const int32_t*>(p), height, width, map.stride(0), map.stride(1)); break;
    case ScalarType::Short: runs[0] = runs_of(static_cast<const int16_t*>(p), height, width, map.stride(0), map.stride(1)); break;
    case ScalarType::Byte: runs[0] = runs_of(static_cast<const uint8_t*>(p), height, width, map.stride(0), map.stride(1)); break;
    default: STD_TORCH_CHECK(false, "a map must be of int32, int16 or uint8");
  }
  return join(map, runs);
}

// (N, H, W) bool -> runs (R, 3) of the pixels inside each mask
Tensor mask_runs(const Tensor& masks) {
  STD_TORCH_CHECK(masks.dim() == 3 && masks.scalar_type() == ScalarType::Bool, "masks must be (N, H, W) of bool");
  const int64_t count = masks.size(0), height = masks.size(1), width = masks.size(2);
  check_pixels(height, width);
  std::vector<std::vector<Run>> runs(count);
  if (height * width) {
    const uint8_t* p = static_cast<const uint8_t*>(masks.const_data_ptr());
    torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        for (const Run& run : runs_of(p + n * masks.stride(0), height, width, masks.stride(1), masks.stride(2)))
          if (run.code) runs[n].push_back({run.start, run.end, static_cast<int32_t>(n)});
      }
    });
  }
  return join(masks, runs);
}

// One mask's encoding, run by run.
class Encoding {
 public:
  std::string text;
  int64_t area = 0;
  int32_t left = 0, right = -1, top = std::numeric_limits<int32_t>::max(), bottom = -1;

  // Runs of ones, from the top left on; one that begins where the last one ended continues it.
  void add(int32_t start, int32_t end) {
    if (area == 0) {
      open_ = start;
    } else if (start != end_) {
      close();
      open_ = start;
    }
    end_ = end;
    area += end - start;
  }

  void finish(int64_t height, int64_t pixels) {
    height_ = height;
    if (area) close();
    if (last_ < pixels || count_ == 0) put(pixels - last_);
  }

  void frame(int64_t height) { height_ = height; }

 private:
  int64_t height_ = 1, open_ = 0, end_ = 0, last_ = 0, before_ = 0, before_that_ = 0;
  int64_t count_ = 0;

  void close() {
    put(open_ - last_);
    put(end_ - open_);
    last_ = end_;
    const int32_t first = static_cast<int32_t>(open_ / height_), last = static_cast<int32_t>((end_ - 1) / height_);
    if (right < 0) left = first;
    right = last;
    const int32_t upper = static_cast<int32_t>(open_ - first * height_), lower = static_cast<int32_t>(end_ - 1 - last * height_);
    // A run that goes on in the next column touches the bottom edge and the top edge.
    top = first == last ? std::min(top, upper) : 0;
    bottom = first == last ? std::max(bottom, lower) : static_cast<int32_t>(height_ - 1);
  }

  // One run length: from the fourth as its difference from the one two before, in groups of five bits, lowest first.
  void put(int64_t run) {
    int64_t rest = count_ > 2 ? run - before_that_ : run;
    before_that_ = before_, before_ = run, ++count_;
    for (bool more = true; more;) {
      const int64_t group = rest & 0x1f;
      rest >>= 5;
      more = group & 0x10 ? rest != -1 : rest != 0;
      text.push_back(static_cast<char>(group + (more ? 0x20 : 0) + 48));
    }
  }
};

// Runs (R, 3), in order within each code; table: code -> mask in 0..count - 1, or less than 0 for none.
// (all texts one after the other, uint8; (count, 6) int64: where the text ends, area, x, y, width, height of the box)
std::tuple<Tensor, Tensor> encode_runs(const Tensor& runs, const Tensor& table, int64_t count, int64_t height, int64_t width) {
  STD_TORCH_CHECK(runs.dim() == 2 && runs.size(1) == 3 && runs.scalar_type() == ScalarType::Int, "runs must be (R, 3) of int32");
  STD_TORCH_CHECK(table.dim() == 1 && table.scalar_type() == ScalarType::Int, "the table must be (codes,) of int32");
  STD_TORCH_CHECK(count >= 0 && height >= 0 && width >= 0, "count, height and width must not be negative");
  check_pixels(height, width);
  const Tensor packed = torch::stable::contiguous(runs), owners = torch::stable::contiguous(table);
  const Run* run = static_cast<const Run*>(packed.const_data_ptr());
  const int32_t* owner = static_cast<const int32_t*>(owners.const_data_ptr());
  std::vector<Encoding> masks(count);
  for (Encoding& mask : masks) mask.frame(height);
  const int64_t codes = owners.size(0), total = packed.size(0);
  for (int64_t i = 0; i < total; ++i) {
    if (run[i].code < 0 || run[i].code >= codes) continue;
    const int32_t to = owner[run[i].code];
    if (to < 0) continue;
    STD_TORCH_CHECK(to < count && run[i].start >= 0 && run[i].end > run[i].start && run[i].end <= height * width, "a run or its mask does not exist");
    masks[to].add(run[i].start, run[i].end);
  }
  size_t size = 0;
  for (Encoding& mask : masks) mask.finish(height, height * width), size += mask.text.size();
  Tensor text = torch::stable::new_empty(packed, std::vector<int64_t>{static_cast<int64_t>(size)}, ScalarType::Byte);
  Tensor measures = torch::stable::new_empty(packed, std::vector<int64_t>{count, 6}, ScalarType::Long);
  char* to = static_cast<char*>(text.mutable_data_ptr());
  int64_t* number = static_cast<int64_t*>(measures.mutable_data_ptr());
  int64_t end = 0;
  for (const Encoding& mask : masks) {
    if (!mask.text.empty()) std::memcpy(to + end, mask.text.data(), mask.text.size());
    end += static_cast<int64_t>(mask.text.size());
    const bool some = mask.area > 0;
    const int64_t values[6] = {end, mask.area, some ? mask.left : 0, some ? mask.top : 0, some ? mask.right - mask.left + 1 : 0,
                               some ? mask.bottom - mask.top + 1 : 0};
    number = std::copy(values, values + 6, number);
  }
  return {text, measures};
}

}  // namespace
}  // namespace proscale

STABLE_TORCH_LIBRARY_FRAGMENT(proscale, m) {
  m.def("map_runs(Tensor map) -> Tensor");
  m.def("mask_runs(Tensor masks) -> Tensor");
  m.def("encode_runs(Tensor runs, Tensor table, int count, int height, int width) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(proscale, CPU, m) {
  m.impl("map_runs", TORCH_BOX(&proscale::map_runs));
  m.impl("mask_runs", TORCH_BOX(&proscale::mask_runs));
  m.impl("encode_runs", TORCH_BOX(&proscale::encode_runs));
}
