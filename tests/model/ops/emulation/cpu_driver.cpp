// The plain CPU kernels without torch, for processors that the tests can only emulate: a problem comes in, the results leave.
//
// On stdin: int32 batch, heads, channels, levels, points, type (proscale::Type); height and width of every level; value, offsets, logits and
// the output's gradient, without gaps, all in that type. On stdout: output, gradients of value, offsets and logits. Every query sits on its
// own token.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cpu_plan.h"

using namespace proscale;

template <class E>
void transfer(size_t (*move)(E*, size_t, size_t, FILE*), E* data, size_t size, FILE* file) {
  if (move(data, 1, size, file) != size) exit(1);
}

template <class A>
void compute(const Problem& problem, const Kernels<A>& run) {
  const PlanTables<A> tables(problem, run);
  const size_t size = problem.tokens * tables.plan.padded_channels;
  AlignedVector<A> packed(size), gradient(size);
  for (int64_t b = 0; b < problem.batch; ++b) {
    for (int64_t h = 0; h < problem.heads; ++h) {
      run.pack(problem, tables.plan, b, h, 0, problem.tokens, packed.data());
      run.forward(problem, tables.plan, b, h, 0, problem.queries, packed.data());
      std::fill(gradient.begin(), gradient.end(), A{});
      run.backward(problem, tables.plan, b, h, packed.data(), gradient.data());
      run.unpack(problem, tables.plan, b, h, gradient.data());
    }
  }
}

int main() {
  int32_t head[6];
  transfer<void>(fread, head, sizeof head, stdin);
  Problem problem{};
  problem.batch = head[0], problem.heads = head[1], problem.channels = head[2], problem.levels = head[3], problem.points = head[4];
  problem.value_type = problem.sampling_type = static_cast<Type>(head[5]);
  std::vector<int32_t> shapes(2 * problem.levels);
  transfer<void>(fread, shapes.data(), shapes.size() * sizeof(int32_t), stdin);
  std::vector<Level> levels;
  for (int32_t l = 0; l < problem.levels; ++l) {
    levels.push_back({shapes[2 * l], shapes[2 * l + 1], static_cast<int32_t>(problem.tokens)});
    problem.tokens += int64_t{shapes[2 * l]} * shapes[2 * l + 1];
  }
  problem.level = levels.data(), problem.queries = problem.tokens;

  const int64_t element = problem.value_type == Type::f64 ? 8 : problem.value_type == Type::f32 ? 4 : 2;
  const int64_t samples = int64_t{problem.levels} * problem.points, rows = problem.tokens * problem.heads;
  problem.value_strides = {rows * problem.channels, int64_t{problem.heads} * problem.channels, problem.channels};
  problem.offsets_strides = {rows * samples * 2, problem.heads * samples * 2, samples * 2};
  problem.logits_strides = {rows * samples, problem.heads * samples, samples};
  const size_t value = problem.batch * rows * problem.channels * element, logits = problem.batch * rows * samples * element;
  std::vector<char> in[4], out[4];
  const size_t in_sizes[4] = {value, 2 * logits, logits, value}, out_sizes[4] = {value, value, 2 * logits, logits};
  for (int i = 0; i < 4; ++i) {
    in[i].resize(in_sizes[i]), out[i].resize(out_sizes[i]);
    transfer<void>(fread, in[i].data(), in_sizes[i], stdin);
  }
  problem.value = in[0].data(), problem.offsets = in[1].data(), problem.logits = in[2].data(), problem.out_gradient = in[3].data();
  problem.out = out[0].data(), problem.value_gradient = out[1].data();
  problem.offsets_gradient = out[2].data(), problem.logits_gradient = out[3].data();
  if (problem.value_type == Type::f64) {
    compute<double>(problem, plain::kernel_set().f64);
  } else {
    compute<float>(problem, plain::kernel_set().f32);
  }
  for (auto& bytes : out) transfer<const void>(fwrite, bytes.data(), bytes.size(), stdout);
}
