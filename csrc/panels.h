/* Random numbers by address (fastgrad/engine/random.py), where vectors of 512 bits make them faster than Numba's loop.
 *
 * Conventions as in products.h: sizes and strides in elements, 64 bits wide; nothing touches Python or keeps state.
 */
#ifndef FASTGRAD_PANELS_H
#define FASTGRAD_PANELS_H

#include <stdint.h>

#include "products.h"   /* FG_EXPORT */

/* A Philox counter and key; word0 runs inside a tensor. */
struct fg_address {
    uint32_t word0, word1, word2, word3, key0, key1;
};

/* Panels of n normals of standard deviation `scale`, or of uniform numbers from -scale to scale, for realizations realization, realization + 1, ...:
 * panel p is written to out[p*ld] ... out[p*ld + 4*ceil(n/4) - 1], whose last few numbers nobody asked for.
 * base: the panel's first counter; layer, role (with part): address words 1 and 3; key: of the seed. */
#define FG_PANELS_ARGS                                                                                             \
    int64_t panels, int64_t n, float *out, int64_t ld, float scale, int64_t base, uint32_t layer, int64_t realization, \
        uint32_t role, uint32_t key0, uint32_t key1
#define FG_PASS_PANELS panels, n, out, ld, scale, base, layer, realization, role, key0, key1

/* a[j], b[j]: the normals of the words radius[j] and angle[j]; for those who want to look at any word's. */
#define FG_PAIRS_ARGS int64_t n, const uint32_t *radius, const uint32_t *angle, float *a, float *b

/* 1 where this machine and this build can run the others. */
FG_EXPORT int64_t fg1_panels_here(void);
FG_EXPORT void fg1_normals_f32(FG_PANELS_ARGS);
FG_EXPORT void fg1_uniforms_f32(FG_PANELS_ARGS);
FG_EXPORT void fg1_normal_pairs_f32(FG_PAIRS_ARGS);

#endif
