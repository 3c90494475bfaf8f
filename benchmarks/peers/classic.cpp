// Deformable DETR's arithmetic for the CPU, written anew from the paper: locations in 0..1 and weights come ready made.
// `value` (batch, tokens, heads, channels), `locations` (batch, queries, heads, levels, points, 2), `weights` without the 2; all float32.
#include <math.h>
#include <stdint.h>

// The four pixels around a sample, and how much each weighs.
struct Corners {
  int64_t place[4];  // in tokens of the level; -1 outside
  float share[4], by_x[4], by_y[4];

  Corners(float x, float y, int64_t width, int64_t height) {
    const int64_t x0 = (int64_t)floorf(x), y0 = (int64_t)floorf(y);
    const float fx = x - x0, fy = y - y0;
    for (int corner = 0; corner < 4; ++corner) {
      const int right = corner % 2, down = corner / 2;
      const int64_t cx = x0 + right, cy = y0 + down;
      place[corner] = cy < 0 || cx < 0 || cy >= height || cx >= width ? -1 : cy * width + cx;
      const float wx = right ? fx : 1 - fx, wy = down ? fy : 1 - fy;
      share[corner] = wx * wy, by_x[corner] = right ? wy : -wy, by_y[corner] = down ? wx : -wx;
    }
  }
};

extern "C" void classic(
    const float* value, const int64_t* shapes, const int64_t* starts, const float* locations, const float* weights, float* out,
    int64_t batch, int64_t tokens, int64_t heads, int64_t channels, int64_t queries, int64_t levels, int64_t points
) {
#pragma omp parallel for
  for (int64_t row = 0; row < batch * queries * heads; ++row) {
    const int64_t h = row % heads, b = row / heads / queries;
    float* o = out + row * channels;
    for (int64_t c = 0; c < channels; ++c) o[c] = 0;
    for (int64_t l = 0; l < levels; ++l) {
      const int64_t height = shapes[2 * l], width = shapes[2 * l + 1];
      const float* v = value + ((b * tokens + starts[l]) * heads + h) * channels;
      for (int64_t p = 0; p < points; ++p) {
        const int64_t k = (row * levels + l) * points + p;
        const float x = locations[2 * k] * width - 0.5f, y = locations[2 * k + 1] * height - 0.5f;
        if (!(x > -1 && y > -1 && x < width && y < height)) continue;
        const int64_t x0 = (int64_t)floorf(x), y0 = (int64_t)floorf(y);
        const float fx = x - x0, fy = y - y0, share[4] = {(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx};
        for (int corner = 0; corner < 4; ++corner) {
          const int64_t cy = y0 + corner / 2, cx = x0 + corner % 2;
          if (cy < 0 || cx < 0 || cy >= height || cx >= width) continue;
          const float *from = v + (cy * width + cx) * heads * channels, w = weights[k] * share[corner];
          for (int64_t c = 0; c < channels; ++c) o[c] += w * from[c];
        }
      }
    }
  }
}

// `value_gradient` must be zero. A head of a picture is one thread's, so nothing is added by two at once.
extern "C" void classic_backward(
    const float* value, const int64_t* shapes, const int64_t* starts, const float* locations, const float* weights,
    const float* out_gradient, float* value_gradient, float* locations_gradient, float* weights_gradient, int64_t batch, int64_t tokens,
    int64_t heads, int64_t channels, int64_t queries, int64_t levels, int64_t points
) {
#pragma omp parallel for
  for (int64_t pair = 0; pair < batch * heads; ++pair) {
    const int64_t b = pair / heads, h = pair % heads;
    for (int64_t q = 0; q < queries; ++q) {
      const int64_t row = (b * queries + q) * heads + h;
      const float* g = out_gradient + row * channels;
      for (int64_t l = 0; l < levels; ++l) {
        const int64_t height = shapes[2 * l], width = shapes[2 * l + 1], first = ((b * tokens + starts[l]) * heads + h) * channels;
        for (int64_t p = 0; p < points; ++p) {
          const int64_t k = (row * levels + l) * points + p;
          const float x = locations[2 * k] * width - 0.5f, y = locations[2 * k + 1] * height - 0.5f;
          float by_weight = 0, by_x = 0, by_y = 0;
          if (x > -1 && y > -1 && x < width && y < height) {
            const Corners corners(x, y, width, height);
            for (int corner = 0; corner < 4; ++corner) {
              if (corners.place[corner] < 0) continue;
              const int64_t at = first + corners.place[corner] * heads * channels;
              const float w = weights[k] * corners.share[corner];
              float dot = 0;
              for (int64_t c = 0; c < channels; ++c) {
                dot += g[c] * value[at + c];
                value_gradient[at + c] += w * g[c];
              }
              by_weight += dot * corners.share[corner];
              by_x += dot * corners.by_x[corner], by_y += dot * corners.by_y[corner];
            }
          }
          weights_gradient[k] = by_weight;
          locations_gradient[2 * k] = by_x * weights[k] * width, locations_gradient[2 * k + 1] = by_y * weights[k] * height;
        }
      }
    }
  }
}
