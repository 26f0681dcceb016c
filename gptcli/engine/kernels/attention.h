// Attention of some queries of one sequence in one head.
//
// Keys lie in blocks of 16 positions, (D, 16) each, so that 16 scores are the lanes of a vector:
// partial sum j of a score is a chain over d = j, j + 16, ..., and the 16 chains are added in the
// order of every matmul. Values are added position by position, one multiply-add each.
#ifndef GPTCLI_ATTENTION_H
#define GPTCLI_ATTENTION_H

#include "vmath.h"

enum { QUERIES = 4 };  // that share the loads of a key or value

typedef struct {
    vf v[QUERIES];
} lanes_of_queries;

// Partial sum j of T scores each for LANES positions.
INLINE lanes_of_queries chain(int T, int j, const float *const q[], const float *keys, int D)
{
    lanes_of_queries s;
    for (int t = 0; t < T; t++) s.v[t] = (vf){0};
    for (int d = j; d < D; d += BLOCK) {
        vf k = load(keys + d * BLOCK);
        for (int t = 0; t < T; t++) s.v[t] = fma_(set(q[t][d]), k, s.v[t]);
    }
    return s;
}

INLINE lanes_of_queries plus(int T, lanes_of_queries a, lanes_of_queries b)
{
    for (int t = 0; t < T; t++) a.v[t] = a.v[t] + b.v[t];
    return a;
}

// The tree over 16 chains: j with j + 8, then + 4, + 2, + 1.
INLINE lanes_of_queries add2(int T, int j, const float *const q[], const float *keys, int D)
{
    return plus(T, chain(T, j, q, keys, D), chain(T, j + 8, q, keys, D));
}
INLINE lanes_of_queries add4(int T, int j, const float *const q[], const float *keys, int D)
{
    return plus(T, add2(T, j, q, keys, D), add2(T, j + 4, q, keys, D));
}
INLINE lanes_of_queries add8(int T, int j, const float *const q[], const float *keys, int D)
{
    return plus(T, add4(T, j, q, keys, D), add4(T, j + 2, q, keys, D));
}

// Asks for the next keys and for these positions' values: a single query waits for memory, not for sums.
INLINE void prefetch_attention(const float *keys, const float *values, int D)
{
    for (int i = 0; i < BLOCK * D; i += 16) {  // a line of 64 bytes
        __builtin_prefetch(keys + BLOCK * D + i, 0, 3);
        __builtin_prefetch(values + i, 0, 2);
    }
}

// Scores of T queries at positions [0, end), to whole blocks, `stride` apart.
INLINE void scores_as(int T, const float *const q[], const float *keys, const float *values, int D, int64_t end,
                      float scale, float *to, int64_t stride)
{
    for (int64_t at = 0; at < end; at += LANES) {
        if (T == 1 && at % BLOCK == 0) prefetch_attention(keys + at * D, values + at * D, D);
        const float *k = keys + at / BLOCK * BLOCK * D + at % BLOCK;
        lanes_of_queries s = plus(T, add8(T, 0, q, k, D), add8(T, 1, q, k, D));
        for (int t = 0; t < T; t++) store(to + t * stride + at, s.v[t] * scale);
    }
}

// `end` scores, padded to whole blocks → their shares: e^(score - largest) times the sum's reciprocal.
static void softmax(float *scores, int64_t end)
{
    const int64_t padded = round_up(end, BLOCK);
    for (int64_t i = end; i < padded; i++) scores[i] = -INFINITY;
    vf most = load(scores);
    for (int64_t i = LANES; i < padded; i += LANES) most = larger(most, load(scores + i));
    float largest = most[0];
    for (int i = 1; i < LANES; i++) largest = most[i] > largest ? most[i] : largest;
    vf sums[PARTS] = {{0}};
    for (int64_t i = 0; i < padded; i += BLOCK)
        for (int p = 0; p < PARTS; p++) {
            vf e = vexp(load(scores + i + p * LANES) - largest);
            store(scores + i + p * LANES, e);
            sums[p] = sums[p] + e;
        }
    const float reciprocal = 1.0f / sum(sums);
    for (int64_t i = 0; i < padded; i += LANES) store(scores + i, load(scores + i) * reciprocal);
}

// Adds positions [from, to) of `width` vectors of the values, by their shares, to T sums.
INLINE void values_as(int T, int width, const float *shares, int64_t stride, const float *values, int64_t padded,
                      int64_t from, int64_t to, vf s[QUERIES][4])
{
    for (int64_t at = from; at < to; at++) {
        vf v[4];
        for (int i = 0; i < width; i++) v[i] = load(values + at * padded + i * LANES);
        for (int t = 0; t < T; t++) {
            vf share = set(shares[t * stride + at]);
            for (int i = 0; i < width; i++) s[t][i] = fma_(share, v[i], s[t][i]);
        }
    }
}

// `width` vectors of the output of T queries, of which query t looks at `ends[t]` positions.
INLINE void weighted(int T, int width, const float *shares, int64_t stride, const float *values, int64_t padded,
                     const int64_t *ends, float *const to[])
{
    vf s[QUERIES][4];
    for (int t = 0; t < T; t++)
        for (int i = 0; i < width; i++) s[t][i] = (vf){0};
    values_as(T, width, shares, stride, values, padded, 0, ends[0], s);
    for (int t = 1; t < T; t++)  // later queries look further
        values_as(1, width, shares + t * stride, stride, values, padded, ends[0], ends[t], s + t);
    for (int t = 0; t < T; t++)
        for (int i = 0; i < width; i++) store(to[t] + i * LANES, s[t][i]);
}

INLINE void attend_as(int T, int D, const float *const q[], const float *keys, const float *values,
                      const int64_t *ends, float scale, float *scores, int64_t stride, float *const to[])
{
    scores_as(T, q, keys, values, D, ends[T - 1], scale, scores, stride);
    for (int t = 0; t < T; t++) softmax(scores + t * stride, ends[t]);
    const int padded = (int)round_up(D, BLOCK);
    float *at[QUERIES];
    for (int d = 0; d < padded;) {
        const int width = (padded - d) / LANES;
        for (int t = 0; t < T; t++) at[t] = to[t] + d;
        if (width >= 4) {
            weighted(T, 4, scores, stride, values + d, padded, ends, at);
            d += 4 * LANES;
        } else {
            weighted(T, 1, scores, stride, values + d, padded, ends, at);
            d += LANES;
        }
    }
}

// T queries, D wide each, with the positions [0, ends[t]) of a head; ends ascend. `scores` has room
// for T times `stride` of them; the outputs are D wide, padded to a multiple of 16.
static void attend(int T, int D, const float *const q[], const float *keys, const float *values,
                   const int64_t *ends, float scale, float *scores, int64_t stride, float *const to[])
{
    switch (T) {
#define CASE(n) case n: \
        if (D == 64) attend_as(n, 64, q, keys, values, ends, scale, scores, stride, to); \
        else attend_as(n, D, q, keys, values, ends, scale, scores, stride, to); \
        break
    CASE(1);
    CASE(2);
    CASE(3);
    CASE(4);
#undef CASE
    }
}

#endif
