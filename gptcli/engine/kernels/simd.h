// The vocabulary in which the kernels are written: vectors of LANES floats, by the compiler's vector
// extensions, and the few operations that need an instruction of their own (simd_*.h).
//
// 16 partial sums are PARTS vectors. Every operation rounds as IEEE 754 says, so that it gives the
// same bits at each width; fma() is the only fused one (-ffp-contract=off).
#ifndef GPTCLI_SIMD_H
#define GPTCLI_SIMD_H

#include <math.h>
#include <string.h>
#include "engine.h"

#define INLINE static inline __attribute__((always_inline))
#define PARTS (BLOCK / LANES)

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));
typedef uint16_t vh __attribute__((vector_size(2 * LANES)));  // 16-bit floats as they are stored
typedef int8_t vb __attribute__((vector_size(4 * LANES)));    // 4 bytes for each lane
typedef int8_t vq __attribute__((vector_size(LANES)));        // a byte for each lane

INLINE vf load(const float *p) { vf v; memcpy(&v, p, sizeof v); return v; }
INLINE vi load_ints(const int32_t *p) { vi v; memcpy(&v, p, sizeof v); return v; }
INLINE vb load_bytes(const void *p) { vb v; memcpy(&v, p, sizeof v); return v; }
INLINE vh load_halves(const uint16_t *p) { vh v; memcpy(&v, p, sizeof v); return v; }
INLINE void store(float *p, vf v) { memcpy(p, &v, sizeof v); }
INLINE vf set(float x) { return x - (vf){0}; }
INLINE vi set_int(int32_t x) { return x - (vi){0}; }
INLINE vf to_float(vi v) { return __builtin_convertvector(v, vf); }
INLINE vf choose(vi mask, vf yes, vf no) { return (vf)((mask & (vi)yes) | (~mask & (vi)no)); }
INLINE vf larger(vf a, vf b) { return choose(a > b, a, b); }  // b where a is NaN

// Asks for weights that are used soon. Processors see by themselves what is read in order, but not as
// early: this alone took decoding from two thirds of what a plain read reaches to above it.
INLINE void prefetch(const void *p) { __builtin_prefetch((const char *)p + 16384, 0, 2); }

#if defined(BUILD_avx2)
#include "simd_avx2.h"
#elif defined(BUILD_avx512) || defined(BUILD_vnni) || defined(BUILD_amx)
#include "simd_avx512.h"
#elif defined(BUILD_neon) || defined(BUILD_neondot)
#include "simd_neon.h"
#else
#include "simd_plain.h"
#endif

// The sum of 16 partial sums: j with j + 8, + 4, + 2, + 1.
INLINE float sum(const vf parts[PARTS])
{
    float s[BLOCK];
    memcpy(s, parts, sizeof s);
    for (int half = BLOCK / 2; half > 0; half /= 2)
        for (int j = 0; j < half; j++) s[j] = s[j] + s[j + half];
    return s[0];
}

// CALL(count) for a count of 1 to 6, each compiled for itself: sums then stay in registers.
#define KNOWN_COUNT(count, CALL) \
    switch (count) { \
    case 1: CALL(1); break; \
    case 2: CALL(2); break; \
    case 3: CALL(3); break; \
    case 4: CALL(4); break; \
    case 5: CALL(5); break; \
    case 6: CALL(6); break; \
    }

// LANES weights as floats; `n` < LANES of them at the end of a row, then zeros.
INLINE vf load_as(int type, const void *row, int64_t at)
{
    if (type == F32) return load((const float *)row + at);
    vh v = load_halves((const uint16_t *)row + at);
    return type == BF16 ? widen_bf16(v) : widen_f16(v);
}

INLINE vf load_some(int type, const void *row, int64_t at, int64_t n)
{
    uint32_t some[LANES] = {0};
    const size_t item = type == F32 ? 4 : 2;
    if (n > 0) memcpy(some, (const char *)row + at * item, (n < LANES ? n : LANES) * item);
    return load_as(type, some, 0);
}

#endif
