/* tanh and its slope with 512-bit vectors, the activation that most studies run through.
 *
 * What a compiler has to be told is to let four vectors through at once, interleaved: each alone waits for its own chain of 25 operations and
 * a division, longer than the processor looks ahead (measured: 1.05 ns a number in LLVM's loop, 0.6 here). Masks save another few. Without
 * AVX-512 Numba's loop runs.
 */

#include "tanh.h"
#include "wide.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("schedule-insns")
#endif

#ifdef FG_LEVELS

#define TOGETHER 4

#include "tanh.inc"

/* `lanes` of 16 numbers of h + bias, where there is one. */
TARGET FG_INLINE floats biased(const float *h, const float *bias, int64_t j, __mmask16 lanes)
{
    const floats at = _mm512_maskz_loadu_ps(lanes, h + j);
    return bias ? _mm512_add_ps(at, _mm512_maskz_loadu_ps(lanes, bias + j)) : at;
}

TARGET FG_INLINE void tanh_of_all(FG_TANH_ARGS)
{
    int64_t j = 0;
    for (; j + 16 * TOGETHER <= n; j += 16 * TOGETHER) {
        floats y[TOGETHER], s[TOGETHER];
        FG_UNROLL for (int i = 0; i < TOGETHER; i++)
            tanh_and_slope(biased(h, bias, j + 16 * i, 0xFFFF), &y[i], &s[i]);
        FG_UNROLL for (int i = 0; i < TOGETHER; i++) {
            _mm512_storeu_ps(x + j + 16 * i, y[i]);
            _mm512_storeu_ps(slope + j + 16 * i, s[i]);
        }
    }
    for (; j < n; j += 16) {
        __mmask16 lanes = n - j >= 16 ? 0xFFFF : (__mmask16)((1u << (n - j)) - 1);
        floats y, s;
        tanh_and_slope(biased(h, bias, j, lanes), &y, &s);
        _mm512_mask_storeu_ps(x + j, lanes, y);
        _mm512_mask_storeu_ps(slope + j, lanes, s);
    }
}

TARGET static void tanh_v4(FG_TANH_ARGS) { tanh_of_all(h, bias, x, slope, n); }

TARGET static void tanh_cell_v4(FG_TANH_CELL_ARGS) { tanh_of_all(pre, 0, new_state, local, n); }

int64_t fg1_tanh_here(void) { return __builtin_cpu_supports("x86-64-v4") != 0; }

void fg1_tanh_f32(FG_TANH_ARGS) { tanh_v4(h, bias, x, slope, n); }

void fg1_tanh_cell_f32(FG_TANH_CELL_ARGS) { tanh_cell_v4(pre, state, new_state, local, n, gap, paired); }

#else

int64_t fg1_tanh_here(void) { return 0; }

#endif
