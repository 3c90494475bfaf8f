// proscale::attention: checks, threads and dispatch.
#include <algorithm>
#include <cmath>
#include <optional>

#include "aligned.h"
#include "attention.h"
#include "instruction_set.h"
#include "runs.h"

namespace proscale {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr double log2_e = 1.4426950408889634;
constexpr int64_t chunk_keys = 512;  // at most; 256 and 1024 are as fast (Zen 5)

const AttentionKernels& kernels() {
#ifdef PROSCALE_X86
  if (instruction_set() == InstructionSet::avx512) {
    static const bool products_of_bfloats = __builtin_cpu_supports("avx512bf16");
    return products_of_bfloats ? avx512bf16::attention_kernels : avx512::attention_kernels;
  }
  if (instruction_set() == InstructionSet::avx2) return avx2::attention_kernels;
#endif
  return plain::attention_kernels;
}

AttentionStrides strides_of(const Tensor& x) {
  STD_TORCH_CHECK(x.stride(3) == 1 || x.size(3) == 1, "channels must lie side by side");
  return {x.stride(0), x.stride(1), x.stride(2)};
}

// query (B, heads, Q, d), key and value (B, heads, K, d) float32 or bfloat16, allowed (B, Q, K) bool -> (B, Q, heads * d)
Tensor attention(const Tensor& query, const Tensor& key, const Tensor& value, std::optional<Tensor> allowed) {
  STD_TORCH_CHECK(query.dim() == 4 && key.dim() == 4 && value.dim() == 4, "query, key and value must have four dimensions");
  const auto type = query.scalar_type();
  STD_TORCH_CHECK(
      (type == ScalarType::Float || type == ScalarType::BFloat16) && key.scalar_type() == type && value.scalar_type() == type,
      "query, key and value must be all float32 or all bfloat16"
  );
  AttentionJob job{};
  job.batch = query.size(0), job.heads = query.size(1), job.queries = query.size(2), job.channels = query.size(3), job.keys = key.size(2);
  for (const Tensor* each : {&key, &value}) {
    STD_TORCH_CHECK(
        each->size(0) == job.batch && each->size(1) == job.heads && each->size(2) == job.keys && each->size(3) == job.channels,
        "key and value must be (B, heads, K, d) for a query (B, heads, Q, d)"
    );
  }
  STD_TORCH_CHECK(
      job.channels > 0 && job.channels % channels_step == 0 && job.channels <= most_channels && job.keys > 0, "heads must have a multiple of ",
      channels_step, " channels, at most ", most_channels, ", and keys"
  );
  if (allowed) {
    STD_TORCH_CHECK(
        allowed->scalar_type() == ScalarType::Bool && allowed->dim() == 3 && allowed->size(0) == job.batch &&
            allowed->size(1) == job.queries && allowed->size(2) == job.keys && allowed->is_contiguous(),
        "allowed must be (B, Q, K), bool and contiguous"
    );
    job.allowed = static_cast<const uint8_t*>(allowed->const_data_ptr());
  }
  job.query_strides = strides_of(query), job.key_strides = strides_of(key), job.value_strides = strides_of(value);
  job.query = query.const_data_ptr(), job.key = key.const_data_ptr(), job.value = value.const_data_ptr();
  Tensor out = torch::stable::new_empty(query, {job.batch, job.queries, job.heads * job.channels});
  job.out = out.mutable_data_ptr();
  job.scale = static_cast<float>(log2_e / std::sqrt(static_cast<double>(job.channels)));
  const AttentionKernels& chosen = kernels();
  const int64_t parts = (job.keys + chunk_keys - 1) / chunk_keys, even = (job.keys + parts - 1) / parts;
  job.chunk = (even + chosen.group - 1) / chosen.group * chosen.group;
  job.chunks = (job.keys + job.chunk - 1) / job.chunk, job.blocks = (job.queries + query_block - 1) / query_block;
  job.chunk_floats = 2 * job.channels * job.chunk;
  const int64_t heads = job.batch * job.heads;
  const auto packed = uninitialized<float>(heads * job.chunks * job.chunk_floats);
  job.packed = packed.get();
  const bool floats = type == ScalarType::Float;
  torch::stable::parallel_for(0, heads * job.chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) (floats ? chosen.pack_floats : chosen.pack_bfloats)(job, chunk);
  });
  torch::stable::parallel_for(0, heads * job.blocks, 1, [&](int64_t begin, int64_t end) {
    const auto scratch = uninitialized<float>(attention_scratch(job.channels, job.chunk));
    for (int64_t block = begin; block < end; ++block) (floats ? chosen.floats : chosen.bfloats)(job, block, scratch.get());
  });
  return out;
}

}  // namespace
}  // namespace proscale

STABLE_TORCH_LIBRARY_FRAGMENT(proscale, m) { m.def("attention(Tensor query, Tensor key, Tensor value, Tensor? allowed=None) -> Tensor"); }

STABLE_TORCH_LIBRARY_IMPL(proscale, CPU, m) { m.impl("attention", TORCH_BOX(&proscale::attention)); }
