/* Draws panels of every small size into buffers of exactly the size that is theirs, pairs from buffers of exactly theirs, and takes tanh and the
 * sums of layers from such. Built with AddressSanitizer and UBSan by test_panels.py; prints the number of cases, exits 1 if a number is not one. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "normals.c"
#include "uniforms.c"
#include "tanh.c"
#include "tanh_sums.c"

static long cases, wrong;

static void check(float x)
{
    cases++;
    wrong += !(fabsf(x) < 6.77f && x != 0);
}

#ifdef FG_LEVELS
static void check_tanh(int64_t n)
{
    enum { ROWS = 3 };
    const int64_t ld = n + 1, size = (ROWS - 1) * ld + n;   /* the last row ends with its buffer */
    float *z = malloc(sizeof(float) * (size_t)size), *w = malloc(sizeof(float) * (size_t)size), *bias = malloc(sizeof(float) * (size_t)size);
    float *x = malloc(sizeof(float) * (size_t)size), *slope = malloc(sizeof(float) * (size_t)size), *sums = malloc(sizeof(float) * 8 * ROWS);
    const double spread[ROWS] = {0.5, 1, 2};
    for (int64_t j = 0; j < size; j++) {
        z[j] = (float)(j % 7) - 2.5f;
        w[j] = (float)(j % 5) - 1.5f;
        bias[j] = 0;
    }
    fg1_tanh_f32(z, bias, x, slope, size);
    for (int64_t j = 0; j < size; j++)
        check(x[j]), check(slope[j]);
    fg1_tanh_cell_f32(z, 0, x, slope, size, 0, 0);
    for (int64_t j = 0; j < size; j++)
        check(x[j]), check(slope[j]);
    fg1_tanh_sums_f32(z, spread, w, sums, ROWS, n, ld, ROWS);
    for (int r = 0; r < ROWS; r++) {
        double squares = 0;
        for (int64_t j = 0; j < n; j++)
            squares += pow(tanh(spread[r] * z[r * ld + j]), 2);
        cases++;
        wrong += !(fabs(sums[r] - squares) < 1e-5 * squares);
    }
    free(z), free(w), free(bias), free(x), free(slope), free(sums);
}
#endif

int main(void)
{
    if (!fg1_panels_here()) {
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
        fg1_uniforms_f32(3, n, out, gap, 1, 4294967290, 4294967295u, 281474976710654, 0xFF000000u, 1, 2);
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
        check_tanh(n);
    }
#endif
    printf("%ld cases, %ld wrong\n", cases, wrong);
    return wrong != 0;
}
