// The forward pass and the gradient of x in Winograd's form: kernels are mixed a tile at a time and used at once.

#pragma once

#include "tiles.h"
#include "vectors.h"
#include "winograd_forms.h"

namespace {

constexpr Index kChannels = 128;       // input channels that are multiplied at once: a mixed tile of 8 KiB
constexpr Index kChannelStride = 144;  // their row length in memory, not a multiple of the cache's way size
constexpr Index kQuad = 4;             // images whose kernels are mixed at once
constexpr Index kTilesOfBlock = 256;   // about so many tiles are transformed before they are multiplied

// tile[m][channel][lane] = sum_k pi[m][k] · u[channel][k][lane], for up to kQuad images m.
template <typename T, int K, int IMAGES>
void mix_channels_fixed(const T* u, const T* pi, Index kernels, Index channels, T* __restrict tile) {
  const Index count = K ? K : kernels;
  for (Index c = 0; c < channels; ++c, u += count * kLanes<T>, tile += kLanes<T>) {
    Vec<T> sum[IMAGES];
    for (int m = 0; m < IMAGES; ++m) sum[m] = load(u) * pi[m * count];
#pragma GCC unroll 8
    for (Index k = 1; k < count; ++k) {
      const Vec<T> value = load(u + k * kLanes<T>);
      for (int m = 0; m < IMAGES; ++m) sum[m] += value * pi[m * count + k];
    }
    for (int m = 0; m < IMAGES; ++m) store(tile + m * kChannels * kLanes<T>, sum[m]);
  }
}

template <typename T, int K> void mix_channels(const T* u, const T* pi, Index kernels, Index channels, T* tile, Index images) {
  switch (images) {
    case 1: return mix_channels_fixed<T, K, 1>(u, pi, kernels, channels, tile);
    case 2: return mix_channels_fixed<T, K, 2>(u, pi, kernels, channels, tile);
    case 3: return mix_channels_fixed<T, K, 3>(u, pi, kernels, channels, tile);
    default: return mix_channels_fixed<T, K, 4>(u, pi, kernels, channels, tile);
  }
}

// Convolves each image of x [N][from][H][W] with its mixture of kernels.
template <typename T, int K>
void winograd(const Tiling& g, Index images, const KernelPlaces& p, const T* x, const T* pi, const T* weight, T* out, int threads) {
  const Index kernels = K ? K : p.kernels, count = g.count(), pixels = g.height * g.width;
  const Index padded = p.padded_from<T>(), chunks = up(padded, kChannels), vectors = p.to_vectors<T>();
  const Index block = std::max<Index>(1, std::min(images, up(kTilesOfBlock, count))), blocks = up(images, block);
  const Index cuts = std::min(vectors, up(threads, blocks)), cut = up(vectors, cuts);
  const Index image_step = count * kChannelStride, chunk_step = block * image_step, at_step = chunks * chunk_step;
  Buffer<T> u(p.size<T>());
#pragma omp parallel num_threads(threads)
  {
    transform_kernels(p, weight, u.data);
    Buffer<T> last(padded * pixels), seen(kPlaces * at_step), tile(kQuad * kChannels * kLanes<T>);
    Buffer<T> sums(block * cut * kPlaces * count * kLanes<T>);
#pragma omp for collapse(2) schedule(dynamic)
    for (Index b = 0; b < blocks; ++b)
      for (Index c = 0; c < cuts; ++c) {
        const Index n0 = b * block, n1 = std::min(images, n0 + block), v0 = c * cut, v1 = std::min(vectors, v0 + cut);
        if (v0 >= v1) continue;
        for (Index n = n0; n < n1; ++n) {
          channels_last(x + n * p.from * pixels, p.from, pixels, last.data);
          for (Index from = 0; from < padded; from += kLanes<T>)
            transform_input(g, last.data + from * pixels,
                            seen.data + from / kChannels * chunk_step + (n - n0) * image_step + from % kChannels, at_step, kChannelStride);
        }
        for (Index at = 0; at < kPlaces; ++at)
          for (Index v = v0; v < v1; ++v)
            for (Index chunk = 0; chunk < chunks; ++chunk) {
              const Index depth = std::min(kChannels, padded - chunk * kChannels);
              const T* form = u.data + ((at * vectors + v) * padded + chunk * kChannels) * kernels * kLanes<T>;
              for (Index n = n0; n < n1; n += kQuad) {
                const Index quad = std::min(kQuad, n1 - n);
                mix_channels<T, K>(form, pi + n * kernels, kernels, depth, tile.data, quad);
                for (Index m = 0; m < quad; ++m) {
                  const T* from = seen.data + at * at_step + chunk * chunk_step + (n + m - n0) * image_step;
                  T* to = sums.data + (((n + m - n0) * cut + v - v0) * kPlaces + at) * count * kLanes<T>;
                  const T* mixed = tile.data + m * kChannels * kLanes<T>;
                  if (chunk == 0) multiply_all<T, kChannelStride, 1, true>(from, mixed, 0, to, kLanes<T>, depth, count, 1);
                  else multiply_all<T, kChannelStride, 1>(from, mixed, 0, to, kLanes<T>, depth, count, 1);
                }
              }
            }
        for (Index n = n0; n < n1; ++n)
          for (Index v = v0; v < v1; ++v)
            transform_output(g, sums.data + ((n - n0) * cut + v - v0) * kPlaces * count * kLanes<T>,
                             std::min<Index>(kLanes<T>, p.to - v * kLanes<T>), out + (n * p.to + v * kLanes<T>) * g.out_h * g.out_w);
      }
  }
}

inline KernelPlaces forward_places(const Sizes& s) {
  return {s.kernels, s.out * s.fan_in(), s.out, s.fan_in(), s.in, s.taps(), false};
}

template <typename T> void winograd_forward(const Sizes& s, const T* x, const T* pi, const T* weight, T* out, int threads) {
  const Tiling g{s.height, s.width, s.pad_h, s.pad_w, s.out_h, s.out_w};
  if (s.kernels == 4) winograd<T, 4>(g, s.images, forward_places(s), x, pi, weight, out, threads);
  else winograd<T, 0>(g, s.images, forward_places(s), x, pi, weight, out, threads);
}

// The gradient of x is a convolution of the output's gradient with the turned kernels, from outputs to inputs.
template <typename T> void winograd_input_gradient(const Sizes& s, const T* grad, const T* pi, const T* weight, T* grad_x, int threads) {
  const Tiling g{s.out_h, s.out_w, 2 - s.pad_h, 2 - s.pad_w, s.height, s.width};
  const KernelPlaces p{s.kernels, s.out * s.fan_in(), s.in, s.taps(), s.out, s.fan_in(), true};
  if (s.kernels == 4) winograd<T, 4>(g, s.images, p, grad, pi, weight, grad_x, threads);
  else winograd<T, 0>(g, s.images, p, grad, pi, weight, grad_x, threads);
}

}  // namespace
