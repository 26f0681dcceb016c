// Matmuls of 8- and 4-bit weights with inputs of 8 bits: exact sums of integers, scaled by groups.
//
// Inputs are quantised by groups of 32, each with a scale: a trained GPT has a few channels that are
// many times larger than the rest, and they spoil only their own group. Weights are packed in blocks
// of 16 rows, whose sums are the lanes of a vector (16 rows of 4 inputs each are 64 bytes):
//
//     INT8  (rows / 16, cols / 4, 16, 4) values, plus WEIGHT_BIAS; a scale for each row
//     INT4  (rows / 16, cols / 32) groups of 4 x 16 x 4 bytes: inputs 4i ... 4i + 3 in the low bits
//           of part i, 16 inputs later in the high bits; then 16 scales and 16 zeros, bfloat16
//
// Groups are added in order, each by one multiply-add; all sums inside a group are exact.
#ifndef GPTCLI_QUANTIZED_H
#define GPTCLI_QUANTIZED_H

#include "simd.h"

enum { INT8_GROUP = BLOCK * GROUP, INT4_LEVELS = INT8_GROUP / 2, INT4_GROUP = INT4_LEVELS + 4 * BLOCK };

static int64_t block_bytes(int type, int64_t cols)
{
    return round_up(cols, GROUP) / GROUP * (type == INT8 ? INT8_GROUP : INT4_GROUP);
}

// Inputs of some tokens: (tokens, groups, 32) values, a scale and the sum of the values of a group.
typedef struct {
    int8_t *values;
    float *scales;
    int32_t *sums;
    int64_t groups;
} int8_inputs;

// One token; `x` is padded with zeros to whole groups. What is not finite makes the result NaN.
static void quantize_token(const float *x, const int8_inputs *to, int64_t token)
{
    for (int64_t g = 0; g < to->groups; g++, x += GROUP) {
        const int64_t at = token * to->groups + g;
        int8_t *values = to->values + at * GROUP;
        int32_t bits[GROUP], most = 0, sum = 0;
        memcpy(bits, x, sizeof bits);
        for (int i = 0; i < GROUP; i++) {  // magnitudes are ordered as their bits are
            const int32_t magnitude = bits[i] & 0x7fffffff;
            most = magnitude > most ? magnitude : most;
        }
        float largest;
        memcpy(&largest, &most, sizeof largest);
        const int is_usual = most < 0x7f800000 && largest > 1e-30f;
        const float inverse = is_usual ? 127.0f / largest : 0.0f;
        const float magic = 0x1.8p23f;  // what is added to it is rounded to whole numbers, half to even
        for (int i = 0; i < GROUP; i++) {
            const float shifted = (is_usual ? x[i] : 0.0f) * inverse + magic;
            memcpy(bits + i, &shifted, sizeof shifted);
            bits[i] -= 0x4b400000;
        }
        for (int i = 0; i < GROUP; i++) sum += bits[i];
        for (int i = 0; i < GROUP; i++) values[i] = (int8_t)bits[i];
        to->scales[at] = is_usual ? largest / 127.0f : most < 0x7f800000 ? 0.0f : NAN;
        to->sums[at] = sum;
    }
}

typedef vf sums_of_tile[Q_VECTORS][Q_TILE];
typedef vi ints_of_tile[Q_VECTORS][Q_TILE];

INLINE vb four_inputs(const int8_t *p)  // the same 4 in each lane
{
    int32_t four;
    memcpy(&four, p, sizeof four);
    return (vb)set_int(four);
}

// Sums of one group of 8-bit weights; `w` are V vectors of outputs, x the inputs of T tokens.
INLINE void group8(int V, int T, const char *const w[], const int8_t *x, int64_t stride, ints_of_tile s)
{
    for (int k = 0; k < GROUP; k += 4) {
        vb values[Q_VECTORS];
        for (int v = 0; v < V; v++) values[v] = load_bytes(w[v] + k * BLOCK);
        for (int t = 0; t < T; t++) {
            vb four = four_inputs(x + t * stride + k);
            for (int v = 0; v < V; v++) s[v][t] = dot(s[v][t], values[v], four);
        }
    }
}

// The same of 4-bit levels, 0 to 15; the sums are yet to be settled.
INLINE void group4(int V, int T, const char *const w[], const int8_t *x, int64_t stride, ints_of_tile s)
{
    for (int k = 0; k < GROUP / 2; k += 4) {
        vb low[Q_VECTORS], high[Q_VECTORS];
        for (int v = 0; v < V; v++) {
            vu both = (vu)load_bytes(w[v] + k * BLOCK);
            low[v] = (vb)(both & 0x0f0f0f0f);
            high[v] = (vb)(both >> 4 & 0x0f0f0f0f);
        }
        for (int t = 0; t < T; t++) {
            vb four = four_inputs(x + t * stride + k);
            vb later = four_inputs(x + t * stride + k + GROUP / 2);
            for (int v = 0; v < V; v++) {
                s[v][t] = dot4(s[v][t], low[v], four);
                s[v][t] = dot4(s[v][t], high[v], later);
            }
        }
    }
}

