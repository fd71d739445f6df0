/* Small matrix products for vectors and small batches, where a BLAS call costs more than the arithmetic, sums over rows, and transposition.
 *
 * Letters, the same in every file of this folder:
 *   B   vectors in the batch                  b   one of them
 *   K   length of the sum (contraction)       k   one term
 *   M   outputs per vector                    i   one of them
 *   P   matrix stored with the sum along its rows going down:   P[k*ldp + i]   ("transposed")
 *   A   matrix stored with the sum along a row:                 A[i*lda + k]
 *   X   vectors, X[b*xb + k*xk]               out  results, out[b*yb + i]
 *
 * Conventions: sizes and strides are counted in elements, 64 bits wide, strides may be negative or zero; `out` may
 * not overlap an input; nothing is read or written outside the elements named (between the first and the last
 * element of P, the gaps between rows may be read too). No function touches Python, keeps state or starts a thread.
 *
 * Promise: the order in which the K terms of one output are added depends on K only (on the instruction set, and on the way in which rows
 * of P are gone through), never on B, on b or on M. So however a caller cuts a batch into pieces, the bytes are the same.
 *
 * The digit in `fg1_` is the version of this interface: compiled kernels kept on disk call these functions by name, so
 * any change of arguments or of meaning must change the digit.
 */
#ifndef FASTGRAD_PRODUCTS_H
#define FASTGRAD_PRODUCTS_H

#include <stdint.h>

#if defined(_WIN32)
#define FG_EXPORT __declspec(dllexport)
#else
#define FG_EXPORT __attribute__((visibility("default")))
#endif

/* out[b, i] = sum_k P[k, i] X[b, k], added to what `out` holds if accumulate is not zero. */
#define FG_TRANSPOSED_ARGS(REAL)                                                                                    \
    int64_t B, int64_t M, int64_t K, const REAL *P, int64_t ldp, const REAL *X, int64_t xb, int64_t xk, REAL *out,  \
        int64_t yb, int64_t accumulate

/* out[b, i] = sum_k A[i, k] X[b, k], the same; here X[b*xb + k]. */
#define FG_DOT_ARGS(REAL)                                                                                           \
    int64_t B, int64_t M, int64_t K, const REAL *A, int64_t lda, const REAL *X, int64_t xb, REAL *out, int64_t yb,  \
        int64_t accumulate

/* to[j*ldt + i] = from[i*ldf + j], i < rows, j < columns. */
#define FG_TRANSPOSE_ARGS(REAL) int64_t rows, int64_t columns, const REAL *from, int64_t ldf, REAL *to, int64_t ldt

/* sum_{a,b} (d_a . d_b)(x_a . x_b) = || sum_b d_b x_b^T ||^2 for contiguous rows D (B, M), X (B, N); or -1 where the sum is so far below that over
 * a = b (1e-2 of it in float32, 1e-4 in float64) that rounding would show. */
#define FG_OUTER_ARGS(REAL) int64_t B, int64_t M, int64_t N, const REAL *D, const REAL *X

/* sums[j*lds + r], j = 0..7: x.x, x.w, w.w, a.a, a.b, b.b, h.a, h.b of row r with a = s * x, b = s * w; rows of n numbers, `ld` apart, of H, X, S, W. */
#define FG_SUMS_ARGS(REAL)                                                                                          \
    int64_t rows, int64_t n, int64_t ld, const REAL *H, const REAL *X, const REAL *S, const REAL *W, REAL *sums, int64_t lds

FG_EXPORT void fg1_transpose_f32(FG_TRANSPOSE_ARGS(float));
FG_EXPORT void fg1_transpose_f64(FG_TRANSPOSE_ARGS(double));
FG_EXPORT void fg1_layer_sums_f32(FG_SUMS_ARGS(float));
FG_EXPORT void fg1_layer_sums_f64(FG_SUMS_ARGS(double));
FG_EXPORT double fg1_outer_f32(FG_OUTER_ARGS(float));
FG_EXPORT double fg1_outer_f64(FG_OUTER_ARGS(double));
FG_EXPORT void fg1_transposed_f32(FG_TRANSPOSED_ARGS(float));
FG_EXPORT void fg1_transposed_f64(FG_TRANSPOSED_ARGS(double));
FG_EXPORT void fg1_dot_f32(FG_DOT_ARGS(float));
FG_EXPORT void fg1_dot_f64(FG_DOT_ARGS(double));

#endif
