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

/* Loops over the registers of a tile: the compiler must unroll them whole, or the tile lives in memory. */
#if defined(__clang__)
#define FG_UNROLL _Pragma("clang loop unroll(full)")
#else
#define FG_UNROLL _Pragma("GCC unroll 32")
#endif

/* Several instruction sets in one library need ifunc, that is ELF and glibc, and a compiler that knows the levels
 * x86-64-v3 (AVX2, FMA) and x86-64-v4 (AVX-512) by name. Elsewhere the compiler's default is all there is. */
#if defined(__x86_64__) && defined(__ELF__) && defined(__GLIBC__) && !defined(FG_BASELINE_ONLY)
#if defined(__clang__) ? __clang_major__ >= 17 : __GNUC__ >= 12
#define FG_LEVELS 1
#endif
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
