/* What every copy of the products shares: inlining, unrolling, choice of instruction sets.
 *
 * Why copies by #include and not __attribute__((target_clones)): clones share one source, hence one vector width and
 * one tile, but AVX-512 has 32 registers of 64 bytes and AVX2 has 16 of 32. A tile made for the one spills in the other.
 */
#ifndef FASTGRAD_VECTORS_H
#define FASTGRAD_VECTORS_H

#define FG_INLINE static inline __attribute__((always_inline))
/* Kept out of line, so that one path's registers and stack frame are not paid for by the others. */
#define FG_APART static __attribute__((noinline))
#define FG_PASTE_(a, b, c) a##_##b##_##c
#define FG_PASTE(a, b, c) FG_PASTE_(a, b, c)

/* Loops over the registers of a tile: the compiler must unroll them whole, or the tile lives in memory. Four turns: a loop whose counting shows
 * beside its work. */
#if defined(__clang__)
#define FG_UNROLL _Pragma("clang loop unroll(full)")
#define FG_FOUR_TURNS _Pragma("clang loop unroll_count(4)")
#else
#define FG_UNROLL _Pragma("GCC unroll 32")
#define FG_FOUR_TURNS _Pragma("GCC unroll 4")
#endif

/* CALL(n) with n a constant equal to the variable nv, 1 <= nv <= most. FG_ONE_COPY, for sanitizers, leaves nv a variable: the
 * same source in a fraction of the time to compile. */
#ifdef FG_ONE_COPY
#define FG_WITH_CONSTANT(nv, most, CALL) CALL(nv)
#else
#define FG_WITH_CONSTANT(nv, most, CALL) switch (nv) { FG_LIST(CASES, most)(CALL) }
#endif
#define FG_CASE(n, CALL) case n: CALL(n); break;
#define FG_CASES_3(CALL) FG_CASE(1, CALL) FG_CASE(2, CALL) FG_CASE(3, CALL)
#define FG_CASES_6(CALL) FG_CASES_3(CALL) FG_CASE(4, CALL) FG_CASE(5, CALL) FG_CASE(6, CALL)
#define FG_CASES_8(CALL) FG_CASES_6(CALL) FG_CASE(7, CALL) FG_CASE(8, CALL)
#define FG_CASES_12(CALL) FG_CASES_8(CALL) FG_CASE(9, CALL) FG_CASE(10, CALL) FG_CASE(11, CALL) FG_CASE(12, CALL)
#define FG_CASES_16(CALL) FG_CASES_12(CALL) FG_CASE(13, CALL) FG_CASE(14, CALL) FG_CASE(15, CALL) FG_CASE(16, CALL)

/* Several instruction sets in one library need ifunc, that is ELF and glibc, and a compiler that knows the levels
 * x86-64-v3 (AVX2, FMA) and x86-64-v4 (AVX-512) by name. Elsewhere the compiler's default is all there is. */
#if defined(__x86_64__) && defined(__ELF__) && defined(__GLIBC__) && !defined(FG_BASELINE_ONLY)
#if defined(__clang__) ? __clang_major__ >= 17 : __GNUC__ >= 12
#define FG_LEVELS 1
#endif
#endif

/* a x + sum with one rounding, by name. Left to contraction, a compiler fuses the pair in one copy of a loop and not in
 * another (gcc 12: not across a branch), and then bytes depend on which copy ran; so contraction is off. */
#if defined(__aarch64__)
#include <arm_neon.h>
#define FG_FUSED_16_F32(a, x, sum) vfmaq_f32(sum, a, x)
#define FG_FUSED_16_F64(a, x, sum) vfmaq_f64(sum, a, x)
#else
#define FG_FUSED_16_F32(a, x, sum) ((a) * (x) + (sum))
#define FG_FUSED_16_F64(a, x, sum) ((a) * (x) + (sum))
#endif
#ifdef FG_LEVELS
#include <immintrin.h>
#endif

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define FG_SHUFFLE 1
#endif
#endif

/* Index lists that pick every second lane of two vectors laid end to end. */
#define FG_EVEN_2 0, 2
#define FG_EVEN_4 0, 2, 4, 6
#define FG_EVEN_8 0, 2, 4, 6, 8, 10, 12, 14
#define FG_EVEN_16 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define FG_ODD_2 1, 3
#define FG_ODD_4 1, 3, 5, 7
#define FG_ODD_8 1, 3, 5, 7, 9, 11, 13, 15
#define FG_ODD_16 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#define FG_LIST_(name, lanes) FG_##name##_##lanes
#define FG_LIST(name, lanes) FG_LIST_(name, lanes)

#endif
