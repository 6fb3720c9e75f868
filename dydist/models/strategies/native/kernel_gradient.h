// Gradients of the K kernels and of pi, from tiles of dW~_n that never leave the cache.

#pragma once

#include "pixels.h"
#include "tiles.h"
#include "vectors.h"

namespace {

constexpr Index kGroup = 4;  // images whose dW~_n are kept before they are added to the K kernels' gradients

// For up to kGroup images: total[k] += sum_n pi[n][k] · product[n] and lanes[n][k] += product[n] · w[k], a tile each.
template <typename T, int K>
void spread(const T* product, const T* pi, const T* w, T* __restrict total, T* __restrict lanes, Index images, Index kernels) {
  constexpr Index kSize = kRegisters * kLanes<T>;
  if constexpr (K != 0) {
    if (images == kGroup) {
      Vec<T> dot[kGroup][K];
#pragma GCC unroll 4
      for (int n = 0; n < kGroup; ++n)
#pragma GCC unroll 8
        for (int k = 0; k < K; ++k) dot[n][k] = load(lanes + (n * K + k) * kLanes<T>);
      for (Index i = 0; i < kSize; i += kLanes<T>) {
        Vec<T> d[kGroup];
#pragma GCC unroll 4
        for (int n = 0; n < kGroup; ++n) d[n] = load(product + n * kSize + i);
#pragma GCC unroll 8
        for (int k = 0; k < K; ++k) {
          const Vec<T> value = load(w + k * kSize + i);
          Vec<T> sum = load(total + k * kSize + i);
#pragma GCC unroll 4
          for (int n = 0; n < kGroup; ++n) {
            sum += d[n] * pi[n * K + k];
            dot[n][k] += d[n] * value;
          }
          store(total + k * kSize + i, sum);
        }
      }
#pragma GCC unroll 4
      for (int n = 0; n < kGroup; ++n)
#pragma GCC unroll 8
        for (int k = 0; k < K; ++k) store(lanes + (n * K + k) * kLanes<T>, dot[n][k]);
      return;
    }
  }
  for (Index n = 0; n < images; ++n)
    for (Index k = 0; k < kernels; ++k) {
      Vec<T> dot = load(lanes + (n * kernels + k) * kLanes<T>);
      for (Index i = 0; i < kSize; i += kLanes<T>) {
        const Vec<T> d = load(product + n * kSize + i);
        store(total + k * kSize + i, load(total + k * kSize + i) + d * pi[n * kernels + k]);
        dot += d * load(w + k * kSize + i);
      }
      store(lanes + (n * kernels + k) * kLanes<T>, dot);
    }
}

// Visits a tile of the K kernels by runs of up to one vector: visit(place in [vector][k][row][lane], place in memory, count).
template <typename T, typename Visit>
void over_tile(Index kernels, Index rows, Index columns, Index step, Index fan_in, Index size, Visit visit) {
  for (Index k = 0; k < kernels; ++k)
    for (Index i = 0; i < rows; ++i)
      for (Index r = 0; r < columns; r += kLanes<T>)
        visit((r / kLanes<T> * kernels + k) * size + i * kLanes<T>, k * step + i * fan_in + r, std::min<Index>(kLanes<T>, columns - r));
}

// Gradients of all kernels and of pi, from one tile of dW~_n (kRegisters outputs × one vector of taps) at a time.
template <typename T, int K>
void kernel_gradient(const Sizes& s, const T* grad, const T* x, const T* pi, const T* weight, T* grad_weight, T* grad_pi, int threads) {
  constexpr Index kSize = kRegisters * kLanes<T>;
  const Index kernels = K ? K : s.kernels;
  const Index fan_in = s.fan_in(), pixels = s.pixels(), all_out = s.out * s.groups, step = all_out * fan_in;
  const Index image = s.groups * s.in * s.height * s.width;
  const Index block = std::max<Index>(kGroup, std::min(s.images, 2048 / std::max<Index>(1, pixels) / kGroup * kGroup));
  // A unit is up to 6 vectors of taps. It depends on the sizes alone, and so does the order of grad_pi's sum.
  const Index vectors = up(fan_in, kLanes<T>), wide = std::max<Index>(1, std::min<Index>(kTile / kLanes<T>, vectors / 16));
  const Index columns = up(vectors, wide), units = s.groups * columns, tiles = up(s.out, kRegisters);
  // grad as across[group][image][tile of outputs][pixel][output]: outputs side by side, zeros past the last.
  Buffer<T> across(s.groups * s.images * tiles * pixels * kRegisters), partial(units * s.images * kernels);
#pragma omp parallel num_threads(threads)
  {
#pragma omp for collapse(2) schedule(static)
    for (Index g = 0; g < s.groups; ++g)
      for (Index n = 0; n < s.images; ++n) {
        T* to = across.data + (g * s.images + n) * tiles * pixels * kRegisters;
        for (Index o = 0; o < tiles * kRegisters; ++o) {
          const T* from = grad + (n * all_out + g * s.out + o) * pixels;
          T* column = to + o / kRegisters * pixels * kRegisters + o % kRegisters;
          for (Index p = 0; p < pixels; ++p) column[p * kRegisters] = o < s.out ? from[p] : T(0);
        }
      }
    Buffer<T> seen(block * pixels * kLanes<T> * wide), lanes(s.images * kernels * kLanes<T>), product(kGroup * kSize);
    Buffer<T> kept(wide * kernels * kSize), total(wide * kernels * kSize);
#pragma omp for schedule(dynamic)
    for (Index unit = 0; unit < units; ++unit) {
      const Index g = unit / columns, r0 = unit % columns * wide * kLanes<T>, r1 = std::min<Index>(fan_in, r0 + wide * kLanes<T>);
      const Index used = up(r1 - r0, kLanes<T>);
      std::memset(lanes.data, 0, sizeof(T) * s.images * kernels * kLanes<T>);
      for (Index n0 = 0; n0 < s.images; n0 += block) {
        const Index n1 = std::min(s.images, n0 + block);
        for (Index j = 0; j < used; ++j)
          for (Index n = n0; n < n1; ++n)
            gather_transposed(s, x + n * image + g * s.in * s.height * s.width, r0 + j * kLanes<T>, std::min<Index>(r1, r0 + (j + 1) * kLanes<T>),
                              seen.data + (j * block + n - n0) * pixels * kLanes<T>);
        for (Index t = 0; t < tiles; ++t) {
          const Index o0 = t * kRegisters, rows = std::min<Index>(kRegisters, s.out - o0);
          const T* from = weight + (g * s.out + o0) * fan_in + r0;
          T* to = grad_weight + (g * s.out + o0) * fan_in + r0;
          if (rows < kRegisters || r1 - r0 < used * kLanes<T>) std::memset(kept.data, 0, sizeof(T) * wide * kernels * kSize);
          over_tile<T>(kernels, rows, r1 - r0, step, fan_in, kSize, [&](Index place, Index there, Index count) {
            if (count == kLanes<T>) store(kept.data + place, load(from + there));
            else std::memcpy(kept.data + place, from + there, sizeof(T) * count);
          });
          std::memset(total.data, 0, sizeof(T) * wide * kernels * kSize);
          const Index groups = up(n1 - n0, kGroup);
          for (Index j = 0; j < used; ++j)
            for (Index n = n0; n < n1; n += kGroup) {
              const Index images = std::min(kGroup, n1 - n);
              if (t + 1 < tiles)
                prefetch(from + kRegisters * fan_in, step, fan_in, kernels, std::min<Index>(kRegisters, s.out - o0 - kRegisters), r1 - r0,
                         j * groups + (n - n0) / kGroup, used * groups);
              for (Index m = 0; m < images; ++m)
                multiply<T, kRegisters, 1, kRegisters, true>(across.data + ((g * s.images + n + m) * tiles + t) * pixels * kRegisters,
                                                       seen.data + (j * block + n + m - n0) * pixels * kLanes<T>, product.data + m * kSize, kLanes<T>, pixels);
              spread<T, K>(product.data, pi + n * kernels, kept.data + j * kernels * kSize, total.data + j * kernels * kSize,
                           lanes.data + n * kernels * kLanes<T>, images, kernels);
            }
          over_tile<T>(kernels, rows, r1 - r0, step, fan_in, kSize, [&](Index place, Index there, Index count) {
            const T* sum = total.data + place;
            if (n0 != 0) for (Index l = 0; l < count; ++l) to[there + l] += sum[l];
            else if (count == kLanes<T>) store(to + there, load(sum));
            else std::memcpy(to + there, sum, sizeof(T) * count);
          });
        }
      }
      for (Index i = 0; i < s.images * kernels; ++i) {
        T sum = 0;
        for (int l = 0; l < kLanes<T>; ++l) sum += lanes.data[i * kLanes<T> + l];
        partial.data[unit * s.images * kernels + i] = sum;
      }
    }
  }
  std::memset(grad_pi, 0, sizeof(T) * s.images * kernels);
  for (Index unit = 0; unit < units; ++unit)  // In the order of the units, whichever thread computed them.
    for (Index i = 0; i < s.images * kernels; ++i) grad_pi[i] += partial.data[unit * s.images * kernels + i];
}

}  // namespace
