// proscale::ms_deform_attn on CUDA. The tests build this file for the host too (PROSCALE_EMULATE), as proscale_emulated::ms_deform_attn.
#include <algorithm>
#include <cstring>

#include "arguments.h"
#include "cuda_kernel.cuh"

#ifndef PROSCALE_EMULATE
#include <cuda_runtime.h>
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>
#endif

namespace proscale::cuda {
namespace {

#ifdef PROSCALE_EMULATE

struct OnDevice {
  explicit OnDevice(const Tensor&) {}
  template <class Kernel, class... Args>
  void launch(Kernel kernel, dim3 grid, const Args&... args) const {
    emulate::launch(grid, block_size, [&] { kernel(args...); });
  }
};

#else

// Torch's current stream of a device. The function lives in libtorch_cuda, which a CPU build of torch (enough to compile this) lacks.
cudaStream_t current_stream(int32_t device) {
  using Get = AOTITorchError (*)(int32_t, void**);
  static const Get get = []() -> Get {
    void* const library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);  // torch has loaded it, if it has it
    return library ? reinterpret_cast<Get>(dlsym(library, "aoti_torch_get_current_cuda_stream")) : nullptr;
  }();
  STD_TORCH_CHECK(get != nullptr, "ms_deform_attn: this torch has no CUDA");
  void* stream = nullptr;
  STD_TORCH_CHECK(get(device, &stream) == AOTI_TORCH_SUCCESS, "ms_deform_attn: no current CUDA stream");
  return static_cast<cudaStream_t>(stream);
}

struct OnDevice {
  torch::stable::accelerator::DeviceGuard guard;
  cudaStream_t stream;

  explicit OnDevice(const Tensor& tensor) : guard(tensor.get_device_index()), stream(current_stream(tensor.get_device_index())) {}

