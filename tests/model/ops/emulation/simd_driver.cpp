// The functions of simd.h without torch: floats on stdin, e^x of each on stdout. Built once per instruction set.
#include <cstdio>
#include <vector>

#include "simd.h"

using namespace proscale::PROSCALE_SET;

int main() {
  std::vector<float> values;
  for (float x; fread(&x, sizeof x, 1, stdin) == 1;) values.push_back(x);
  const size_t count = values.size();
  values.resize(count + lanes);
  for (size_t i = 0; i < count; i += lanes) store(values.data() + i, exponential(load<F32>(values.data() + i)));
  return fwrite(values.data(), sizeof(float), count, stdout) == count ? 0 : 1;
}
