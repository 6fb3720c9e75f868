// Dynamic convolution with the mixed kernels kept in first-level cache: a tile of W~_n = sum_k pi_nk W_k is built,
// multiplied with image n's pixels, and thrown away. The backward passes build it again.
//
// Multiply-adds a weight and image, for K kernels and P output pixels:
//   forward K + P; gradient of x K + P; gradients of the kernels and of pi P + 2K.
//
// Every output value is summed by one thread in an order that depends on the sizes alone, so results do not
// depend on the number of threads. Plain C interface, no headers of torch: it compiles in seconds.
//
// One translation unit: this file exports what the headers beside it hold.
//   vectors.h          sizes, vectors, buffers
//   tiles.h            packing, mixing and multiplying a tile
//   pixels.h           what taps see of an image
//   mixed_kernels.h    forward, gradient of x
//   kernel_gradient.h  gradients of the kernels and of pi
//   winograd_forms.h   images, kernels and outputs to and from Winograd's form
//   winograd.h         forward, gradient of x in that form
//   winograd_gradient.h  gradients of the kernels and of pi in that form
//   taps.h             taps of kernels apart and together

#include "kernel_gradient.h"
#include "mixed_kernels.h"
#include "taps.h"
#include "vectors.h"
#include "winograd_gradient.h"

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
  extern "C" void winograd_forward_##NAME(const Sizes* s, const T* x, const T* pi, const T* w, T* out, int threads) { \
    winograd_forward<T>(*s, x, pi, w, out, threads);                                                                 \
  }                                                                                                                  \
  extern "C" void winograd_input_gradient_##NAME(const Sizes* s, const T* grad, const T* pi, const T* w, T* grad_x, int t) { \
    winograd_input_gradient<T>(*s, grad, pi, w, grad_x, t);                                                          \
  }                                                                                                                  \
  extern "C" void winograd_kernel_gradient_##NAME(const Sizes* s, const T* grad, const T* x, const T* pi, const T* w, \
                                         T* grad_w, T* grad_pi, int threads) {                                       \
    if (s->kernels == 4) winograd_kernel_gradient<T, 4>(*s, grad, x, pi, w, grad_w, grad_pi, threads);               \
    else winograd_kernel_gradient<T, 0>(*s, grad, x, pi, w, grad_w, grad_pi, threads);                               \
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
