// Matmuls of float weights: y[token][output] = the sum over K of weight * input.
//
// Partial sum j adds the products of inputs j, j + 16, j + 32, ... in this order. One token streams
// the weights from memory, STREAM outputs at a time, so that as many chains of multiply-adds run
// beside one another. Several tokens use them from the cache: 4 outputs by TILE tokens, whose sums
// stay in registers; LANES of the 16 partial sums at a time.
#ifndef GPTCLI_MATMUL_H
#define GPTCLI_MATMUL_H

#include "simd.h"

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
        for (int k = 0; k < whole; k += BLOCK) {
            if (type == F32 || k % (2 * BLOCK) == 0)  // once a line of 64 bytes
                for (int i = 0; i < STREAM; i++) prefetch(rows[i] + k * (type == F32 ? 4 : 2));
            for (int p = 0; p < PARTS; p++) {
                vf v = load(x + k + p * LANES);
                for (int i = 0; i < STREAM; i++)
                    sums[i][p] = fma_(load_as(type, rows[i], k + p * LANES), v, sums[i][p]);
            }
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

// Inputs taken at a time: where LANES are not all 16 they are read PARTS times, from the first cache.
enum { NEAR = PARTS == 1 ? 1 << 30 : 512 };

// 4 outputs of `count` tokens; `rows` are floats, padded with zeros to a multiple of 16.
INLINE void tile(int count, const float *const rows[4], int padded, const float *x, int64_t x_stride,
                 float *y, int64_t y_stride)
{
    vf sums[TILE][4][PARTS];
    for (int from = 0; from < padded; from += NEAR) {
        const int to = padded - from < NEAR ? padded : from + NEAR;
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
    for (int t = 0; t < count; t++) sum4(sums[t], y + t * y_stride);
}

// `n` tokens in tiles that are as equal as can be.
static void four_rows(const float *const rows[4], int padded, const float *x, int64_t x_stride, int n,
                      float *y, int64_t y_stride)
{
    for (int done = 0, tiles = (n + TILE - 1) / TILE; tiles > 0; tiles--) {
        const int count = (n - done) / tiles;
        const float *from = x + done * x_stride;
        float *to = y + done * y_stride;
        done += count;
#define CALL(c) tile(c < TILE ? c : TILE, rows, padded, from, x_stride, to, y_stride)
        KNOWN_COUNT(count, CALL)
#undef CALL
    }
}

INLINE void widen_row(int type, const matrix *w, const char *row, float *to)
{
    const int whole = w->cols / LANES * LANES;
    for (int k = 0; k < whole; k += LANES) store(to + k, load_as(type, row, k));
    for (int k = whole; k < round_up(w->cols, BLOCK); k += LANES)
        store(to + k, load_some(type, row, k, w->cols - k));
}

INLINE void matmul_as(int type, const matrix *w, int first, int count, const float *x,
                       int64_t x_stride, int n, float *y, int64_t y_stride, float *widened)
{
    if (n == 1) {
        stream_rows(type, w, first, count, x, y);
        return;
    }
    const int padded = (int)round_up(w->cols, BLOCK);
    for (int o = 0; o < count; o += 4) {
        const float *rows[4];
        for (int i = 0; i < 4; i++) {
            rows[i] = (const float *)row_of(w, first + o + i);
            if (type != F32 || padded != w->cols) {
                widen_row(type, w, (const char *)rows[i], widened + i * padded);
                rows[i] = widened + i * padded;
            }
        }
        four_rows(rows, padded, x, x_stride, n, y + o, y_stride);
    }
}

// Outputs [first, first + count) of n tokens; count is a multiple of 16, x padded with zeros to one.
// `widened` has room for 4 rows of weights as floats.
static void float_matmul(const matrix *w, int first, int count, const float *x, int64_t x_stride,
                          int n, float *y, int64_t y_stride, float *widened)
{
    switch (w->type) {
    case F32: matmul_as(F32, w, first, count, x, x_stride, n, y, y_stride, widened); break;
    case BF16: matmul_as(BF16, w, first, count, x, x_stride, n, y, y_stride, widened); break;
    default: matmul_as(F16, w, first, count, x, x_stride, n, y, y_stride, widened); break;
    }
}

#endif
