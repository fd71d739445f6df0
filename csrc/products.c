/* The products, and what is made of them, for each number format and instruction set, and the choice of one when the library is loaded. */

#include <limits.h>   /* glibc's features.h, by which __GLIBC__ is known */
#include <stdint.h>

#include "products.h"
#include "steps.h"
#include "vectors.h"

/* ---- what the compiler takes by default: 16-byte vectors, which SSE2 and NEON both have ---- */
#define LEVEL base
#define TARGET
#define VECTOR_BYTES 16
#if defined(__x86_64__) || defined(__i386__)
#define REGISTERS 16
#else
#define REGISTERS 32
#endif
#include "both_formats.inc"

#ifdef FG_LEVELS

#define LEVEL v3
#define TARGET __attribute__((target("arch=x86-64-v3")))
#define VECTOR_BYTES 32
#define REGISTERS 16
#include "both_formats.inc"

#define LEVEL v4
#define TARGET __attribute__((target("arch=x86-64-v4")))
#define VECTOR_BYTES 64
#define REGISTERS 32
#include "both_formats.inc"

/* Resolvers run while the library is being loaded, before a sanitizer's own set-up. */
#define FG_EARLY __attribute__((no_sanitize("address", "undefined"), unused))
#define CHOOSE(returns, name, ARGS)                                                                                      \
    FG_EARLY static returns (*choose_##name(void))(ARGS)                                                               \
    {                                                                                                               \
        __builtin_cpu_init();                                                                                       \
        if (__builtin_cpu_supports("x86-64-v4"))                                                                    \
            return name##_v4;                                                                                       \
        if (__builtin_cpu_supports("x86-64-v3"))                                                                    \
            return name##_v3;                                                                                       \
        return name##_base;                                                                                         \
    }                                                                                                               \
    returns fg1_##name(ARGS) __attribute__((ifunc("choose_" #name)));

#else

#define FG_PASS_TRANSPOSED B, M, K, P, ldp, X, xb, xk, out, yb, accumulate
#define FG_PASS_DOT B, M, K, A, lda, X, xb, out, yb, accumulate
#define FG_PASS_FORWARD                                                                                             \
    P, hidden, pre, state, local, cell, count, B, H, M, ldp, pre_width, local_width, gap, paired, turned, turning
#define FG_PASS_BACKWARD                                                                                            \
    P, gradient, local, d_pre, total, cell, count, B, H, M, ldp, pre_width, local_width, gap, size, d_pre_gap, whole, turned, turning, window

#endif

#ifdef FG_LEVELS
CHOOSE(void, transposed_f32, FG_TRANSPOSED_ARGS(float))
CHOOSE(void, transposed_f64, FG_TRANSPOSED_ARGS(double))
CHOOSE(void, dot_f32, FG_DOT_ARGS(float))
CHOOSE(void, dot_f64, FG_DOT_ARGS(double))
CHOOSE(void, forward_steps_f32, FG_FORWARD_STEPS_ARGS(float))
CHOOSE(void, forward_steps_f64, FG_FORWARD_STEPS_ARGS(double))
CHOOSE(int64_t, backward_steps_f32, FG_BACKWARD_STEPS_ARGS(float))
CHOOSE(int64_t, backward_steps_f64, FG_BACKWARD_STEPS_ARGS(double))
CHOOSE(void, transpose_f32, FG_TRANSPOSE_ARGS(float))
CHOOSE(void, transpose_f64, FG_TRANSPOSE_ARGS(double))
CHOOSE(double, outer_f32, FG_OUTER_ARGS(float))
CHOOSE(double, outer_f64, FG_OUTER_ARGS(double))
CHOOSE(void, layer_sums_f32, FG_SUMS_ARGS(float))
CHOOSE(void, layer_sums_f64, FG_SUMS_ARGS(double))
#else
void fg1_transposed_f32(FG_TRANSPOSED_ARGS(float)) { transposed_f32_base(FG_PASS_TRANSPOSED); }
void fg1_transposed_f64(FG_TRANSPOSED_ARGS(double)) { transposed_f64_base(FG_PASS_TRANSPOSED); }
void fg1_dot_f32(FG_DOT_ARGS(float)) { dot_f32_base(FG_PASS_DOT); }
void fg1_dot_f64(FG_DOT_ARGS(double)) { dot_f64_base(FG_PASS_DOT); }
void fg1_forward_steps_f32(FG_FORWARD_STEPS_ARGS(float)) { forward_steps_f32_base(FG_PASS_FORWARD); }
void fg1_forward_steps_f64(FG_FORWARD_STEPS_ARGS(double)) { forward_steps_f64_base(FG_PASS_FORWARD); }
int64_t fg1_backward_steps_f32(FG_BACKWARD_STEPS_ARGS(float)) { return backward_steps_f32_base(FG_PASS_BACKWARD); }
int64_t fg1_backward_steps_f64(FG_BACKWARD_STEPS_ARGS(double)) { return backward_steps_f64_base(FG_PASS_BACKWARD); }
void fg1_transpose_f32(FG_TRANSPOSE_ARGS(float)) { transpose_f32_base(rows, columns, from, ldf, to, ldt); }
void fg1_transpose_f64(FG_TRANSPOSE_ARGS(double)) { transpose_f64_base(rows, columns, from, ldf, to, ldt); }
double fg1_outer_f32(FG_OUTER_ARGS(float)) { return outer_f32_base(B, M, N, D, X); }
double fg1_outer_f64(FG_OUTER_ARGS(double)) { return outer_f64_base(B, M, N, D, X); }
void fg1_layer_sums_f32(FG_SUMS_ARGS(float)) { layer_sums_f32_base(rows, n, ld, H, X, S, W, sums, lds); }
void fg1_layer_sums_f64(FG_SUMS_ARGS(double)) { layer_sums_f64_base(rows, n, ld, H, X, S, W, sums, lds); }
#endif
