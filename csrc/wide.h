/* What the files written with 512-bit intrinsics share: when they are compiled at all, and short names. */
#ifndef FASTGRAD_WIDE_H
#define FASTGRAD_WIDE_H

#include <limits.h>   /* glibc's features.h, by which __GLIBC__ is known */
#include <stdint.h>

#include "vectors.h"

#ifdef FG_LEVELS

#define TARGET __attribute__((target("arch=x86-64-v4")))
#define ALL(x) _mm512_set1_ps(x)

typedef __m512i words;   /* 16 words, or 8 in the low halves of 64-bit lanes */
typedef __m512 floats;

#endif
#endif
