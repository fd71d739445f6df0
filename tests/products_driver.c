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

/* A cell with two states and three pre-activations for two gates: every array it is given is read and written from end to end. */
#define CHECK_STEPS(REAL, name, EPSILON)                                                                                     \
    static void forward_cell_##name(const REAL *pre, const REAL *state, REAL *new_state, REAL *local, int64_t n, int64_t gap, int64_t paired) \
    {                                                                                                               \
        for (int64_t j = 0; j < n; j++) {                                                                           \
            new_state[j] = (pre[j] + pre[n + j] + pre[2 * n + j] + state[j]) / 8;                                   \
            new_state[gap + j] = state[gap + j] / 2;                                                                \
            local[j] = pre[j] / 4;                                                                                  \
        }                                                                                                           \
        wrong += paired != 0;                                                                                       \
    }                                                                                                               \
    static void backward_cell_##name(const REAL *gradient, const REAL *local, REAL *d_pre, REAL *before, REAL *total, int64_t n, \
                                     int64_t gap, int64_t whole)                                                    \
    {                                                                                                               \
        for (int64_t j = 0; j < n; j++) {                                                                           \
            d_pre[j] = gradient[j] * local[j];                                                                      \
            d_pre[n + j] = gradient[gap + j];                                                                       \
            d_pre[2 * n + j] = 1;                                                                                   \
            before[j] = gradient[j] / 2;                                                                            \
            before[gap + j] = gradient[gap + j] / 4;                                                                \
            total[j] = gradient[j] + gradient[gap + j];                                                             \
        }                                                                                                           \
        wrong += whole != 1;                                                                                        \
    }                                                                                                               \
    static void check_steps_##name(int64_t B, int64_t H, int64_t gap, int turned, int turning,                      \
                                   void (*forward)(FG_FORWARD_STEPS_ARGS(REAL)),                                    \
                                   int64_t (*backward)(FG_BACKWARD_STEPS_ARGS(REAL)))                               \
    {                                                                                                               \
        enum { STEPS = 5 };                                                                                         \
        const int64_t M = 2 * H, units = B * H, size = 2 * units, rows = STEPS * B * 3 * H, state_gap = (STEPS + 1) * units; \
        const int64_t weights = (H - 1) * (M + gap) + M, weights_back = (M - 1) * (H + gap) + H;                    \
        REAL *P = malloc(sizeof(REAL) * (size_t)weights), *W = malloc(sizeof(REAL) * (size_t)weights_back);         \
        REAL *pre = malloc(sizeof(REAL) * (size_t)rows), *start = malloc(sizeof(REAL) * (size_t)rows);              \
        REAL *state = malloc(sizeof(REAL) * (size_t)(2 * state_gap)), *local = malloc(sizeof(REAL) * (size_t)(STEPS * units)); \
        REAL *gradient = malloc(sizeof(REAL) * (size_t)((STEPS + 1) * size)), *d_pre = malloc(sizeof(REAL) * (size_t)rows);    \
        REAL *total = malloc(sizeof(REAL) * (size_t)(STEPS * units));                                               \
        for (int64_t j = 0; j < weights; j++)                                                                       \
            P[j] = (REAL)(number() / (double)H);                                                                    \
        for (int64_t j = 0; j < weights_back; j++)                                                                  \
            W[j] = (REAL)(number() / (double)H);                                                                    \
        for (int64_t j = 0; j < rows; j++)                                                                          \
            pre[j] = start[j] = (REAL)number();                                                                     \
        for (int64_t j = 0; j < 2 * state_gap; j++)                                                                 \
            state[j] = (REAL)number();                                                                              \
        for (int64_t j = 0; j < (STEPS + 1) * size; j++)                                                            \
            gradient[j] = (REAL)number();                                                                           \
        forward(P, state, pre, state, local, (int64_t)(intptr_t)forward_cell_##name, STEPS, B, H, M, M + gap, 3 * H, H, state_gap, 0, turned, \
                turning);                                                                                           \
        for (int64_t r = 0; r < STEPS * B; r++)                                                                     \
            for (int64_t i = 0; i < 3 * H; i++) {                                                                   \
                long double sum = start[r * 3 * H + i];                                                             \
                for (int64_t k = 0; i < M && k < H; k++)                                                            \
                    sum += (long double)P[k * (M + gap) + i] * state[r * H + k];                                    \
                wrong += !(fabsl(sum - pre[r * 3 * H + i]) <= 8 * EPSILON);                                         \
            }                                                                                                       \
        wrong += backward(W, gradient + STEPS * size, local + (STEPS - 1) * units, d_pre + rows - B * 3 * H, total + (STEPS - 1) * units,     \
                          (int64_t)(intptr_t)backward_cell_##name, STEPS, B, H, M, H + gap, 3 * H, H, units, size, B * 3 * H, 1, turned,      \
                          turning, 1 << 20) != STEPS;                                                               \
        for (int64_t s = 0; s < STEPS; s++)                                                                         \
            for (int64_t r = 0; r < units; r++) {                                                                   \
                const REAL *now = gradient + (s + 1) * size, *d = d_pre + (s * B + r / H) * 3 * H;                  \
                long double sum = (long double)now[r] / 2;                                                          \
                for (int64_t k = 0; k < M; k++)                                                                     \
                    sum += (long double)d[k] * W[k * (H + gap) + r % H];                                            \
                wrong += !(fabsl(sum - gradient[s * size + r]) <= 8 * EPSILON);                                     \
                wrong += gradient[s * size + units + r] != now[units + r] / 4 || total[s * units + r] != now[r] + now[units + r];             \
            }                                                                                                       \
        gradient[STEPS * size + size - 1] = (REAL)1e30;   /* leaves the window at once, by the second state alone */      \
        wrong += backward(W, gradient + STEPS * size, local + (STEPS - 1) * units, d_pre, total + (STEPS - 1) * units,   \
                          (int64_t)(intptr_t)backward_cell_##name, STEPS, B, H, 0, H + gap, 3 * H, H, units, size, 0, 1, turned,   \
                          turning, 1 << 20) != -1;                                                                  \
        cases++;                                                                                                    \
        free(P), free(W), free(pre), free(start), free(state), free(local), free(gradient), free(d_pre), free(total);                          \
    }                                                                                                               \
    static void check_window_##name(int64_t n, int (*inside)(const REAL *, int64_t, int64_t))                       \
    {                                                                                                               \
        const REAL window = 1 << 20, entries[] = {1, window, 1 / window, 0, NAN, INFINITY, window * (1 + 4 * (REAL)EPSILON), \
                                                  (1 - 4 * (REAL)EPSILON) / window};                                \
        REAL *x = malloc(sizeof(REAL) * (size_t)n);                                                                 \
        for (int e = 0; e < 8; e++)                                                                                 \
            for (int64_t at = 0; at < n; at++) {                                                                    \
                for (int64_t j = 0; j < n; j++)                                                                     \
                    x[j] = 0;                                                                                       \
                x[at] = at % 2 ? entries[e] : -entries[e];                                                          \
                wrong += inside(x, n, 1 << 20) != (e < 3);                                                          \
                cases++;                                                                                            \
            }                                                                                                       \
        free(x);                                                                                                    \
    }

