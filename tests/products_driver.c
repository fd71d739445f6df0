/* Calls every copy of the C products that this processor can run, on buffers of exactly the size that is theirs, and compares
 * with the plain sum. Built with AddressSanitizer and UBSan by test_native.py; prints the number of cases, exits 1 if wrong. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "products.c"

static unsigned state = 1;
static double number(void)
{
    state = state * 1664525u + 1013904223u;
    return state / 2147483648.0 - 1.0;
}

static long cases, wrong;

#define CHECK(REAL, name, EPSILON)                                                                                  \
    static void check_##name(int64_t B, int64_t M, int64_t K, int64_t gap, int64_t add,                            \
                             void (*transposed)(FG_TRANSPOSED_ARGS(REAL)), void (*dot)(FG_DOT_ARGS(REAL)))          \
    {                                                                                                               \
        const int64_t ldp = M + gap, lda = K + gap, yb = M + gap;                                                   \
        REAL *P = malloc(sizeof(REAL) * (size_t)((K - 1) * ldp + M)), *A = malloc(sizeof(REAL) * (size_t)((M - 1) * lda + K)); \
        REAL *X = malloc(sizeof(REAL) * (size_t)(B * K)), *out = malloc(sizeof(REAL) * (size_t)((B - 1) * yb + M));  \
        for (int64_t j = 0; j < (K - 1) * ldp + M; j++)                                                             \
            P[j] = (REAL)number();                                                                                  \
        for (int64_t j = 0; j < (M - 1) * lda + K; j++)                                                             \
            A[j] = (REAL)number();                                                                                  \
        for (int64_t j = 0; j < B * K; j++)                                                                         \
            X[j] = (REAL)number();                                                                                  \
        for (int form = 0; form < 4; form++) {   /* P with X by rows, P with X by columns, A, P from its last row up */ \
            const int64_t xb = form == 1 ? 1 : K, xk = form == 1 ? B : 1;                                           \
            for (int64_t j = 0; j < (B - 1) * yb + M; j++)                                                          \
                out[j] = 5;                                                                                         \
            if (form < 2)                                                                                           \
                transposed(B, M, K, P, ldp, X, xb, xk, out, yb, add);                                               \
            else if (form == 3)                                                                                     \
                transposed(B, M, K, P + (K - 1) * ldp, -ldp, X, xb, xk, out, yb, add);                              \
            else                                                                                                    \
                dot(B, M, K, A, lda, X, K, out, yb, add);                                                           \
            for (int64_t b = 0; b < B; b++)                                                                         \
                for (int64_t i = 0; i < yb && b * yb + i < (B - 1) * yb + M; i++) {                                 \
                    long double sum = i < M && !add ? 0 : 5;   /* gaps between rows keep what they held */               \
                    for (int64_t k = 0; i < M && k < K; k++)                                                        \
                        sum += (long double)(form == 2 ? A[i * lda + k] : P[(form == 3 ? K - 1 - k : k) * ldp + i]) * X[b * xb + k * xk];   \
                    wrong += !(fabsl(sum - out[b * yb + i]) <= 4 * EPSILON * (K + 5));                   \
                }                                                                                                   \
            cases++;                                                                                                \
        }                                                                                                           \
        free(P), free(A), free(X), free(out);                                                                       \
    }

CHECK(float, f32, 1.2e-7)
CHECK(double, f64, 2.3e-16)

#define CHECK_OUTER(REAL, name, EPSILON)                                                                                     \
    static void check_outer_##name(int64_t B, int64_t M, int64_t N, double (*outer)(FG_OUTER_ARGS(REAL)))           \
    {                                                                                                               \
        REAL *D = malloc(sizeof(REAL) * (size_t)(B * M)), *X = malloc(sizeof(REAL) * (size_t)(B * N));              \
        for (int64_t j = 0; j < B * M; j++)                                                                         \
            D[j] = (REAL)number();                                                                                  \
        for (int64_t j = 0; j < B * N; j++)                                                                         \
            X[j] = (REAL)number();                                                                                  \
        long double sum = 0;                                                                                        \
        for (int64_t i = 0; i < M; i++)                                                                             \
            for (int64_t j = 0; j < N; j++) {                                                                       \
                long double entry = 0;                                                                              \
                for (int64_t b = 0; b < B; b++)                                                                     \
                    entry += (long double)D[b * M + i] * X[b * N + j];                                              \
                sum += entry * entry;                                                                               \
            }                                                                                                       \
        const double fg_value = outer(B, M, N, D, X);                                                               \
        wrong += fg_value != -1.0 && !(fabsl(fg_value - sum) <= 20 * EPSILON * (double)(B * B * M * N));                               \
        for (int64_t j = 0; j < B * M; j++)   /* two rows that cancel but for rounding */                           \
            D[j] = (REAL)(B == 2 ? (j < M ? 1 : -1) : 0);                                                           \
        for (int64_t j = 0; j < B * N; j++)                                                                         \
            X[j] = 1;                                                                                               \
        wrong += B == 2 && outer(B, M, N, D, X) != -1.0;                                                            \
        cases++;                                                                                                    \
        free(D), free(X);                                                                                           \
    }

