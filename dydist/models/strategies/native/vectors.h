// Sizes of one convolution, vectors of this CPU, and memory that is freed at the end of its scope.

#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

using Index = long;

struct Sizes {  // In the order in which `fused._sizes` gives them.
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

constexpr std::size_t kLargePage = 2 << 20;

inline Index up(Index a, Index b) { return (a + b - 1) / b; }

// Uninitialised, aligned, freed at the end of its scope. Large ones ask for large pages, which cost a quarter to fault in.
template <typename T> struct Buffer {
  T* data;
  explicit Buffer(Index n) {
    const std::size_t size = sizeof(T) * std::max<Index>(n, 1), line = size < kLargePage ? 64 : kLargePage;
    const std::size_t whole = (size + line - 1) / line * line;
    data = static_cast<T*>(std::aligned_alloc(line, whole));
    if (data == nullptr) std::abort();
#if defined(__linux__)
    if (line == kLargePage) madvise(data, whole, MADV_HUGEPAGE);  // A wish: refused, pages are small.
#endif
  }
  ~Buffer() { std::free(data); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
};

}  // namespace