  template <class... Parameters, class... Args>
  void launch(void (*kernel)(Parameters...), dim3 grid, const Args&... args) const {
    kernel<<<grid, block_size, 0, stream>>>(args...);
    const cudaError_t error = cudaGetLastError();
    STD_TORCH_CHECK(error == cudaSuccess, "ms_deform_attn: ", cudaGetErrorString(error));
  }
};

#endif

// Vector loads need aligned addresses: `elements` of `size` bytes at a time, in all leading dimensions.
bool aligned(const Tensor& tensor, int64_t dimensions, int64_t elements, int64_t size) {
  if (reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % (elements * size)) return false;
  for (int64_t i = 0; i < dimensions; ++i)
    if (tensor.size(i) > 1 && tensor.stride(i) % elements) return false;
  return true;
}

int64_t size_of(Type type) { return type == Type::f64 ? 8 : type == Type::f32 ? 4 : 2; }

// Contiguous copies of what vector loads could not read where it lies.
Tensor readable(const Tensor& tensor, int64_t dimensions, int64_t elements, Type type) {
  return dense_from(tensor, dimensions) && aligned(tensor, dimensions, elements, size_of(type))
             ? tensor
             : torch::stable::clone(torch::stable::contiguous(tensor));
}

Parameters parameters_of(const Problem& problem) {
  Parameters p{};
  p.value = problem.value, p.offsets = problem.offsets, p.logits = problem.logits;
  p.reference_points = static_cast<const float*>(problem.reference_points);
  p.value_batch = problem.value_strides.batch, p.value_row = static_cast<uint32_t>(problem.value_strides.row);
  p.value_head = static_cast<uint32_t>(problem.value_strides.head);
  p.offsets_batch = problem.offsets_strides.batch, p.offsets_row = static_cast<uint32_t>(problem.offsets_strides.row);
  p.offsets_head = static_cast<uint32_t>(problem.offsets_strides.head);
  p.logits_batch = problem.logits_strides.batch, p.logits_row = static_cast<uint32_t>(problem.logits_strides.row);
  p.logits_head = static_cast<uint32_t>(problem.logits_strides.head);
  p.reference_points_batch = problem.reference_points_batch_stride, p.reference_points_query = problem.reference_points_query_stride;
  p.batch = static_cast<int32_t>(problem.batch), p.tokens = static_cast<int32_t>(problem.tokens);
  p.queries = static_cast<int32_t>(problem.queries), p.heads = problem.heads, p.channels = problem.channels;
  p.levels = problem.levels, p.points = problem.points, p.samples = problem.levels * problem.points;
  STD_TORCH_CHECK(p.channels % 8 == 0, "ms_deform_attn: on CUDA, heads of a multiple of 8 channels are compiled, got ", p.channels);
  STD_TORCH_CHECK(
      p.levels <= max_levels && p.samples >= 1 && p.samples <= max_samples, "ms_deform_attn: on CUDA, at most ", max_levels, " levels and ",
      max_samples, " samples per query are compiled"
  );
  STD_TORCH_CHECK(problem.value_type != Type::f64, "ms_deform_attn: there is no float64 on CUDA");
  constexpr int64_t limit = int64_t{1} << 31;
  STD_TORCH_CHECK(
      problem.queries * problem.heads < limit && problem.batch < limit &&
          problem.tokens * problem.value_strides.row + problem.heads * problem.value_strides.head < 2 * limit &&
          problem.offsets_strides.row < 2 * limit && problem.logits_strides.row < 2 * limit,
      "ms_deform_attn: one picture has more than 2^32 elements"
  );
  p.items = static_cast<uint32_t>(problem.queries * problem.heads);
  p.float_sampling = problem.sampling_type == Type::f32;
  p.by_heads = Divisor(p.heads), p.by_points = Divisor(p.points);
  for (int32_t l = 0; l < problem.levels; ++l) {
    const Level& from = problem.level[l];
    LevelParameters& to = p.level[l];
    to.start = from.start, to.width = from.width;
    to.columns = static_cast<float>(from.width), to.rows = static_cast<float>(from.height), to.first = static_cast<float>(from.start);
    to.last_x = static_cast<float>(std::max(from.width - 2, 0)), to.last_y = static_cast<float>(std::max(from.height - 2, 0));
    to.step_x = from.width > 1 ? p.value_row : 0, to.step_y = from.height > 1 ? p.value_row * from.width : 0;
    to.second_x = from.width > 1 ? 1.0f : 0.0f, to.second_y = from.height > 1 ? 1.0f : 0.0f;
    to.inverse_width = 1.0f / static_cast<float>(from.width), to.inverse_height = 1.0f / static_cast<float>(from.height);
    to.by_width = Divisor(from.width);
  }
  return p;
}

dim3 grid_of(const Parameters& p, int lanes) {
  const uint32_t per_block = block_size / lanes, rows = std::min(p.batch, 65535);
  return dim3((p.items + per_block - 1) / per_block, rows, (p.batch + rows - 1) / rows);
}

dim3 grid_of(int64_t eights) { return dim3(static_cast<uint32_t>((eights + block_size - 1) / block_size)); }

// What the published models have, 8 heads of 32 channels with 4 points on 1 to 3 levels, is known when compiling if nothing is out of the
// ordinary (`plain`: offsets in value's type, no reference points, sums in any order).
bool is_fixed(const Parameters& p, bool plain) {
  if (!plain || p.points != 4 || p.channels != 32 || p.heads != fixed_heads) return false;
  if (p.value_row != fixed_row || p.value_head != 32 || p.tokens >= 1 << 24) return false;
  return std::all_of(p.level, p.level + p.levels, [](const LevelParameters& level) { return level.second_x && level.second_y; });
}

template <class T, class Launch>
void by_shape(const Parameters& p, bool plain, Launch launch) {
  const bool fixed = is_fixed(p, plain);
  if (fixed && p.levels == 3) return launch.template operator()<T, 4, 3>();
  if (fixed && p.levels == 2) return launch.template operator()<T, 4, 2>();
  if (fixed && p.levels == 1) return launch.template operator()<T, 4, 1>();
  if (p.channels <= 8) return launch.template operator()<T, 1, 0>();
  if (p.channels <= 16) return launch.template operator()<T, 2, 0>();
  if (p.channels <= 32) return launch.template operator()<T, 4, 0>();
  return launch.template operator()<T, 8, 0>();
}

template <class Job>
void by_type(Type type, Job job) {
  if (type == Type::f16) return job(__half{});
  if (type == Type::bf16) return job(__nv_bfloat16{});
  return job(float{});
}

struct DeviceArguments : Arguments {
  DeviceArguments(
      const Tensor& value, const Tensor& offsets, const Tensor& logits, const std::vector<int64_t>& spatial_shapes,
      const std::optional<Tensor>& reference_points
  )
      : Arguments(
            readable(value, 3, 16 / size_of(type_of(value, "value")), type_of(value, "value")),
            readable(offsets, 3, 2, type_of(offsets, "offsets")), logits, spatial_shapes, reference_points
        ) {}
};

Tensor ms_deform_attn(
    const Tensor& value, const Tensor& offsets, const Tensor& logits, const std::vector<int64_t>& spatial_shapes,
    const std::optional<Tensor>& reference_points
) {
  const OnDevice device(value);
  DeviceArguments arguments(value, offsets, logits, spatial_shapes, reference_points);
  const Problem& problem = arguments.problem;
  Parameters p = parameters_of(problem);
  Tensor out =
      torch::stable::new_empty(value, std::vector<int64_t>{problem.batch, problem.queries, static_cast<int64_t>(p.heads) * p.channels});
  p.out = out.mutable_data_ptr();
  if (out.numel() == 0) return out;
  by_type(problem.value_type, [&]<class T>(T) {
    by_shape<T>(p, problem.sampling_type == problem.value_type && !problem.reference_points, [&]<class U, int lanes, int levels>() {
      device.launch(forward_kernel<U, lanes, levels>, grid_of(p, lanes), p);
    });
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> ms_deform_attn_backward(
    const Tensor& out_gradient, const Tensor& value, const Tensor& offsets, const Tensor& logits,
    const std::vector<int64_t>& spatial_shapes, const std::optional<Tensor>& reference_points, bool deterministic
) {
  const OnDevice device(value);
  DeviceArguments arguments(value, offsets, logits, spatial_shapes, reference_points);
  const Problem& problem = arguments.problem;
  Parameters p = parameters_of(problem);
  STD_TORCH_CHECK(
      out_gradient.dim() == 3 && out_gradient.size(0) == problem.batch && out_gradient.size(1) == problem.queries &&
          out_gradient.size(2) == static_cast<int64_t>(p.heads) * p.channels && out_gradient.scalar_type() == value.scalar_type(),
      "ms_deform_attn_backward: the gradient must be like the output"
  );
  const Tensor incoming = readable(torch::stable::contiguous(out_gradient), 3, 16 / size_of(problem.value_type), problem.value_type);
  Tensor by_offsets = torch::stable::new_empty(offsets, offsets.sizes());
  Tensor by_logits = torch::stable::new_empty(logits, logits.sizes());
  // Sums are made in float, or in whole numbers when the order of summing must not matter; for float they are the result.
  const bool direct = problem.value_type == Type::f32 && !deterministic;
  const ScalarType sum_type = deterministic ? ScalarType::Long : ScalarType::Float;
  Tensor sums = torch::stable::new_zeros(value, value.sizes(), sum_type);
  Tensor by_value = direct ? sums : torch::stable::new_empty(value, value.sizes());
  if (incoming.numel() == 0) {
    torch::stable::zero_(by_value);
    return {by_value, by_offsets, by_logits};
  }
  Tensor largest = torch::stable::new_zeros(value, std::vector<int64_t>{1}, ScalarType::Int);
  p.out_gradient = incoming.const_data_ptr();
  p.offsets_gradient = by_offsets.mutable_data_ptr(), p.logits_gradient = by_logits.mutable_data_ptr();
  p.accumulator = sums.mutable_data_ptr();
  p.deterministic = deterministic;
  uint32_t* const bits = deterministic ? static_cast<uint32_t*>(largest.mutable_data_ptr()) : nullptr;
  p.largest = bits;
  by_type(problem.value_type, [&]<class T>(T) {
    if (deterministic) {
      const int64_t eights = incoming.numel() / 8;
      device.launch(largest_kernel<T>, grid_of(eights), static_cast<const T*>(p.out_gradient), eights, bits);
    }
    by_shape<T>(
        p, problem.sampling_type == problem.value_type && !problem.reference_points && !deterministic,
        [&]<class U, int lanes, int levels>() { device.launch(backward_kernel<U, lanes, levels>, grid_of(p, lanes), p); }
    );
    if (!direct) {
      const int64_t eights = value.numel() / 8;
      device.launch(
          convert_kernel<T>, grid_of(eights), static_cast<const void*>(p.accumulator), static_cast<T*>(by_value.mutable_data_ptr()), eights,
          static_cast<const uint32_t*>(bits)
      );
    }
  });
  return {by_value, by_offsets, by_logits};
}

}  // namespace
}  // namespace proscale::cuda

#ifdef PROSCALE_EMULATE
STABLE_TORCH_LIBRARY(proscale_emulated, m) {
  m.def("ms_deform_attn(Tensor value, Tensor offsets, Tensor logits, int[] spatial_shapes, Tensor? reference_points=None) -> Tensor");
  m.def(
      "ms_deform_attn_backward(Tensor out_gradient, Tensor value, Tensor offsets, Tensor logits, int[] spatial_shapes, "
      "Tensor? reference_points, bool deterministic) -> (Tensor, Tensor, Tensor)"
  );
}
STABLE_TORCH_LIBRARY_IMPL(proscale_emulated, CPU, m) {
#else
STABLE_TORCH_LIBRARY_IMPL(proscale, CUDA, m) {
#endif
  m.impl("ms_deform_attn", TORCH_BOX(&proscale::cuda::ms_deform_attn));
  m.impl("ms_deform_attn_backward", TORCH_BOX(&proscale::cuda::ms_deform_attn_backward));
}
