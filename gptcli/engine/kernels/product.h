// Products of float weights: y[token][output] = the sum over K of weight * input.
//
// Partial sum j adds the products of inputs j, j + 16, j + 32, ... in this order. One token streams
// the weights from memory, STREAM outputs at a time, so that as many chains of multiply-adds run
// beside one another. Several tokens use them from the cache: 4 outputs by TILE tokens, whose sums
// stay in registers; LANES of the 16 partial sums at a time.
#ifndef GPTCLI_PRODUCT_H
#define GPTCLI_PRODUCT_H

#include "simd.h"

enum { FAR = 1024 };  // inputs taken at a time: 4 rows of weights stay in the first cache

INLINE const char *row_of(const matrix *w, int64_t row)
{
    const int64_t last = w->rows - 1;  // rows that pad the last block repeat it
    return (const char *)w->data + (row < last ? row : last) * w->stride * (w->type == F32 ? 4 : 2);
}

INLINE void stream_rows(int type, const matrix *w, int first, int count, const float *x, float *y)
{
    const char *rows[STREAM];
    vf sums[STREAM][PARTS];
    const int whole = w->cols / BLOCK * BLOCK;
    for (int o = 0; o < count; o += STREAM) {
        for (int i = 0; i < STREAM; i++) rows[i] = row_of(w, first + o + i);
        memset(sums, 0, sizeof sums);
        for (int k = 0; k < whole; k += BLOCK)
            for (int p = 0; p < PARTS; p++) {
                vf v = load(x + k + p * LANES);
                for (int i = 0; i < STREAM; i++)
                    sums[i][p] = fma_(load_as(type, rows[i], k + p * LANES), v, sums[i][p]);
            }
        if (whole < w->cols)
            for (int p = 0; p < PARTS; p++) {
                const int k = whole + p * LANES;
                for (int i = 0; i < STREAM; i++) {
                    vf some = load_some(type, rows[i], k, w->cols - k);
                    sums[i][p] = fma_(some, load(x + k), sums[i][p]);
                }
            }
        for (int i = 0; i < STREAM; i += 4) sum4(sums + i, y + o + i);
    }
}

// Adds inputs [from, to) to the partial sums of 4 outputs and `count` tokens.
INLINE void tile(int count, const float *const rows[4], const float *x, int64_t x_stride, int from,
                 int to, vf sums[TILE][4][PARTS])
{
    for (int p = 0; p < PARTS; p++) {
        vf s[TILE][4];
        for (int t = 0; t < count; t++)
            for (int i = 0; i < 4; i++) s[t][i] = from ? sums[t][i][p] : (vf){0};
        for (int k = from + p * LANES; k < to; k += BLOCK) {
            vf v[TILE];
            for (int t = 0; t < count; t++) v[t] = load(x + t * x_stride + k);
            for (int i = 0; i < 4; i++) {
                vf w = load(rows[i] + k);
                for (int t = 0; t < count; t++) s[t][i] = fma_(w, v[t], s[t][i]);
            }
        }
        for (int t = 0; t < count; t++)
            for (int i = 0; i < 4; i++) sums[t][i][p] = s[t][i];
    }
}

typedef struct {
    vf sums[TILE][4][PARTS];
} partial_sums;

// `rows`: 4 rows of floats, padded with zeros to a multiple of 16.
static void four_rows(const float *const rows[4], int padded, const float *x, int64_t x_stride, int n,
                      float *y, int64_t y_stride, partial_sums *kept)
{
    for (int from = 0; from < padded; from += FAR) {
        const int to = from + FAR < padded ? from + FAR : padded;
        for (int t = 0; t < n; t += TILE) {
            partial_sums *sums = kept + t / TILE;
            const int count = n - t < TILE ? n - t : TILE;
            const float *at = x + t * x_stride;
            switch (count) {
            case 1: tile(1, rows, at, x_stride, from, to, sums->sums); break;
#define CASE(c) case c: if (c <= TILE) tile(c <= TILE ? c : 1, rows, at, x_stride, from, to, sums->sums); break
            CASE(2);
            CASE(3);
            CASE(4);
#undef CASE
            }
            if (to == padded)
                for (int i = 0; i < count; i++) sum4(sums->sums[i], y + (t + i) * y_stride);
        }
    }
}

INLINE void widen_row(int type, const matrix *w, const char *row, float *to)
{
    const int whole = w->cols / LANES * LANES;
    for (int k = 0; k < whole; k += LANES) store(to + k, load_as(type, row, k));
    for (int k = whole; k < round_up(w->cols, BLOCK); k += LANES)
        store(to + k, load_some(type, row, k, w->cols - k));
}

// Bytes that `float_product` needs to itself for n tokens.
static int64_t product_scratch(int64_t n, int64_t cols)
{
    return 4 * 4 * round_up(cols, BLOCK) + (int64_t)sizeof(partial_sums) * (n / TILE + 1);
}

INLINE void product_as(int type, const matrix *w, int first, int count, const float *x,
                       int64_t x_stride, int n, float *y, int64_t y_stride, char *scratch)
{
    if (n == 1) {
        stream_rows(type, w, first, count, x, y);
        return;
    }
    const int padded = (int)round_up(w->cols, BLOCK);
    partial_sums *kept = (partial_sums *)scratch;
    float *widened = (float *)(scratch + sizeof(partial_sums) * (n / TILE + 1));
    for (int o = 0; o < count; o += 4) {
        const float *rows[4];
        for (int i = 0; i < 4; i++) {
            rows[i] = (const float *)row_of(w, first + o + i);
            if (type != F32 || padded != w->cols) {
                widen_row(type, w, (const char *)rows[i], widened + i * padded);
                rows[i] = widened + i * padded;
            }
        }
        four_rows(rows, padded, x, x_stride, n, y + o, y_stride, kept);
    }
}

// Outputs [first, first + count) of n tokens; count is a multiple of 16, x padded with zeros to one.
static void float_product(const matrix *w, int first, int count, const float *x, int64_t x_stride,
                          int n, float *y, int64_t y_stride, char *scratch)
{
    switch (w->type) {
    case F32: product_as(F32, w, first, count, x, x_stride, n, y, y_stride, scratch); break;
    case BF16: product_as(BF16, w, first, count, x, x_stride, n, y, y_stride, scratch); break;
    default: product_as(F16, w, first, count, x, x_stride, n, y, y_stride, scratch); break;
    }
}

#endif