// V vectors of outputs, from vector `first` of the matrix on, of T tokens.
INLINE void q_tile(int is_8, int V, int T, const matrix *m, int64_t first, const int8_inputs *x, int64_t token,
                   float *y, int64_t y_stride)
{
    const int bytes = is_8 ? INT8_GROUP : INT4_GROUP;
    const int64_t stride = x->groups * GROUP;
    const int8_t *values = x->values + token * stride;
    const float *scales = x->scales + token * x->groups;
    const int32_t *totals = x->sums + token * x->groups;
    const char *weights[Q_VECTORS];
    const uint16_t *steps[Q_VECTORS];  // scales, and 16 elements later zeros, of 4-bit groups
    sums_of_tile f;
    for (int v = 0; v < V; v++) {
        const int64_t part = (first + v) % PARTS * LANES;
        const char *data = (const char *)m->data + (first + v) / PARTS * x->groups * bytes;
        weights[v] = data + part * 4;
        steps[v] = (const uint16_t *)(data + INT4_LEVELS) + part;
        for (int t = 0; t < T; t++) f[v][t] = (vf){0};
    }
    for (int64_t g = 0; g < x->groups; g++) {
        ints_of_tile s;
        if (T == 1)
            for (int v = 0; v < V; v++)
                for (int i = 0; i < bytes; i += 64) prefetch(weights[v] + i);
        for (int t = 0; t < T; t++)
            for (int v = 0; v < V; v++) s[v][t] = set_int(is_8 ? totals[t * x->groups + g] * -WEIGHT_BIAS : 0);
        if (is_8) {
            group8(V, T, weights, values + g * GROUP, stride, s);
            for (int t = 0; t < T; t++)
                for (int v = 0; v < V; v++)
                    f[v][t] = fma_(to_float(s[v][t]), set(scales[t * x->groups + g]), f[v][t]);
        } else {
            group4(V, T, weights, values + g * GROUP, stride, s);
            for (int v = 0; v < V; v++) {
                vf scale = widen_bf16(load_halves(steps[v])), zero = widen_bf16(load_halves(steps[v] + BLOCK));
                for (int t = 0; t < T; t++) {
                    vf offset = zero * to_float(set_int(totals[t * x->groups + g]));
                    vf sum = fma_(scale, to_float(settled(s[v][t]) - 8 * totals[t * x->groups + g]), offset);
                    f[v][t] = fma_(sum, set(scales[t * x->groups + g]), f[v][t]);
                }
                steps[v] += INT4_GROUP / 2;
            }
        }
        for (int v = 0; v < V; v++) weights[v] += bytes;
    }
    for (int v = 0; v < V; v++)
        for (int t = 0; t < T; t++) {
            vf found = is_8 ? f[v][t] * load(m->scales + (first + v) * LANES) : f[v][t];
            store(y + t * y_stride + v * LANES, found);
        }
}

INLINE void q_vectors(int is_8, int V, const matrix *m, int64_t first, const int8_inputs *x, int n, float *y,
                      int64_t y_stride)
{
    for (int done = 0, tiles = (n + Q_TILE - 1) / Q_TILE; tiles > 0; tiles--) {
        const int token = done, count = (n - done) / tiles;
        float *to = y + token * y_stride;
        done += count;
#define CALL(T) q_tile(is_8, V, T < Q_TILE ? T : Q_TILE, m, first, x, token, to, y_stride)
        KNOWN_COUNT(count, CALL)
#undef CALL
    }
}

INLINE void q_matmul_as(int is_8, const matrix *m, int first, int count, const int8_inputs *x, int n, float *y,
                         int64_t y_stride)
{
    for (int o = 0; o < count;) {
        const int64_t vector = (first + o) / LANES;
        if (count - o >= Q_VECTORS * LANES) {
            q_vectors(is_8, Q_VECTORS, m, vector, x, n, y + o, y_stride);
            o += Q_VECTORS * LANES;
        } else {
            q_vectors(is_8, 1, m, vector, x, n, y + o, y_stride);
            o += LANES;
        }
    }
}

#if defined(BUILD_amx)
#include "amx.h"
#endif

// Outputs [first, first + count) of n tokens; both are multiples of 16.
static void q_matmul(const matrix *m, int first, int count, const int8_inputs *x, int n, float *y, int64_t y_stride)
{
#if defined(BUILD_amx)
    if (m->type == INT8) {
        const int done = amx_matmul(m, first, count, x, n, y, y_stride);
        const int8_inputs others = {x->values + done * x->groups * GROUP, x->scales + done * x->groups,
                                x->sums + done * x->groups, x->groups};
        q_matmul_as(1, m, first, count, &others, n - done, y + done * y_stride, y_stride);
        return;
    }
#endif
    if (m->type == INT8)
        q_matmul_as(1, m, first, count, x, n, y, y_stride);
    else
        q_matmul_as(0, m, first, count, x, n, y, y_stride);
}

// Row `row` of packed 8-bit weights as floats: a token's embedding.
static void q_row(const matrix *m, int row, float *to)
{
    const int64_t groups = round_up(m->cols, GROUP) / GROUP;
    const int8_t *data = (const int8_t *)m->data + row / BLOCK * groups * INT8_GROUP + row % BLOCK * 4;
    for (int k = 0; k < m->cols; k++) {
        const int value = (int8_t)((uint8_t)data[k / 4 * 4 * BLOCK + k % 4] - WEIGHT_BIAS);
        to[k] = (float)value * m->scales[row];
    }
}

#endif