CHECK_STEPS(float, f32, 1.2e-7)
CHECK_STEPS(double, f64, 2.3e-16)

#define LEVEL_STEPS(level)                                                                                          \
    check_steps_f32(B, H, gap, turn & 1, turn >> 1, forward_steps_f32_##level, backward_steps_f32_##level);         \
    check_steps_f64(B, H, gap, turn & 1, turn >> 1, forward_steps_f64_##level, backward_steps_f64_##level);         \
    check_window_f32(H, inside_f32_##level);                                                                        \
    check_window_f64(H, inside_f64_##level)

/* CHECKS(level) for every instruction set that was compiled and that this processor has. */
#ifdef FG_LEVELS
#define EVERY_LEVEL(CHECKS)                                                                                         \
    CHECKS(base);                                                                                                   \
    if (__builtin_cpu_supports("x86-64-v3")) {                                                                      \
        CHECKS(v3);                                                                                                 \
    }                                                                                                               \
    if (__builtin_cpu_supports("x86-64-v4")) {                                                                      \
        CHECKS(v4);                                                                                                 \
    }
#else
#define EVERY_LEVEL(CHECKS) CHECKS(base);
#endif

static void steps_of_all_levels(int64_t B, int64_t H, int64_t gap, int turn)
{
    EVERY_LEVEL(LEVEL_STEPS)
}

#define CHECK_TRANSPOSE(REAL, name)                                                                                      \
    static void check_transpose_##name(int64_t rows, int64_t columns, int64_t gap, void (*transpose)(FG_TRANSPOSE_ARGS(REAL)))     \
    {                                                                                                               \
        const int64_t ldf = columns + gap, ldt = rows + 2 * gap;                                                    \
        const int64_t size = (rows - 1) * ldf + columns, turned = (columns - 1) * ldt + rows;                       \
        REAL *from = malloc(sizeof(REAL) * (size_t)size), *to = malloc(sizeof(REAL) * (size_t)turned);              \
        for (int64_t j = 0; j < size; j++)                                                                          \
            from[j] = (REAL)number();                                                                               \
        for (int64_t j = 0; j < turned; j++)                                                                        \
            to[j] = 5;                                                                                              \
        transpose(rows, columns, from, ldf, to, ldt);                                                                    \
        for (int64_t j = 0; j < turned; j++)   /* gaps keep what they held */                                       \
            wrong += to[j] != (j % ldt < rows ? from[j % ldt * ldf + j / ldt] : 5);                                 \
        cases++;                                                                                                    \
        free(from), free(to);                                                                                       \
    }

CHECK_TRANSPOSE(float, f32)
CHECK_TRANSPOSE(double, f64)

#define LEVEL_CASE(level)                                                                                           \
    check_f32(B, M, K, gap, add, transposed_f32_##level, dot_f32_##level);                                          \
    check_f64(B, M, K, gap, add, transposed_f64_##level, dot_f64_##level);                                          \
    check_outer_f32(B, M, K, outer_f32_##level);                                                                    \
    check_outer_f64(B, M, K, outer_f64_##level);                                                                    \
    check_sums_f32(B, K, gap, layer_sums_f32_##level);                                                              \
    check_sums_f64(B, K, gap, layer_sums_f64_##level);                                                              \
    check_transpose_f32(M, K, gap, transpose_f32_##level);                                                                    \
    check_transpose_f64(M, K, gap, transpose_f64_##level)

static void all_levels(int64_t B, int64_t M, int64_t K, int64_t gap, int64_t add)
{
    EVERY_LEVEL(LEVEL_CASE)
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
    for (int64_t H = 1; H <= 40; H++)
        steps_of_all_levels(1 + H % 3, H, H % 4, (int)(H % 4));
    printf("%ld cases, %ld wrong\n", cases, wrong);
    return wrong != 0;
}
