/* Uniform numbers of a panel with 512-bit vectors: the same bits as those of fastgrad/engine/random.py, and the same numbers. */

#include "panels.h"
#include "wide.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("schedule-insns")
#endif

#ifdef FG_LEVELS

/* From -scale to scale: an odd multiple of 2^-32, rounded as in random.py, first the word, then its sum with 1/2. */
TARGET FG_INLINE void uniforms_of(const words w[4], floats scale, floats x[4])
{
    FG_UNROLL
    for (int i = 0; i < 4; i++)
        x[i] = _mm512_mul_ps(_mm512_mul_ps(_mm512_add_ps(_mm512_cvtepi32_ps(w[i]), ALL(0.5f)), ALL(0x1p-31f)), scale);
}

#define PANELS uniforms_v4
#define NUMBERS uniforms_of
#include "panels.inc"

void fg1_uniforms_f32(FG_PANELS_ARGS) { uniforms_v4(FG_PASS_PANELS); }

#endif
