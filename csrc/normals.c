/* Normals of a panel with 512-bit vectors: Philox4x32-10 words, then Box-Muller.
 *
 * The numbers are those of fastgrad/engine/random.py, from the same bits: words 0 and 1 of a counter make one Box-Muller pair, words 2 and 3 the
 * other. The float32 results differ from Numba's in the last digits, because logarithm, sine and cosine come from tables here: a table of 16 or 32
 * numbers is one register and one instruction (AVX-512), and saves half of the polynomials. Elsewhere the loop in random.py runs.
 */

#include "panels.h"
#include "wide.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("schedule-insns")
#endif

#ifdef FG_LEVELS

/* Sixteen parts of [1, 2): 1/m near the middle of each, and -2 ln of it. The upper half counts as m/2, so that numbers just below 1 have
 * small logarithms; the last part ends at 1, where 1/m is exact and the logarithm is 0. */
static const float RECIPROCAL[16] __attribute__((aligned(64))) = {
    0.969696999f, 0.914285719f, 0.864864886f, 0.820512831f, 0.780487776f, 0.744186044f, 0.711111128f, 0.680851042f,
    0.653061211f, 0.627451003f, 0.603773594f, 0.581818163f, 0.561403513f, 0.542372882f, 0.524590135f, 0.5f
};
static const float MINUS_TWO_LOGS[16] __attribute__((aligned(64))) = {
    -0.061543256f, -0.179224312f, -0.290363967f, -0.39565146f, -0.495672405f, -0.590928435f, -0.681853116f, -0.768823445f,
    0.534125507f, 0.454114974f, 0.377182364f, 0.303099722f, 0.231663644f, 0.16269128f, 0.0960183293f, 0.0f
};
/* 32 directions, the axes exactly. */
static const float COSINE[32] __attribute__((aligned(64))) = {
    1.0f, 0.980785251f, 0.923879504f, 0.831469595f, 0.707106769f, 0.555570245f, 0.382683426f, 0.195090324f,
    0.0f, -0.195090324f, -0.382683426f, -0.555570245f, -0.707106769f, -0.831469595f, -0.923879504f, -0.980785251f,
    -1.0f, -0.980785251f, -0.923879504f, -0.831469595f, -0.707106769f, -0.555570245f, -0.382683426f, -0.195090324f,
    0.0f, 0.195090324f, 0.382683426f, 0.555570245f, 0.707106769f, 0.831469595f, 0.923879504f, 0.980785251f
};
static const float SINE[32] __attribute__((aligned(64))) = {
    0.0f, 0.195090324f, 0.382683426f, 0.555570245f, 0.707106769f, 0.831469595f, 0.923879504f, 0.980785251f,
    1.0f, 0.980785251f, 0.923879504f, 0.831469595f, 0.707106769f, 0.555570245f, 0.382683426f, 0.195090324f,
    0.0f, -0.195090324f, -0.382683426f, -0.555570245f, -0.707106769f, -0.831469595f, -0.923879504f, -0.980785251f,
    -1.0f, -0.980785251f, -0.923879504f, -0.831469595f, -0.707106769f, -0.555570245f, -0.382683426f, -0.195090324f
};

/* -2 ln u, u = (word + 1/2) 2^-32. From 3/4 up 1 - u is taken from the integer, so small values keep their digits. */
TARGET FG_INLINE floats minus_two_logs(words word)
{
    __mmask16 top = _mm512_cmpge_epu32_mask(word, _mm512_set1_epi32((int)0xC0000000));
    words integer = _mm512_mask_xor_epi32(word, top, word, _mm512_set1_epi32(-1));
    floats part = _mm512_fmadd_ps(_mm512_cvtepu32_ps(integer), ALL(0x1p-32f), ALL(0x1p-33f));   /* u, at the top 1 - u */
    floats u = _mm512_mask_sub_round_ps(part, top, ALL(1), part, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);   /* never 1 */
    floats mantissa = _mm512_getmant_ps(u, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src);
    floats exponent = _mm512_getexp_ps(_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(u), _mm512_set1_epi32(0x400000))));
    words index = _mm512_srli_epi32(_mm512_castps_si512(mantissa), 19);   /* its low 4 bits choose */
    floats c = _mm512_permutexvar_ps(index, _mm512_load_ps(RECIPROCAL));
    floats l = _mm512_permutexvar_ps(index, _mm512_load_ps(MINUS_TWO_LOGS));
    /* z = u c - 1 for the u that counts: at the top 2 c (1 - part) - 1, formed without rounding u. */
    floats x = _mm512_mask_mul_ps(mantissa, top, part, ALL(-2));
    floats z = _mm512_fmadd_ps(x, c, _mm512_mask3_fmadd_ps(c, ALL(2), ALL(-1), top));
    floats p = ALL(-0.4f);   /* 2 (z - log(1 + z)) / z^2, |z| <= 1/31 */
    p = _mm512_fmadd_ps(p, z, ALL(0.5f));
    p = _mm512_fmadd_ps(p, z, ALL(-2.0f / 3));
    p = _mm512_fmadd_ps(p, z, ALL(1));
    p = _mm512_fmadd_ps(p, z, ALL(-2));
    return _mm512_fmadd_ps(p, z, _mm512_fmadd_ps(exponent, ALL(-1.3862943611198906f), l));
}