CHECK_OUTER(float, f32, 1.2e-7)
CHECK_OUTER(double, f64, 2.3e-16)

#define CHECK_SUMS(REAL, name, EPSILON)                                                                                      \
    static void check_sums_##name(int64_t rows, int64_t n, int64_t gap, void (*layer_sums)(FG_SUMS_ARGS(REAL)))     \
    {                                                                                                               \
        const int64_t ld = n + gap, lds = rows + gap, size = (rows - 1) * ld + n;                                   \
        REAL *V[4], *sums = malloc(sizeof(REAL) * (size_t)(7 * lds + rows));   /* h, x, slope, noise */              \
        for (int v = 0; v < 4; v++) {                                                                               \
            V[v] = malloc(sizeof(REAL) * (size_t)size);                                                             \
            for (int64_t j = 0; j < size; j++)                                                                      \
                V[v][j] = (REAL)number();                                                                           \
        }                                                                                                           \
        for (int64_t j = 0; j < 7 * lds + rows; j++)                                                                \
            sums[j] = 5;                                                                                            \
        layer_sums(rows, n, ld, V[0], V[1], V[2], V[3], sums, lds);                                                 \
        for (int64_t r = 0; r < lds; r++) {                                                                         \
            long double want[8] = {0};                                                                              \
            for (int64_t k = r * ld; r < rows && k < r * ld + n; k++) {                                             \
                const long double h = V[0][k], x = V[1][k], w = V[3][k], a = V[2][k] * x, b = V[2][k] * w;          \
                const long double terms[8] = {x * x, x * w, w * w, a * a, a * b, b * b, h * a, h * b};              \
                for (int j = 0; j < 8; j++)                                                                         \
                    want[j] += terms[j];                                                                            \
            }                                                                                                       \
            for (int j = 0; j < 8; j++)                                                                             \
                wrong += r < rows ? !(fabsl(want[j] - sums[j * lds + r]) <= 4 * EPSILON * (n + 5))                  \
                                  : j < 7 && sums[j * lds + r] != 5;   /* gaps keep what they held */                \
        }                                                                                                           \
        cases++;                                                                                                    \
        for (int v = 0; v < 4; v++)                                                                                 \
            free(V[v]);                                                                                             \
        free(sums);                                                                                                 \
    }

CHECK_SUMS(float, f32, 1.2e-7)
CHECK_SUMS(double, f64, 2.3e-16)

#define LEVEL_CASE(level)                                                                                           \
    check_f32(B, M, K, gap, add, transposed_f32_##level, dot_f32_##level);                                          \
    check_f64(B, M, K, gap, add, transposed_f64_##level, dot_f64_##level);                                          \
    check_outer_f32(B, M, K, outer_f32_##level);                                                                    \
    check_outer_f64(B, M, K, outer_f64_##level);                                                                    \
    check_sums_f32(B, K, gap, layer_sums_f32_##level);                                                              \
    check_sums_f64(B, K, gap, layer_sums_f64_##level)

static void all_levels(int64_t B, int64_t M, int64_t K, int64_t gap, int64_t add)
{
    LEVEL_CASE(base);
#ifdef FG_LEVELS
    if (__builtin_cpu_supports("x86-64-v3")) {
        LEVEL_CASE(v3);
    }
    if (__builtin_cpu_supports("x86-64-v4")) {
        LEVEL_CASE(v4);
    }
#endif
}

int main(void)
{
    static const int64_t long_sums[] = {40, 129, 513, 600};
    for (int64_t n = 1; n <= 70; n++) {
        all_levels(1, n, 70 - n + 1, 0, 0);
        all_levels(1 + n % 9, n, 1 + n * 7 % 40, n % 3, n & 1);
        all_levels(1 + n % 9, 1 + n * 11 % 60, n, n % 2, n & 1);
    }
    for (int64_t M = 100; M <= 600; M += 83)
        for (int k = 0; k < 4; k++)
            all_levels(1 + M % 7, M, long_sums[k], k, k & 1);
    for (int64_t B = 16; B <= 19; B++)   /* rows in blocks, the next asked for */
        for (int k = 0; k < 3; k++)
            all_levels(B, 100 + 7 * k, long_sums[k], k, k & 1);
    all_levels(67, 40, 129, 1, 0);
    printf("%ld cases, %ld wrong\n", cases, wrong);
    return wrong != 0;
}
