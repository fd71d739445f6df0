/* tanh and its slope with 512-bit vectors, the activation that most studies run through.
 *
 * The formula is that of fastgrad/elementary.py: both come from e^(-2|x|), so that the slope keeps its digits where it is tiny. What a compiler has to
 * be told is to let four vectors through at once, interleaved: each alone waits for its own chain of 25 operations and a division, longer than
 * the processor looks ahead (measured: 1.05 ns a number in LLVM's loop, 0.6 here). Masks save another few. Without AVX-512 Numba's loop runs.
 */

#include <limits.h>   /* glibc's features.h, by which __GLIBC__ is known */
#include <stdint.h>

#include "tanh.h"
#include "vectors.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("schedule-insns")
#endif

#ifdef FG_LEVELS

#define TARGET __attribute__((target("arch=x86-64-v4")))
#define ALL(x) _mm512_set1_ps(x)
#define TOGETHER 4

typedef __m512i words;
typedef __m512 floats;

TARGET FG_INLINE void tanh_and_slope(floats h, floats *y, floats *slope)
{
    /* m = -2|h| = n ln 2 + r, |r| <= ln(2)/2; beyond 53 the slope has underflowed. NaN passes. */
    floats m = _mm512_mul_ps(_mm512_min_ps(ALL(53), _mm512_abs_ps(h)), ALL(-2));
    floats k = _mm512_fmadd_ps(m, ALL(1.4426950408889634f), ALL(0x1.8p23f));   /* n in its low bits */
    floats n = _mm512_sub_ps(k, ALL(0x1.8p23f));
    floats r = _mm512_fnmadd_ps(n, ALL(0.693359375f), m);   /* 10 bits: n times it is exact */
    r = _mm512_fmadd_ps(n, ALL(2.12194440054690583e-4f), r);
    /* q = e^r - 1; the polynomial of elementary.py */
    floats p = _mm512_fmadd_ps(ALL(0.0013814579f), r, ALL(0.008368726f));
    p = _mm512_fmadd_ps(p, r, ALL(0.04166839f));
    p = _mm512_fmadd_ps(p, r, ALL(0.16666521f));
    p = _mm512_fmadd_ps(p, r, ALL(0.49999994f));
    floats q = _mm512_fmadd_ps(_mm512_mul_ps(r, r), p, r);
    /* 2^n; 2^64 times it where the slope, but no longer tanh, needs a number below the normal ones. */
    words bits = _mm512_castps_si512(k);
    __mmask16 far = _mm512_cmp_ps_mask(m, ALL(-80), _CMP_LT_OQ);
    bits = _mm512_mask_add_epi32(bits, far, bits, _mm512_set1_epi32(64));
    floats power = _mm512_castsi512_ps(_mm512_add_epi32(_mm512_slli_epi32(bits, 23), _mm512_set1_epi32(0x3F800000)));
    /* t = e^m - 1 without cancellation near 0, e = e^m; tanh |h| = -t/(2 + t), its slope 4 e/(2 + t)^2 */
    floats t = _mm512_fmadd_ps(power, q, _mm512_sub_ps(power, ALL(1)));
    floats e = _mm512_fmadd_ps(power, q, power);
    floats d = _mm512_div_ps(ALL(1), _mm512_add_ps(t, ALL(2)));
    words size = _mm512_castps_si512(_mm512_mul_ps(t, d));
    *y = _mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_set1_epi32(0x7FFFFFFF), size, _mm512_castps_si512(h), 0xCA));   /* h's sign */
    floats twice = _mm512_add_ps(d, d);
    floats s = _mm512_mul_ps(_mm512_mul_ps(twice, twice), e);
    *slope = _mm512_mask_mul_ps(s, far, s, ALL(0x1p-64f));
}

TARGET static void tanh_v4(FG_TANH_ARGS)
{
    int64_t j = 0;
    for (; j + 16 * TOGETHER <= n; j += 16 * TOGETHER) {
        floats y[TOGETHER], s[TOGETHER];
        FG_UNROLL for (int i = 0; i < TOGETHER; i++)
            tanh_and_slope(_mm512_add_ps(_mm512_loadu_ps(h + j + 16 * i), _mm512_loadu_ps(bias + j + 16 * i)), &y[i], &s[i]);
        FG_UNROLL for (int i = 0; i < TOGETHER; i++) {
            _mm512_storeu_ps(x + j + 16 * i, y[i]);
            _mm512_storeu_ps(slope + j + 16 * i, s[i]);
        }
    }
    for (; j < n; j += 16) {
        __mmask16 lanes = n - j >= 16 ? 0xFFFF : (__mmask16)((1u << (n - j)) - 1);
        floats y, s;
        tanh_and_slope(_mm512_add_ps(_mm512_maskz_loadu_ps(lanes, h + j), _mm512_maskz_loadu_ps(lanes, bias + j)), &y, &s);
        _mm512_mask_storeu_ps(x + j, lanes, y);
        _mm512_mask_storeu_ps(slope + j, lanes, s);
    }
}

int64_t fg1_tanh_here(void) { return __builtin_cpu_supports("x86-64-v4") != 0; }

void fg1_tanh_f32(FG_TANH_ARGS) { tanh_v4(h, bias, x, slope, n); }

#else

int64_t fg1_tanh_here(void) { return 0; }

#endif
