// Deformable DETR's arithmetic for GPUs, written anew from the paper: locations in 0..1 and weights come ready made.
#include <math.h>
#include <stdint.h>

#define ARGUMENTS const float *value, const int64_t *shapes, const int64_t *starts, const float *locations, const float *weights, \
    float *out, int64_t batch, int64_t tokens, int64_t heads, int64_t channels, int64_t queries, int64_t levels, int64_t points

// One thread per output channel, which works out every location again: that is how it has always been done.
__global__ void gather(ARGUMENTS) {
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= batch * queries * heads * channels) return;
  const int64_t c = i % channels, row = i / channels, h = row % heads, b = row / heads / queries;
  float sum = 0;
  for (int l = 0; l < levels; ++l) {
    const int height = shapes[2 * l], width = shapes[2 * l + 1];
    const float *v = value + ((b * tokens + starts[l]) * heads + h) * channels + c;
    const int stride = heads * channels;
    for (int p = 0; p < points; ++p) {
      const int64_t k = (row * levels + l) * points + p;
      const float x = locations[2 * k] * width - 0.5f, y = locations[2 * k + 1] * height - 0.5f;
      if (!(x > -1 && y > -1 && x < width && y < height)) continue;
      const int x0 = floorf(x), y0 = floorf(y);
      const float fx = x - x0, fy = y - y0;
      const bool left = x0 >= 0, right = x0 + 1 < width, up = y0 >= 0, down = y0 + 1 < height;
      const float v00 = left && up ? v[(y0 * width + x0) * stride] : 0, v01 = right && up ? v[(y0 * width + x0 + 1) * stride] : 0;
      const float v10 = left && down ? v[((y0 + 1) * width + x0) * stride] : 0;
      const float v11 = right && down ? v[((y0 + 1) * width + x0 + 1) * stride] : 0;
      sum += weights[k] * ((1 - fy) * ((1 - fx) * v00 + fx * v01) + fy * ((1 - fx) * v10 + fx * v11));
    }
  }
  out[i] = sum;
}
extern "C" void classic(ARGUMENTS) {
  const int64_t threads = batch * queries * heads * channels;
  gather<<<(unsigned)((threads + 1023) / 1024), 1024>>>(
      value, shapes, starts, locations, weights, out, batch, tokens, heads, channels, queries, levels, points);
}
