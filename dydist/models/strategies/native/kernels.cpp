// Dynamic convolution with the mixed kernels kept in first-level cache: a tile of W~_n = sum_k pi_nk W_k is built,
// multiplied with image n's pixels, and thrown away. The backward passes build it again.
//
// Multiply-adds a weight and image, for K kernels and P output pixels:
//   forward K + P; gradient of x K + P; gradients of the kernels and of pi P + 2K.
//
// Every output value is summed by one thread in an order that depends on the sizes alone, so results do not
// depend on the number of threads. Plain C interface, no headers of torch: it compiles in seconds.

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace {

using Index = long;

struct Sizes {  // The same order as `_Sizes` in build.py's caller.
  Index images, kernels, groups, in, out;  // in and out channels of one group
  Index height, width, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, out_h, out_w;
  Index taps() const { return kernel_h * kernel_w; }
  Index fan_in() const { return in * taps(); }
  Index pixels() const { return out_h * out_w; }
};

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif

template <typename T> struct Lanes;
template <> struct Lanes<float> { typedef float Vector __attribute__((vector_size(kBytes), aligned(4), may_alias)); };
template <> struct Lanes<double> { typedef double Vector __attribute__((vector_size(kBytes), aligned(8), may_alias)); };
template <typename T> constexpr int kLanes = kBytes / sizeof(T);

template <typename T> using Vec = typename Lanes<T>::Vector;
template <typename T> inline Vec<T> load(const T* p) { return *reinterpret_cast<const Vec<T>*>(p); }
template <typename T> inline void store(T* p, Vec<T> v) { *reinterpret_cast<Vec<T>*>(p) = v; }

constexpr Index kTile = 96;     // columns (taps of input channels) of a mixed tile; 96 divides 64·9, 128·9, …
constexpr Index kStride = 104;  // its row length in memory, not a multiple of the cache's way size
constexpr Index kRows = 16;     // rows (output channels) of a mixed tile, forward
constexpr Index kDepth = 32;    // the same, gradient of x
constexpr Index kPixels = 1024;  // image block: about so many output pixels at a time

inline Index up(Index a, Index b) { return (a + b - 1) / b; }

template <typename T> struct Buffer {  // Uninitialised, aligned, freed at the end of its scope.
  T* data;
  explicit Buffer(Index n) : data(static_cast<T*>(std::aligned_alloc(64, up(std::max<Index>(n, 1) * sizeof(T), 64) * 64))) {
    if (data == nullptr) std::abort();
  }
  ~Buffer() { std::free(data); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
};

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
void mix_fixed(const T* packed, const T* pi, Index kernels, Index rows, Index columns, T* tile, Index tile_step) {
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
template <typename T, int ROW, int INNER>
void multiply_all(const T* w, const T* x, Index panel, T* sum, Index sum_step, Index length, Index rows, Index vectors) {
  for (Index j = 0; j < vectors; ++j, x += panel, sum += kLanes<T>) {
    Index i = 0;
    for (; i + kRegisters <= rows; i += kRegisters)
      multiply<T, kRegisters, ROW, INNER>(w + i * ROW, x, sum + i * sum_step, sum_step, length);
    for (; i < rows; ++i) multiply<T, 1, ROW, INNER>(w + i * ROW, x, sum + i * sum_step, sum_step, length);
  }
}

// Calls visit(output pixel, input pixel) for runs of output pixels that tap (i, j) takes from inside the map.
template <typename Visit> inline void over_tap(const Sizes& s, Index tap, Visit visit) {
  const Index i = tap / s.kernel_w, j = tap % s.kernel_w;
  const Index column = j * s.dilation_w - s.pad_w;
  const Index first = column < 0 ? up(-column, s.stride_w) : 0;
  const Index last = s.width - 1 - column < 0 ? 0 : std::min(s.out_w, (s.width - 1 - column) / s.stride_w + 1);
  if (first >= last) return;
  for (Index oh = 0; oh < s.out_h; ++oh) {
    const Index row = oh * s.stride_h + i * s.dilation_h - s.pad_h;
    if (row < 0 || row >= s.height) continue;
    visit(oh * s.out_w + first, row * s.width + first * s.stride_w + column, last - first);
  }
}

// What taps from … until of one image see, in panels: to[vector][tap - from][lane]; zeros for padding.
template <typename T> void gather(const Sizes& s, const T* x, Index from, Index until, Index padded, T* row, T* to) {
  for (Index r = from; r < until; ++r) {
    std::memset(row, 0, sizeof(T) * padded);
    const T* channel = x + r / s.taps() * s.height * s.width;
    over_tap(s, r % s.taps(), [&](Index pixel, Index input, Index count) {
      for (Index w = 0; w < count; ++w) row[pixel + w] = channel[input + w * s.stride_w];
    });
    for (Index j = 0; j < padded; j += kLanes<T>) store(to + j * kTile + (r - from) * kLanes<T>, load(row + j));
  }
}

// The same, transposed, for one vector of taps: to[pixel][lane].
template <typename T> void gather_transposed(const Sizes& s, const T* x, Index from, Index until, T* to) {
  std::memset(to, 0, sizeof(T) * s.pixels() * kLanes<T>);
  for (Index r = from; r < until; ++r, ++to) {
    const T* channel = x + r / s.taps() * s.height * s.width;
    over_tap(s, r % s.taps(), [&](Index pixel, Index input, Index count) {
      for (Index w = 0; w < count; ++w) to[(pixel + w) * kLanes<T>] = channel[input + w * s.stride_w];
    });
  }
}

// The adjoint of gather: adds every tap's pixels back to the image.
template <typename T> void scatter(const Sizes& s, const T* from_tile, Index from, Index until, Index padded, T* x) {
  for (Index r = from; r < until; ++r, from_tile += padded) {
    T* channel = x + r / s.taps() * s.height * s.width;
    over_tap(s, r % s.taps(), [&](Index pixel, Index input, Index count) {
      for (Index w = 0; w < count; ++w) channel[input + w * s.stride_w] += from_tile[pixel + w];
    });
  }
}

inline Index block_of_images(const Sizes& s, Index padded) {
  return std::max<Index>(1, std::min(s.images, kPixels / std::max<Index>(1, padded)));
}

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

constexpr Index kGroup = 4;  // images whose dW~_n are kept before they are added to the K kernels' gradients

// For up to kGroup images: total[k] += sum_n pi[n][k] · product[n] and lanes[n][k] += product[n] · w[k], a tile each.
template <typename T, int K>
void spread(const T* product, const T* pi, const T* w, T* total, T* lanes, Index images, Index kernels) {
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

#define EXPORT(T, NAME)                                                                                              \
  extern "C" void forward_##NAME(const Sizes* s, const T* x, const T* pi, const T* w, T* out, int threads) {         \
    forward<T>(*s, x, pi, w, out, threads);                                                                          \
  }                                                                                                                  \
  extern "C" void input_gradient_##NAME(const Sizes* s, const T* grad, const T* pi, const T* w, T* grad_x, int t) {  \
    input_gradient<T>(*s, grad, pi, w, grad_x, t);                                                                   \
  }                                                                                                                  \
  extern "C" void kernel_gradient_##NAME(const Sizes* s, const T* grad, const T* x, const T* pi, const T* w,         \
                                         T* grad_w, T* grad_pi, int threads) {                                       \
    if (s->kernels == 4) kernel_gradient<T, 4>(*s, grad, x, pi, w, grad_w, grad_pi, threads);                        \
    else kernel_gradient<T, 0>(*s, grad, x, pi, w, grad_w, grad_pi, threads);                                        \
  }                                                                                                                  \
  extern "C" void split_taps_##NAME(const T* from, Index rows, Index taps, const Index* chosen, Index count, T* to,  \
                                    int threads) {                                                                   \
    split_taps<T>(from, rows, taps, chosen, count, to, threads);                                                     \
  }                                                                                                                  \
  extern "C" void join_taps_##NAME(const T* from, Index rows, Index taps, const Index* chosen, Index count, T* to,   \
                                   int threads) {                                                                    \
    join_taps<T>(from, rows, taps, chosen, count, to, threads);                                                      \
  }

EXPORT(float, f32)
EXPORT(double, f64)
