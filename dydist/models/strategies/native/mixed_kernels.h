// The forward pass and the gradient of x: kernels are mixed a tile at a time and used at once.

#pragma once

#include "pixels.h"
#include "tiles.h"
#include "vectors.h"

namespace {

template <typename T>
void forward(const Sizes& s, const T* x, const T* pi, const T* weight, T* out, int threads) {
  const Index fan_in = s.fan_in(), pixels = s.pixels(), padded = up(pixels, kLanes<T>) * kLanes<T>;
  const Index all_out = s.out * s.groups, step = all_out * fan_in, image = s.groups * s.in * s.height * s.width;
  const Index block = block_of_images(s, padded), blocks = up(s.images, block);
  const Index row_tiles = up(s.out, kRows);
  const Index cuts = std::min(row_tiles, up(threads, std::max<Index>(1, blocks * s.groups)));
  const Index cut = up(row_tiles, cuts) * kRows;
#pragma omp parallel num_threads(threads)
  {
    Buffer<T> seen(block * kTile * padded), row(padded), packed(kRows * s.kernels * kTile), tile(2 * kRows * kStride);
    Buffer<T> sums(block * cut * padded);
#pragma omp for collapse(3) schedule(dynamic)
    for (Index g = 0; g < s.groups; ++g)
      for (Index b = 0; b < blocks; ++b)
        for (Index c = 0; c < cuts; ++c) {
          const Index n0 = b * block, n1 = std::min(s.images, n0 + block);
          const Index o0 = c * cut, o1 = std::min(s.out, o0 + cut);
          if (o0 >= o1) continue;
          std::memset(sums.data, 0, sizeof(T) * (n1 - n0) * cut * padded);
          for (Index r0 = 0; r0 < fan_in; r0 += kTile) {
            const Index r1 = std::min(fan_in, r0 + kTile);
            for (Index n = n0; n < n1; ++n)
              gather(s, x + n * image + g * s.in * s.height * s.width, r0, r1, padded, row.data, seen.data + (n - n0) * kTile * padded);
            for (Index o = o0; o < o1; o += kRows) {
              const Index rows = std::min(kRows, o1 - o);
              pack(weight + (g * s.out + o) * fan_in + r0, step, fan_in, s.kernels, rows, r1 - r0, packed.data);
              const bool same = o + kRows < o1;  // The next tile: more outputs, or the next taps of the first ones.
              const T* next = weight + (g * s.out + (same ? o + kRows : o0)) * fan_in + (same ? r0 : r1);
              const Index next_rows = same ? std::min(kRows, o1 - o - kRows) : r1 < fan_in ? std::min(kRows, o1 - o0) : 0;
              for (Index n = n0; n < n1; n += 2) {
                const Index pair = std::min<Index>(2, n1 - n);
                prefetch(next, step, fan_in, s.kernels, next_rows, kTile, (n - n0) / 2, up(n1 - n0, 2));
                mix(packed.data, pi + n * s.kernels, s.kernels, rows, r1 - r0, tile.data, kRows * kStride, pair);
                for (Index m = 0; m < pair; ++m)
                  multiply_all<T, kStride, 1>(tile.data + m * kRows * kStride, seen.data + (n + m - n0) * kTile * padded, kTile * kLanes<T>,
                                              sums.data + ((n + m - n0) * cut + o - o0) * padded, padded, r1 - r0, rows, padded / kLanes<T>);
              }
            }
          }
          for (Index n = n0; n < n1; ++n)
            for (Index o = o0; o < o1; ++o)
              std::memcpy(out + (n * all_out + g * s.out + o) * pixels, sums.data + ((n - n0) * cut + o - o0) * padded, sizeof(T) * pixels);
        }
  }
}

template <typename T>
void input_gradient(const Sizes& s, const T* grad, const T* pi, const T* weight, T* grad_x, int threads) {
  const Index fan_in = s.fan_in(), pixels = s.pixels(), padded = up(pixels, kLanes<T>) * kLanes<T>;
  const Index all_out = s.out * s.groups, step = all_out * fan_in, image = s.groups * s.in * s.height * s.width;
  const Index block = block_of_images(s, padded), blocks = up(s.images, block);
  const Index cuts = std::min(s.in, up(threads, std::max<Index>(1, blocks * s.groups)));
  const Index cut = up(s.in, cuts);
#pragma omp parallel num_threads(threads)
  {
    Buffer<T> sums(block * kTile * padded), packed(kDepth * s.kernels * kTile), tile(2 * kDepth * kStride);
    Buffer<T> panels(block * s.out * padded);  // grad as panels[image][vector][o][lane]
#pragma omp for collapse(3) schedule(dynamic)
    for (Index g = 0; g < s.groups; ++g)
      for (Index b = 0; b < blocks; ++b)
        for (Index c = 0; c < cuts; ++c) {
          const Index n0 = b * block, n1 = std::min(s.images, n0 + block);
          const Index c0 = c * cut, c1 = std::min(s.in, c0 + cut);
          if (c0 >= c1) continue;
          for (Index n = n0; n < n1; ++n)
            for (Index o = 0; o < s.out; ++o) {
              const T* from = grad + (n * all_out + g * s.out + o) * pixels;
              T* to = panels.data + (n - n0) * s.out * padded + o * kLanes<T>;
              for (Index p = 0; p < padded; p += kLanes<T>, to += s.out * kLanes<T>)
                for (int l = 0; l < kLanes<T>; ++l) to[l] = p + l < pixels ? from[p + l] : T(0);
            }
          for (Index n = n0; n < n1; ++n)
            std::memset(grad_x + n * image + (g * s.in + c0) * s.height * s.width, 0, sizeof(T) * (c1 - c0) * s.height * s.width);
          for (Index r0 = c0 * s.taps(); r0 < c1 * s.taps(); r0 += kTile) {
            const Index r1 = std::min(c1 * s.taps(), r0 + kTile);
            std::memset(sums.data, 0, sizeof(T) * (n1 - n0) * kTile * padded);
            for (Index o = 0; o < s.out; o += kDepth) {
              const Index depth = std::min(kDepth, s.out - o);
              pack(weight + (g * s.out + o) * fan_in + r0, step, fan_in, s.kernels, depth, r1 - r0, packed.data);
              const bool same = o + kDepth < s.out;
              const T* next = weight + (g * s.out + (same ? o + kDepth : 0)) * fan_in + (same ? r0 : r1);
              const Index next_depth = same ? std::min(kDepth, s.out - o - kDepth) : r1 < c1 * s.taps() ? std::min(kDepth, s.out) : 0;
              for (Index n = n0; n < n1; n += 2) {
                const Index pair = std::min<Index>(2, n1 - n);
                prefetch(next, step, fan_in, s.kernels, next_depth, kTile, (n - n0) / 2, up(n1 - n0, 2));
                mix(packed.data, pi + n * s.kernels, s.kernels, depth, r1 - r0, tile.data, kDepth * kStride, pair);
                for (Index m = 0; m < pair; ++m)
                  multiply_all<T, 1, kStride>(tile.data + m * kDepth * kStride, panels.data + (n + m - n0) * s.out * padded + o * kLanes<T>,
                                              s.out * kLanes<T>, sums.data + (n + m - n0) * kTile * padded, padded, depth, r1 - r0, padded / kLanes<T>);
              }
            }
            for (Index n = n0; n < n1; ++n)
              scatter(s, sums.data + (n - n0) * kTile * padded, r0, r1, padded, grad_x + n * image + g * s.in * s.height * s.width);
          }
        }
  }
}

}  // namespace
