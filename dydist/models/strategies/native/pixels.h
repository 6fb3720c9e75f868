// What the taps of a kernel see of an image, laid out for `multiply`, and the way back.

#pragma once

#include "tiles.h"
#include "vectors.h"

namespace {

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

}  // namespace
