// 3x3 kernels with stride 1 in Winograd's form F(2x2, 3x3): Y = A^T [(G g G^T) . (B^T d B)] A for each tile of 2x2
// outputs, which takes 16 multiply-adds where the sum itself takes 36 (Lavin and Gray, arXiv:1509.09308, section 4.1).
//
// G g G^T is linear in the kernel, so kernels are transformed once a call and mixed in that form, where each image
// multiplies them: sum_k pi_nk G W_k G^T. One vector is kLanes channels, the places of a tile are apart ("at" below,
// 16 of them), and each place is a matrix product of its own.

#pragma once

#include "vectors.h"

namespace {

constexpr Index kPlaces = 16;  // of a transformed tile

// How an image is cut into tiles of 2x2 outputs, which overlap by two pixels of the input.
struct Tiling {
  Index height, width, pad_h, pad_w, out_h, out_w;
  Index rows() const { return up(out_h, 2); }
  Index columns() const { return up(out_w, 2); }
  Index count() const { return rows() * columns(); }
};

// B^T d, in place, for four values `step` apart.
template <typename T> inline void input_form(Vec<T>* d, Index step) {
  const Vec<T> a = d[0], b = d[step], c = d[2 * step], e = d[3 * step];
  d[0] = a - c, d[step] = b + c, d[2 * step] = c - b, d[3 * step] = b - e;
}
template <typename T> inline void kernel_form(const Vec<T>* g, Index step, Vec<T>* to, Index to_step) {  // G g
  const Vec<T> half = (g[0] + g[2 * step]) * T(0.5), middle = g[step] * T(0.5);
  to[0] = g[0], to[to_step] = half + middle, to[2 * to_step] = half - middle, to[3 * to_step] = g[2 * step];
}
template <typename T> inline void kernel_form_adjoint(const Vec<T>* q, Index step, Vec<T>* to, Index to_step) {  // G^T q
  const Vec<T> sum = (q[step] + q[2 * step]) * T(0.5);
  to[0] = q[0] + sum, to[to_step] = (q[step] - q[2 * step]) * T(0.5), to[2 * to_step] = sum + q[3 * step];
}

// One image's channels, `kLanes` of them side by side: to[vector][pixel][lane]; zeros past the last channel.
template <typename T> void channels_last(const T* x, Index channels, Index pixels, T* to) {
  for (Index c0 = 0; c0 < channels; c0 += kLanes<T>, to += pixels * kLanes<T>)
    for (Index l = 0; l < kLanes<T>; ++l)
      for (Index p = 0; p < pixels; ++p) to[p * kLanes<T> + l] = c0 + l < channels ? x[(c0 + l) * pixels + p] : T(0);
}

// B^T d B of every tile of one vector of channels; place `at` of tile t goes to `to + at · at_step + t · tile_step`.
template <typename T> void transform_input(const Tiling& g, const T* x, T* to, Index at_step, Index tile_step) {
  for (Index i = 0; i < g.rows(); ++i)
    for (Index j = 0; j < g.columns(); ++j, to += tile_step) {
      Vec<T> d[kPlaces];
#pragma GCC unroll 4
      for (Index a = 0; a < 4; ++a)
#pragma GCC unroll 4
        for (Index b = 0; b < 4; ++b) {
          const Index row = 2 * i + a - g.pad_h, column = 2 * j + b - g.pad_w;
          const bool inside = row >= 0 && row < g.height && column >= 0 && column < g.width;
          d[4 * a + b] = inside ? load(x + (row * g.width + column) * kLanes<T>) : Vec<T>{};
        }
#pragma GCC unroll 4
      for (Index a = 0; a < 4; ++a) input_form<T>(d + 4 * a, 1);
#pragma GCC unroll 4
      for (Index b = 0; b < 4; ++b) input_form<T>(d + b, 4);
#pragma GCC unroll 16
      for (Index at = 0; at < kPlaces; ++at) store(to + at * at_step, d[at]);
    }
}

// A dY A^T of every tile, the adjoint of `transform_output`; outputs past the last count as zeros.
template <typename T> void transform_gradient(const Tiling& g, const T* y, T* to, Index at_step, Index tile_step) {
  for (Index i = 0; i < g.rows(); ++i)
    for (Index j = 0; j < g.columns(); ++j, to += tile_step) {
      Vec<T> d[2][2], half[4][2];
#pragma GCC unroll 2
      for (Index a = 0; a < 2; ++a)
#pragma GCC unroll 2
        for (Index b = 0; b < 2; ++b) {
          const Index row = 2 * i + a, column = 2 * j + b;
          d[a][b] = row < g.out_h && column < g.out_w ? load(y + (row * g.out_w + column) * kLanes<T>) : Vec<T>{};
        }
#pragma GCC unroll 2
      for (Index b = 0; b < 2; ++b)
        half[0][b] = d[0][b], half[1][b] = d[0][b] + d[1][b], half[2][b] = d[0][b] - d[1][b], half[3][b] = -d[1][b];
#pragma GCC unroll 4
      for (Index a = 0; a < 4; ++a) {
        T* at = to + 4 * a * at_step;
        store(at, half[a][0]), store(at + at_step, half[a][0] + half[a][1]);
        store(at + 2 * at_step, half[a][0] - half[a][1]), store(at + 3 * at_step, -half[a][1]);
      }
    }
}

// A^T M A of every tile of one vector of channels, m[at][tile][lane], to one image's y[channel][pixel].
template <typename T> void transform_output(const Tiling& g, const T* m, Index channels, T* y) {
  const Index at_step = g.count() * kLanes<T>, pixels = g.out_h * g.out_w;
  for (Index i = 0; i < g.rows(); ++i)
    for (Index j = 0; j < g.columns(); ++j, m += kLanes<T>) {
      Vec<T> half[2][4];
#pragma GCC unroll 4
      for (Index b = 0; b < 4; ++b) {
        const Vec<T> p = load(m + b * at_step), q = load(m + (4 + b) * at_step), r = load(m + (8 + b) * at_step), s = load(m + (12 + b) * at_step);
        half[0][b] = p + q + r, half[1][b] = q - r - s;
      }
#pragma GCC unroll 2
      for (Index a = 0; a < 2; ++a) {
        const Vec<T> pair[2] = {half[a][0] + half[a][1] + half[a][2], half[a][1] - half[a][2] - half[a][3]};
        const Index row = 2 * i + a;
        for (Index b = 0; b < 2; ++b)
          if (row < g.out_h && 2 * j + b < g.out_w)
            for (Index l = 0; l < channels; ++l) y[l * pixels + row * g.out_w + 2 * j + b] = pair[b][l];
      }
    }
}

// The K kernels as G W_k G^T, for a convolution from `from` to `to` channels: u[at][vector of to][from][k][lane], the
// channels `from` filled up to whole vectors with zeros. Kernel (k, to, from) begins at w + k · step + to · to_step +
// from · from_step. `turned` is by half a turn, as the gradient of x needs it.
struct KernelPlaces {
  Index kernels, step, to, to_step, from, from_step;
  bool turned;
  template <typename T> Index to_vectors() const { return up(to, kLanes<T>); }
  template <typename T> Index padded_from() const { return up(from, kLanes<T>) * kLanes<T>; }
  template <typename T> Index size() const { return kPlaces * to_vectors<T>() * padded_from<T>() * kernels * kLanes<T>; }
};

template <typename T> void transform_kernels(const KernelPlaces& p, const T* w, T* u) {  // Called by all threads of a team.
  const Index padded = p.padded_from<T>(), vectors = p.to_vectors<T>(), at_step = vectors * padded * p.kernels * kLanes<T>;
#pragma omp for collapse(2) schedule(static)
  for (Index v = 0; v < vectors; ++v)
    for (Index c = 0; c < padded; ++c)
      for (Index k = 0; k < p.kernels; ++k) {
        Vec<T> g[9], half[12], form[kPlaces];
        const Index lanes = c < p.from ? std::min<Index>(kLanes<T>, p.to - v * kLanes<T>) : 0;
        T taps[9][kLanes<T>] = {};
        for (Index l = 0; l < lanes; ++l) {
          const T* kernel = w + k * p.step + (v * kLanes<T> + l) * p.to_step + c * p.from_step;
          for (Index tap = 0; tap < 9; ++tap) taps[tap][l] = kernel[tap];
        }
        for (Index tap = 0; tap < 9; ++tap) g[p.turned ? 8 - tap : tap] = load(taps[tap]);
        for (Index b = 0; b < 3; ++b) kernel_form<T>(g + b, 3, half + b, 3);
        for (Index a = 0; a < 4; ++a) kernel_form<T>(half + 3 * a, 1, form + 4 * a, 1);
        T* to = u + ((v * padded + c) * p.kernels + k) * kLanes<T>;
        for (Index at = 0; at < kPlaces; ++at) store(to + at * at_step, form[at]);
      }
}

// The adjoint: gradients of the transformed kernels back to the kernels.
template <typename T> void restore_kernels(const KernelPlaces& p, const T* u, T* w) {
  const Index padded = p.padded_from<T>(), vectors = p.to_vectors<T>(), at_step = vectors * padded * p.kernels * kLanes<T>;
#pragma omp for collapse(2) schedule(static)
  for (Index v = 0; v < vectors; ++v)
    for (Index c = 0; c < p.from; ++c)
      for (Index k = 0; k < p.kernels; ++k) {
        Vec<T> form[kPlaces], half[12], g[9];
        const T* from = u + ((v * padded + c) * p.kernels + k) * kLanes<T>;
        for (Index at = 0; at < kPlaces; ++at) form[at] = load(from + at * at_step);
        for (Index b = 0; b < 4; ++b) kernel_form_adjoint<T>(form + b, 4, half + b, 4);
        for (Index a = 0; a < 3; ++a) kernel_form_adjoint<T>(half + 4 * a, 1, g + 3 * a, 1);
        for (Index l = 0; l < std::min<Index>(kLanes<T>, p.to - v * kLanes<T>); ++l) {
          T* kernel = w + k * p.step + (v * kLanes<T> + l) * p.to_step + c * p.from_step;
          for (Index tap = 0; tap < 9; ++tap) kernel[tap] = g[tap][l];
        }
      }
}

}  // namespace
