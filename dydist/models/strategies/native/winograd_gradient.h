// Gradients of the K kernels and of pi for winograd.h, in the transformed form: dU_n = sum over tiles of (A dY A^T) . (B^T d B).

#pragma once

#include "kernel_gradient.h"
#include "winograd.h"

namespace {

constexpr Index kTilesOfGradient = 512;  // about so many tiles at a time

template <typename T, int K>
void winograd_kernel_gradient(const Sizes& s, const T* grad, const T* x, const T* pi, const T* weight, T* grad_weight, T* grad_pi, int threads) {
  constexpr Index kSize = kRegisters * kLanes<T>;
  constexpr int kChannelsOfTile = std::min<int>(kRegisters, kLanes<T>);  // input channels of a tile; its other rows stay zero
  static_assert(kLanes<T> % kChannelsOfTile == 0);
  const Tiling g{s.height, s.width, s.pad_h, s.pad_w, s.out_h, s.out_w};
  const KernelPlaces p = forward_places(s);
  const Index kernels = K ? K : s.kernels, count = g.count(), pixels = g.height * g.width, out_pixels = g.out_h * g.out_w;
  const Index padded = p.padded_from<T>(), inputs = padded / kLanes<T>, vectors = p.to_vectors<T>();
  const Index fit = std::max<Index>(1, kTilesOfGradient / count), block = std::min(s.images, fit < kGroup ? fit : fit / kGroup * kGroup);
  const Index vector_step = block * count * kLanes<T>;  // of one vector of channels at one place
  const Index units = kPlaces * inputs, mixed = kernels * kLanes<T>;
  Buffer<T> u(p.size<T>()), grad_u(p.size<T>()), partial(units * block * kernels);
  Buffer<T> seen(units * vector_step), across(kPlaces * vectors * vector_step);
  std::memset(grad_pi, 0, sizeof(T) * s.images * kernels);
#pragma omp parallel num_threads(threads)
  {
    transform_kernels(p, weight, u.data);
    Buffer<T> last(std::max(padded * pixels, vectors * kLanes<T> * out_pixels));
    Buffer<T> product(kGroup * kSize), lanes(block * mixed), kept(kernels * kSize), total(kernels * kSize);
    for (Buffer<T>* part : {&product, &kept, &total}) std::memset(part->data, 0, sizeof(T) * (part == &product ? kGroup : kernels) * kSize);
    for (Index n0 = 0; n0 < s.images; n0 += block) {
      const Index n1 = std::min(s.images, n0 + block);
#pragma omp for schedule(static)
      for (Index n = n0; n < n1; ++n) {
        const Index place = (n - n0) * count * kLanes<T>;
        channels_last(x + n * s.in * pixels, s.in, pixels, last.data);
        for (Index v = 0; v < inputs; ++v)
          transform_input(g, last.data + v * pixels * kLanes<T>, seen.data + v * vector_step + place, inputs * vector_step, kLanes<T>);
        channels_last(grad + n * s.out * out_pixels, s.out, out_pixels, last.data);
        for (Index v = 0; v < vectors; ++v)
          transform_gradient(g, last.data + v * out_pixels * kLanes<T>, across.data + v * vector_step + place, vectors * vector_step, kLanes<T>);
      }
#pragma omp for schedule(dynamic)
      for (Index unit = 0; unit < units; ++unit) {  // One place, one vector of input channels.
        const Index at = unit / inputs, input = unit % inputs;
        std::memset(lanes.data, 0, sizeof(T) * block * mixed);
        for (Index v = 0; v < vectors; ++v)
          for (Index c = 0; c < kLanes<T>; c += kChannelsOfTile) {
            const Index place = ((at * vectors + v) * padded + input * kLanes<T> + c) * mixed;
            for (Index i = 0; i < kChannelsOfTile; ++i)  // [row][k][lane] as [k][row][lane]
              for (Index k = 0; k < kernels; ++k) {
                store(kept.data + (k * kRegisters + i) * kLanes<T>, load(u.data + place + i * mixed + k * kLanes<T>));
                store(total.data + (k * kRegisters + i) * kLanes<T>, n0 == 0 ? Vec<T>{} : load(grad_u.data + place + i * mixed + k * kLanes<T>));
              }
            for (Index n = n0; n < n1; n += kGroup) {
              const Index images = std::min(kGroup, n1 - n);
              for (Index m = 0; m < images; ++m) {
                const Index from = (n + m - n0) * count * kLanes<T>;
                multiply<T, kChannelsOfTile, 1, kLanes<T>, true>(seen.data + unit * vector_step + from + c, across.data + (at * vectors + v) * vector_step + from,
                                                            product.data + m * kSize, kLanes<T>, count);
              }
              spread<T, K>(product.data, pi + n * kernels, kept.data, total.data, lanes.data + (n - n0) * mixed, images, kernels);
            }
            for (Index i = 0; i < kChannelsOfTile; ++i)
              for (Index k = 0; k < kernels; ++k)
                store(grad_u.data + place + i * mixed + k * kLanes<T>, load(total.data + (k * kRegisters + i) * kLanes<T>));
          }
        for (Index i = 0; i < (n1 - n0) * kernels; ++i) {
          T sum = 0;
          for (int l = 0; l < kLanes<T>; ++l) sum += lanes.data[i * kLanes<T> + l];
          partial.data[unit * block * kernels + i] = sum;
        }
      }
#pragma omp single
      for (Index unit = 0; unit < units; ++unit)  // In the order of the units, whichever thread computed them.
        for (Index i = 0; i < (n1 - n0) * kernels; ++i) grad_pi[n0 * kernels + i] += partial.data[unit * block * kernels + i];
    }
    restore_kernels(p, grad_u.data, grad_weight);
  }
}

}  // namespace
