// A tile of the mixed kernels: the K kernels packed next to each other, mixed, and multiplied with pixels.

#pragma once

#include "vectors.h"

namespace {

constexpr Index kTile = 96;     // columns (taps of input channels) of a mixed tile; 96 divides 64·9, 128·9, …
constexpr Index kStride = 104;  // its row length in memory, not a multiple of the cache's way size
constexpr Index kRows = 16;     // rows (output channels) of a mixed tile, forward
constexpr Index kDepth = 32;    // the same, gradient of x
constexpr Index kPixels = 1024;  // image block: about so many output pixels at a time

// Copies K kernels' rows × columns values next to each other, packed[row][k][column]: read once per image below.
template <typename T>
void pack(const T* weight, Index step, Index fan_in, Index kernels, Index rows, Index columns, T* packed) {
  for (Index o = 0; o < rows; ++o)
    for (Index k = 0; k < kernels; ++k, packed += kTile) {
      std::memcpy(packed, weight + k * step + o * fan_in, sizeof(T) * columns);
      std::memset(packed + columns, 0, sizeof(T) * (kTile - columns));
    }
}

// Asks for part `index` of `parts` of the tile that pack will copy next: its rows lie pages apart, so waiting for
// them would cost as much as computing with them.
template <typename T>
void prefetch(const T* weight, Index step, Index fan_in, Index kernels, Index rows, Index columns, Index index, Index parts) {
  constexpr Index kLine = 64 / sizeof(T);
  const Index all = kernels * rows;
  for (Index i = all * index / parts; i < all * (index + 1) / parts; ++i) {
    const T* row = weight + i % kernels * step + i / kernels * fan_in;
    for (Index c = 0; c < columns; c += kLine) __builtin_prefetch(row + c);
    __builtin_prefetch(row + columns - 1);
  }
}

// tile[m][row][column] = sum_k pi[m][k] · packed[row][k][column], for one or two images m.
template <typename T, int K, int IMAGES>
void mix_fixed(const T* packed, const T* pi, Index kernels, Index rows, Index columns, T* __restrict tile, Index tile_step) {
  const Index count = K ? K : kernels;
  for (Index o = 0; o < rows; ++o, packed += count * kTile, tile += kStride)
    for (Index r = 0; r < columns; r += kLanes<T>) {
      Vec<T> sum[IMAGES];
      for (int m = 0; m < IMAGES; ++m) sum[m] = load(packed + r) * pi[m * count];
#pragma GCC unroll 8
      for (Index k = 1; k < count; ++k) {
        const Vec<T> w = load(packed + k * kTile + r);
        for (int m = 0; m < IMAGES; ++m) sum[m] += w * pi[m * count + k];
      }
      for (int m = 0; m < IMAGES; ++m) store(tile + m * tile_step + r, sum[m]);
    }
}

template <typename T>
void mix(const T* packed, const T* pi, Index kernels, Index rows, Index columns, T* tile, Index tile_step, Index images) {
  if (kernels == 4 && images == 2) mix_fixed<T, 4, 2>(packed, pi, kernels, rows, columns, tile, tile_step);
  else if (kernels == 4) mix_fixed<T, 4, 1>(packed, pi, kernels, rows, columns, tile, tile_step);
  else if (images == 2) mix_fixed<T, 0, 2>(packed, pi, kernels, rows, columns, tile, tile_step);
  else mix_fixed<T, 0, 1>(packed, pi, kernels, rows, columns, tile, tile_step);
}

// sum[i][:] += sum_l w[i·ROW + l·INNER] · x[l][:] for ROWS rows and one vector. One vector by many rows is best:
// the broadcast of w is part of the multiply-add, and x is loaded once for all rows.
// FRESH starts from zero, whatever is in sum.
template <typename T, int ROWS, int ROW, int INNER, bool FRESH = false>
inline void multiply(const T* w, const T* x, T* sum, Index sum_step, Index length) {
  Vec<T> total[ROWS];
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; ++i) total[i] = FRESH ? Vec<T>{} : load(sum + i * sum_step);
  for (Index l = 0; l < length; ++l, x += kLanes<T>, w += INNER) {
    const Vec<T> value = load(x);
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i) total[i] += value * w[i * ROW];
  }
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; ++i) store(sum + i * sum_step, total[i]);
}

constexpr int kRegisters = kBytes == 64 ? 16 : 8;  // accumulators that leave room for operands

// The same for any number of rows and of vectors; x is in panels of one vector, x[vector][l][lane].
template <typename T, int ROW, int INNER, bool FRESH = false>
void multiply_all(const T* w, const T* x, Index panel, T* sum, Index sum_step, Index length, Index rows, Index vectors) {
  for (Index j = 0; j < vectors; ++j, x += panel, sum += kLanes<T>) {
    Index i = 0;
    for (; i + kRegisters <= rows; i += kRegisters)
      multiply<T, kRegisters, ROW, INNER, FRESH>(w + i * ROW, x, sum + i * sum_step, sum_step, length);
    for (; i + 4 <= rows; i += 4) multiply<T, 4, ROW, INNER, FRESH>(w + i * ROW, x, sum + i * sum_step, sum_step, length);
    for (; i < rows; ++i) multiply<T, 1, ROW, INNER, FRESH>(w + i * ROW, x, sum + i * sum_step, sum_step, length);
  }
}

}  // namespace
