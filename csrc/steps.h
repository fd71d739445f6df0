/* Steps of recurrent nets: products, and the loop of a cell, which comes as an address. Letters and conventions as in products.h. */
#ifndef FASTGRAD_STEPS_H
#define FASTGRAD_STEPS_H

#include <stdint.h>

#include "products.h"   /* FG_EXPORT */

/* The forward loop of a cell over the n units of one sequence, and its way back; rows of states `gap` apart (fastgrad/engine/pointwise.py):
 *   forward   pre, state -> new_state, local; `paired` of the units go two vectors at a time
 *   backward  gradient, local -> d_pre, before, total; the first `whole` units make whole vectors */
#define FG_CELL_FORWARD_ARGS(REAL)                                                                                  \
    const REAL *pre, const REAL *state, REAL *new_state, REAL *local, int64_t n, int64_t gap, int64_t paired
#define FG_CELL_BACKWARD_ARGS(REAL)                                                                                 \
    const REAL *gradient, const REAL *local, REAL *d_pre, REAL *before, REAL *total, int64_t n, int64_t gap, int64_t whole

/* `count` steps of B sequences and H units. pre (B, pre_width) += hidden (B, H) times P (H, M), with P's rows from the last to the first if
 * turned; then state (B, H), pre -> the state behind it, local (B, local_width), by the loop at the address `cell`. The next step's arrays
 * follow this one's; its turn is the opposite if `turning`. */
#define FG_FORWARD_STEPS_ARGS(REAL)                                                                                 \
    const REAL *P, const REAL *hidden, REAL *pre, REAL *state, REAL *local, int64_t cell, int64_t count, int64_t B, \
        int64_t H, int64_t M, int64_t ldp, int64_t pre_width, int64_t local_width, int64_t gap, int64_t paired,     \
        int64_t turned, int64_t turning

/* At most `count` steps back: gradient (size numbers, rows of states `gap` apart), local -> d_pre (B, pre_width), total (B, H) and the gradient
 * `size` in front, by the loop at the address `cell`; to that is added d_pre times P (M, H). The next step's arrays lie in front of
 * this one's, d_pre's d_pre_gap. Ends where the largest entry of a gradient is not from 1/window to window, or NaN. Returns the number of steps,
 * negative in that case. */
#define FG_BACKWARD_STEPS_ARGS(REAL)                                                                                \
    const REAL *P, REAL *gradient, const REAL *local, REAL *d_pre, REAL *total, int64_t cell, int64_t count,        \
        int64_t B, int64_t H, int64_t M, int64_t ldp, int64_t pre_width, int64_t local_width, int64_t gap,          \
        int64_t size, int64_t d_pre_gap, int64_t whole, int64_t turned, int64_t turning, int64_t window

FG_EXPORT void fg1_forward_steps_f32(FG_FORWARD_STEPS_ARGS(float));
FG_EXPORT void fg1_forward_steps_f64(FG_FORWARD_STEPS_ARGS(double));
FG_EXPORT int64_t fg1_backward_steps_f32(FG_BACKWARD_STEPS_ARGS(float));
FG_EXPORT int64_t fg1_backward_steps_f64(FG_BACKWARD_STEPS_ARGS(double));

#endif
