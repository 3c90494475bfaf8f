// proscale::ms_deform_attn: the schema, and the operator on the CPU.
#include <algorithm>
#include <cstring>

#include "aligned.h"
#include "arguments.h"
#include "cpu_plan.h"
#include "instruction_set.h"

namespace proscale {
namespace {

const KernelSet& kernel_set() {
#ifdef PROSCALE_X86
  if (instruction_set() == InstructionSet::avx512) return avx512::kernel_set();
  if (instruction_set() == InstructionSet::avx2) return avx2::kernel_set();
#endif
  return plain::kernel_set();
}

template <class A>
const Kernels<A>& kernels() {
  if constexpr (sizeof(A) == 8) {
    return kernel_set().f64;
  } else {
    return kernel_set().f32;
  }
}

void check_samples(const Problem& problem) {
  const int64_t samples = int64_t{problem.levels} * problem.points;
  STD_TORCH_CHECK(samples >= 1 && samples <= max_samples, "ms_deform_attn: 1 to ", max_samples, " samples per query are compiled");
}

// Tasks of so many queries of one head that are worth waking a second thread for: about 50 microseconds.
int64_t grain(const Problem& problem, int64_t queries) {
  const int64_t work = queries * problem.levels * problem.points * problem.channels;
  return std::max<int64_t>(1, (int64_t{1} << 17) / std::max<int64_t>(1, work));
}

// Heads are packed a few at a time, so that what is being sampled stays in the cache; threads then share tokens and queries.
template <class A>
void forward(const Problem& problem) {
  constexpr int64_t block = 64;                              // queries
  constexpr int64_t cache = (int64_t{4} << 20) / sizeof(A);  // elements packed at once
  const Kernels<A>& run = kernels<A>();
  const PlanTables<A> tables(problem, run);
  const Plan<A>& plan = tables.plan;
  const int64_t pairs = problem.batch * problem.heads, size = problem.tokens * plan.padded_channels;
  const int64_t group = std::clamp<int64_t>(cache / size, 1, pairs);
  const auto packed = uninitialized<A>(group * size);
  const int64_t token_blocks = (problem.tokens + block - 1) / block, query_blocks = (problem.queries + block - 1) / block;
  for (int64_t first = 0; first < pairs; first += group) {
    const int64_t count = std::min(group, pairs - first);
    torch::stable::parallel_for(0, count * token_blocks, 64, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t pair = i / token_blocks, token = i % token_blocks * block;
        run.pack(
            problem, plan, (first + pair) / problem.heads, (first + pair) % problem.heads, token, std::min(token + block, problem.tokens),
            packed.get() + pair * size
        );
      }
    });
    torch::stable::parallel_for(0, count * query_blocks, grain(problem, block), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t pair = i / query_blocks, query = i % query_blocks * block;
        run.forward(
            problem, plan, (first + pair) / problem.heads, (first + pair) % problem.heads, query, std::min(query + block, problem.queries),
            packed.get() + pair * size
        );
      }
    });
  }
}

// One head of one image is one thread's work from start to end.
template <class A>
void backward(const Problem& problem) {
  const Kernels<A>& run = kernels<A>();
  const PlanTables<A> tables(problem, run);
  const Plan<A>& plan = tables.plan;
  const int64_t size = problem.tokens * plan.padded_channels;
  torch::stable::parallel_for(0, problem.batch * problem.heads, grain(problem, problem.queries), [&](int64_t begin, int64_t end) {
    const auto packed = uninitialized<A>(size), gradient = uninitialized<A>(size);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / problem.heads, h = i % problem.heads;
      run.pack(problem, plan, b, h, 0, problem.tokens, packed.get());
      std::memset(gradient.get(), 0, static_cast<size_t>(size) * sizeof(A));
      run.backward(problem, plan, b, h, packed.get(), gradient.get());
      run.unpack(problem, plan, b, h, gradient.get());
    }
  });
}

Tensor ms_deform_attn(
    const Tensor& value, const Tensor& offsets, const Tensor& logits, const std::vector<int64_t>& spatial_shapes,
    const std::optional<Tensor>& reference_points
) {
  Arguments arguments(value, offsets, logits, spatial_shapes, reference_points);
  Problem& problem = arguments.problem;
  Tensor out = torch::stable::new_empty(
      value, std::vector<int64_t>{problem.batch, problem.queries, static_cast<int64_t>(problem.heads) * problem.channels}
  );
  problem.out = out.mutable_data_ptr();
  check_samples(problem);
  if (out.numel() == 0) return out;
  if (problem.value_type == Type::f64) {
    forward<double>(problem);
  } else {
    forward<float>(problem);
  }
  return out;
}

std::tuple<Tensor, Tensor, Tensor> ms_deform_attn_backward(
    const Tensor& out_gradient, const Tensor& value, const Tensor& offsets, const Tensor& logits,
    const std::vector<int64_t>& spatial_shapes, const std::optional<Tensor>& reference_points, [[maybe_unused]] bool deterministic
) {
  Arguments arguments(value, offsets, logits, spatial_shapes, reference_points);
  Problem& problem = arguments.problem;
  STD_TORCH_CHECK(
      out_gradient.dim() == 3 && out_gradient.size(0) == problem.batch && out_gradient.size(1) == problem.queries &&
          out_gradient.size(2) == static_cast<int64_t>(problem.heads) * problem.channels &&
          out_gradient.scalar_type() == value.scalar_type(),
      "ms_deform_attn_backward: the gradient must be like the output"
  );
  check_samples(problem);
  const Tensor incoming = torch::stable::contiguous(out_gradient);
  Tensor by_value = torch::stable::new_empty(value, value.sizes());
  Tensor by_offsets = torch::stable::new_empty(offsets, offsets.sizes());
  Tensor by_logits = torch::stable::new_empty(logits, logits.sizes());
  problem.out_gradient = incoming.const_data_ptr();
  problem.value_gradient = by_value.mutable_data_ptr();
  problem.offsets_gradient = by_offsets.mutable_data_ptr();
  problem.logits_gradient = by_logits.mutable_data_ptr();
  if (incoming.numel() == 0) {
    torch::stable::zero_(by_value);
  } else if (problem.value_type == Type::f64) {
    backward<double>(problem);
  } else {
    backward<float>(problem);
  }
  return {by_value, by_offsets, by_logits};
}

}  // namespace
}  // namespace proscale

// The name of the instruction set in use, for `proscale doctor`.
extern "C" __attribute__((visibility("default"))) const char* proscale_cpu_capability() { return proscale::kernel_set().name; }

STABLE_TORCH_LIBRARY(proscale, m) {
  m.def("ms_deform_attn(Tensor value, Tensor offsets, Tensor logits, int[] spatial_shapes, Tensor? reference_points=None) -> Tensor");
  m.def(
      "ms_deform_attn_backward(Tensor out_gradient, Tensor value, Tensor offsets, Tensor logits, int[] spatial_shapes, "
      "Tensor? reference_points, bool deterministic) -> (Tensor, Tensor, Tensor)"
  );
}

STABLE_TORCH_LIBRARY_IMPL(proscale, CPU, m) {
  m.impl("ms_deform_attn", TORCH_BOX(&proscale::ms_deform_attn));
  m.impl("ms_deform_attn_backward", TORCH_BOX(&proscale::ms_deform_attn_backward));
}
