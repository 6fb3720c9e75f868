// Sizes of one convolution, vectors of this CPU, and memory that is freed at the end of its scope.

#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace {

using Index = long;

struct Sizes {  // In the order in which `fused._call` gives them.
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

}  // namespace
