/* tanh and its slope for vectors; conventions as in products.h. */
#ifndef FASTGRAD_TANH_H
#define FASTGRAD_TANH_H

#include <stdint.h>

#include "steps.h"   /* arguments of a cell's loop */

/* x[j] = tanh(h[j] + bias[j]), slope[j] = 1 / cosh^2 of it, j < n: the arguments of every activation loop (fastgrad/engine/pointwise.py). */
#define FG_TANH_ARGS const float *h, const float *bias, float *x, float *slope, int64_t n

/* One step of the simple recurrent cell: new_state[j] = tanh(pre[j]), local[j] its slope; the arguments of every cell's forward loop. */
#define FG_TANH_CELL_ARGS FG_CELL_FORWARD_ARGS(float)

/* sums[j*lds + r] as in products.h, of rows r with h = spread[r] Z[r] and x = tanh(h). */
#define FG_TANH_SUMS_ARGS                                                                                           \
    const float *Z, const double *spread, const float *W, float *sums, int64_t rows, int64_t n, int64_t ld, int64_t lds

/* 1 where this machine and this build can run the others. */
FG_EXPORT int64_t fg1_tanh_here(void);
FG_EXPORT void fg1_tanh_f32(FG_TANH_ARGS);
FG_EXPORT void fg1_tanh_cell_f32(FG_TANH_CELL_ARGS);
FG_EXPORT void fg1_tanh_sums_f32(FG_TANH_SUMS_ARGS);

#endif
