/* Normals of a panel with 512-bit vectors: Philox4x32-10 words, then Box-Muller.
 *
 * The numbers are those of fastgrad/engine/random.py, from the same bits: a panel of n takes Q = ceil(n/4) counters, number k is word k / Q
 * of counter k % Q, words 0 and 1 make one Box-Muller pair, words 2 and 3 the other. The float32 results differ from Numba's in the last
 * digits, because logarithm, sine and cosine come from tables here: a table of 16 or 32 numbers is one register and one instruction (AVX-512),
 * and saves half of the polynomials. Elsewhere the loop in random.py runs.
 */

#include "normals.h"
#include "wide.h"

/* One block's words and the block before's normals have nothing to do with one another. Left in source order each waits for its own chain of
 * operations; the compiler is told to interleave them (measured: a quarter less, with spills and all). */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("schedule-insns")
#endif

#ifdef FG_LEVELS

/* ---- bits -------------------------------------------------------------------------------------------------------- */

/* The high half of a 64-bit lane into its low half; what stays in the high half is rubbish, which no product reads. */
#define HIGH(product) _mm512_shuffle_epi32(product, _MM_PERM_DDBB)
#define XOR3(a, b, c) _mm512_ternarylogic_epi64(a, b, c, 0x96)
/* Lanes of even and of odd counters, in order. */
#define IN_ORDER(even, odd) _mm512_mask_shuffle_epi32(even, 0xAAAA, odd, _MM_PERM_CCAA)

TARGET FG_INLINE void philox_round(words c[4], words key0, words key1)
{
    words p0 = _mm512_mul_epu32(c[0], _mm512_set1_epi64(0xD2511F53));
    words p1 = _mm512_mul_epu32(c[2], _mm512_set1_epi64(0xCD9E8D57));
    c[0] = XOR3(HIGH(p1), c[1], key0);
    c[2] = XOR3(HIGH(p0), c[3], key1);
    c[1] = p1;
    c[3] = p0;
}

/* The words 0 to 3 after two rounds, of which the first needs no product of vectors but one, and the second another: the counters of a panel differ
 * in word 0 alone. */
TARGET FG_INLINE void first_rounds(words c0, const uint64_t *fixed, words c[4])
{
    words p0 = _mm512_mul_epu32(c0, _mm512_set1_epi64(0xD2511F53));
    words c2 = _mm512_xor_epi64(HIGH(p0), _mm512_set1_epi64(fixed[0]));
    words p1 = _mm512_mul_epu32(c2, _mm512_set1_epi64(0xCD9E8D57));
    c[0] = _mm512_xor_epi64(HIGH(p1), _mm512_set1_epi64(fixed[1]));
    c[1] = p1;
    c[2] = _mm512_xor_epi64(p0, _mm512_set1_epi64(fixed[2]));
    c[3] = _mm512_set1_epi64(fixed[3]);
}

/* The four words of 16 counters, even ones in even[0] and odd ones in odd[0]. */
TARGET FG_INLINE void philox(words even0, words odd0, struct fg_address at, words w[4])
{
    const uint64_t p1 = (uint64_t)at.word2 * 0xCD9E8D57;
    const uint32_t c0 = (uint32_t)(p1 >> 32) ^ at.word1 ^ at.key0, c1 = (uint32_t)p1;
    const uint64_t p0 = (uint64_t)c0 * 0xD2511F53;
    uint32_t key0 = at.key0 + 0x9E3779B9, key1 = at.key1 + 0xBB67AE85;
    const uint64_t fixed[4] = {at.word3 ^ at.key1, c1 ^ key0, (uint32_t)(p0 >> 32) ^ key1, (uint32_t)p0};
    words even[4], odd[4];
    first_rounds(even0, fixed, even);
    first_rounds(odd0, fixed, odd);
    FG_UNROLL
    for (int round = 2; round < 10; round++) {
        key0 += 0x9E3779B9;
        key1 += 0xBB67AE85;
        words k0 = _mm512_set1_epi64(key0), k1 = _mm512_set1_epi64(key1);
        philox_round(even, k0, k1);
        philox_round(odd, k0, k1);
    }
    FG_UNROLL
    for (int i = 0; i < 4; i++)
        w[i] = IN_ORDER(even[i], odd[i]);
}

/* ---- words to normals -------------------------------------------------------------------------------------------- */

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

/* ---- panels ------------------------------------------------------------------------------------------------------ */

TARGET FG_INLINE void put(float *to, floats value, int64_t lanes)
{
    if (lanes >= 16)
        _mm512_storeu_ps(to, value);
    else
        _mm512_mask_storeu_ps(to, (__mmask16)((1u << lanes) - 1), value);
}

/* Box-Muller of the words of 16 counters, to where a panel with Q counters in all has them: `left` of them are its own. */
TARGET FG_INLINE void finish(const words w[4], floats scale, float *to, int64_t Q, int64_t left)
{
    floats normal[4];
    normal_pair(w[0], w[1], scale, &normal[0], &normal[1]);
    normal_pair(w[2], w[3], scale, &normal[2], &normal[3]);
    FG_UNROLL
    for (int i = 0; i < 4; i++)
        put(to + i * Q, normal[i], left);
}

TARGET static void normals_v4(FG_NORMALS_ARGS)
{
    const int64_t Q = (n + 3) / 4;
    const words first = _mm512_add_epi64(_mm512_set1_epi64((uint32_t)base), _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14));
    struct fg_address at = {0, layer, (uint32_t)realization, role | (uint32_t)((uint64_t)realization >> 32 & 0xFFFF), key0, key1};
    words even = first, w[4];
    int64_t p = 0, q = 0;
    if (panels <= 0 || n <= 0)
        return;
    philox(even, _mm512_add_epi64(even, _mm512_set1_epi64(1)), at, w);
    for (;;) {
        words now[4] = {w[0], w[1], w[2], w[3]};
        float *to = out + p * ld + q;
        const int64_t left = Q - q;
        q += 16;
        even = _mm512_add_epi64(even, _mm512_set1_epi64(16));
        if (q >= Q) {
            if (++p == panels) {
                finish(now, ALL(scale), to, Q, left);
                return;
            }
            const uint64_t r = (uint64_t)(realization + p);
            at.word2 = (uint32_t)r;
            at.word3 = role | (uint32_t)(r >> 32 & 0xFFFF);
            q = 0;
            even = first;
        }
        philox(even, _mm512_add_epi64(even, _mm512_set1_epi64(1)), at, w);
        finish(now, ALL(scale), to, Q, left);
    }
}

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

int64_t fg1_normals_here(void) { return __builtin_cpu_supports("x86-64-v4") != 0; }

void fg1_normals_f32(FG_NORMALS_ARGS) { normals_v4(FG_PASS_NORMALS); }

void fg1_normal_pairs_f32(FG_PAIRS_ARGS) { pairs_v4(n, radius, angle, a, b); }

#else

int64_t fg1_normals_here(void) { return 0; }

#endif
