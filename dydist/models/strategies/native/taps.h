// The taps of all kernels apart, and back together.

#pragma once

#include "vectors.h"

namespace {

constexpr Index kBlock = 512;  // rows whose taps fit first-level cache, where they are visited once a tap

// to[i][row] = from[row][chosen[i]]: the taps of all kernels apart, for `rows` rows of `taps` values.
template <typename T>
void split_taps(const T* from, Index rows, Index taps, const Index* chosen, Index count, T* to, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (Index first = 0; first < rows; first += kBlock)
    for (Index i = 0; i < count; ++i) {
      const Index last = std::min(rows, first + kBlock);
      for (Index row = first; row < last; ++row) to[i * rows + row] = from[row * taps + chosen[i]];
    }
}

// The way back; taps that were not chosen become zero.
template <typename T>
void join_taps(const T* from, Index rows, Index taps, const Index* chosen, Index count, T* to, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (Index first = 0; first < rows; first += kBlock) {
    const Index last = std::min(rows, first + kBlock);
    if (count < taps) std::memset(to + first * taps, 0, sizeof(T) * (last - first) * taps);
    for (Index i = 0; i < count; ++i)
      for (Index row = first; row < last; ++row) to[row * taps + chosen[i]] = from[i * rows + row];
  }
}

}  // namespace
