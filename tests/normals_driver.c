/* Draws panels of every small size into buffers of exactly the size that is theirs, and pairs from buffers of exactly theirs. Built with
 * AddressSanitizer and UBSan by test_normals.py; prints the number of cases, exits 1 if a number is not one. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "normals.c"

static long cases, wrong;

static void check(float x)
{
    cases++;
    wrong += !(fabsf(x) < 6.77f && x != 0);
}

int main(void)
{
    if (!fg1_normals_here()) {
        puts("none here");
        return 0;
    }
#ifdef FG_LEVELS
    for (int64_t n = 1; n < 200; n++) {
        const int64_t gap = (n + 3) / 4 * 4;
        float *out = malloc(sizeof(float) * (size_t)(3 * gap));
        fg1_normals_f32(3, n, out, gap, 1, 4294967290, 4294967295u, 281474976710654, 0xFF000000u, 1, 2);
        for (int64_t j = 0; j < 3 * gap; j++)
            check(out[j]);
        free(out);
        uint32_t *words = malloc(sizeof(uint32_t) * (size_t)(2 * n));
        float *pairs = malloc(sizeof(float) * (size_t)(2 * n));
        for (int64_t j = 0; j < 2 * n; j++)
            words[j] = (uint32_t)j * 2654435761u;
        fg1_normal_pairs_f32(n, words, words + n, pairs, pairs + n);
        for (int64_t j = 0; j < 2 * n; j++)
            check(pairs[j]);
        free(words);
        free(pairs);
    }
#endif
    printf("%ld cases, %ld wrong\n", cases, wrong);
    return wrong != 0;
}