/* Cosine and sine of the angle (word + 1/2) 2 pi 2^-32: of the nearest of 32 directions, turned by the rest. */
TARGET FG_INLINE void turn(words word, floats *cosine, floats *sine)
{
    words index = _mm512_srli_epi32(_mm512_add_epi32(word, _mm512_set1_epi32(1 << 26)), 27);
    words signed_rest = _mm512_slli_epi32(word, 5);
    const float unit = 1.4629180792671596e-09f;   /* 2 pi 2^-32 */
    floats a = _mm512_fmadd_ps(_mm512_cvtepi32_ps(signed_rest), ALL(unit / 32), ALL(unit / 2));
    floats c = _mm512_permutex2var_ps(_mm512_load_ps(COSINE), index, _mm512_load_ps(COSINE + 16));
    floats s = _mm512_permutex2var_ps(_mm512_load_ps(SINE), index, _mm512_load_ps(SINE + 16));
    floats a2 = _mm512_mul_ps(a, a);
    floats cos_less_1 = _mm512_mul_ps(a2, _mm512_fmadd_ps(a2, ALL(1.0f / 24), ALL(-0.5f)));
    floats sin_a = _mm512_fmadd_ps(_mm512_mul_ps(a, a2), _mm512_fmadd_ps(a2, ALL(1.0f / 120), ALL(-1.0f / 6)), a);
    *cosine = _mm512_add_ps(c, _mm512_fmsub_ps(c, cos_less_1, _mm512_mul_ps(s, sin_a)));
    *sine = _mm512_add_ps(s, _mm512_fmadd_ps(s, cos_less_1, _mm512_mul_ps(c, sin_a)));
}

/* Box & Muller (1958): two independent normals of standard deviation `scale` from two words. */
TARGET FG_INLINE void normal_pair(words radius_word, words angle_word, floats scale, floats *a, floats *b)
{
    floats r = _mm512_mul_ps(_mm512_sqrt_ps(minus_two_logs(radius_word)), scale), c, s;
    turn(angle_word, &c, &s);
    *a = _mm512_mul_ps(r, c);
    *b = _mm512_mul_ps(r, s);
}

/* Box-Muller of the words of 16 counters. */
TARGET FG_INLINE void normals_of(const words w[4], floats scale, floats x[4])
{
    normal_pair(w[0], w[1], scale, &x[0], &x[1]);
    normal_pair(w[2], w[3], scale, &x[2], &x[3]);
}

#define PANELS normals_v4
#define NUMBERS normals_of
#include "panels.inc"

TARGET static void pairs_v4(FG_PAIRS_ARGS)
{
    for (int64_t j = 0; j < n; j += 16) {
        __mmask16 lanes = n - j >= 16 ? 0xFFFF : (__mmask16)((1u << (n - j)) - 1);
        floats x, y;
        normal_pair(_mm512_maskz_loadu_epi32(lanes, radius + j), _mm512_maskz_loadu_epi32(lanes, angle + j), ALL(1), &x, &y);
        _mm512_mask_storeu_ps(a + j, lanes, x);
        _mm512_mask_storeu_ps(b + j, lanes, y);
    }
}

int64_t fg1_panels_here(void) { return __builtin_cpu_supports("x86-64-v4") != 0; }

void fg1_normals_f32(FG_PANELS_ARGS) { normals_v4(FG_PASS_PANELS); }

void fg1_normal_pairs_f32(FG_PAIRS_ARGS) { pairs_v4(n, radius, angle, a, b); }

#else

int64_t fg1_panels_here(void) { return 0; }

#endif
