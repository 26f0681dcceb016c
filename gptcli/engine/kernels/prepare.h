// Weights made ready once: transposed, quantised to 8 or 4 bits, packed (quantized.h).
#ifndef GPTCLI_PREPARE_H
#define GPTCLI_PREPARE_H

#include <stdatomic.h>
#include <stdlib.h>

#include "matmul.h"
#include "quantized.h"

enum { TILE_SIDE = 32 };  // rows and columns at a time, which stay in the first cache

typedef struct {
    const char *from;
    char *to;
    int64_t stride;
    int item, rows, cols;
} transposition;

static void transpose_rows(void *context, const void *argument, int chunk, int thread)
{
    const transposition *t = context;
    const int64_t first = (int64_t)chunk * TILE_SIDE, end = first + TILE_SIDE < t->rows ? first + TILE_SIDE : t->rows;
    for (int64_t begin = 0; begin < t->cols; begin += TILE_SIDE) {
        const int64_t stop = begin + TILE_SIDE < t->cols ? begin + TILE_SIDE : t->cols;
        for (int64_t r = first; r < end; r++) {
            if (t->item == 4)
                for (int64_t c = begin; c < stop; c++)
                    ((uint32_t *)t->to)[r * t->cols + c] = ((const uint32_t *)t->from)[c * t->stride + r];
            else
                for (int64_t c = begin; c < stop; c++)
                    ((uint16_t *)t->to)[r * t->cols + c] = ((const uint16_t *)t->from)[c * t->stride + r];
        }
    }
    (void)argument, (void)thread;
}

// (cols, rows), `stride` elements from one of the cols to the next, → (rows, cols).
static int transpose(pool *p, const void *from, int64_t stride, int item, int rows, int cols, void *to)
{
    transposition t = {from, to, stride, item, rows, cols};
    const phase all = {transpose_rows, NULL, (rows + TILE_SIDE - 1) / TILE_SIDE};
    pool_run(p, &t, &all, 1);
    return DONE;
}

// ---- quantising -------------------------------------------------------------------------------------

typedef struct {
    const matrix *from;
    int type;
    char *packed;
    float *scales;
    float *rows;  // (threads, 16, cols): a block of weights as floats
} quantization;

// Each row's largest magnitude becomes 127.
static void quantize_block8(const quantization *r, const float *rows, int64_t stride, int chunk)
{
    const int K = r->from->cols;
    uint8_t *to = (uint8_t *)r->packed + chunk * block_bytes(INT8, K);
    memset(to, WEIGHT_BIAS, (size_t)block_bytes(INT8, K));
    for (int i = 0; i < BLOCK; i++, rows += stride) {
        int32_t most = 0;
        for (int k = 0; k < K; k++) {
            int32_t bits;
            memcpy(&bits, rows + k, sizeof bits);
            bits &= 0x7fffffff;
            most = bits > most ? bits : most;
        }
        float largest;
        memcpy(&largest, &most, sizeof largest);
        const float scale = (largest < 1e-12f ? 1e-12f : largest) / 127.0f;
        r->scales[chunk * BLOCK + i] = chunk * BLOCK + i < r->from->rows ? scale : 0.0f;
        for (int k = 0; k < K; k++) {
            const float shifted = rows[k] / scale + 0x1.8p23f;  // rounds half to even
            int32_t bits;
            memcpy(&bits, &shifted, sizeof bits);
            to[(k / 4 * BLOCK + i) * 4 + k % 4] = (uint8_t)(bits - 0x4b400000 + WEIGHT_BIAS);
        }
    }
}

INLINE vf as_bf16(vf x)
{
    vu bits = (vu)x;
    return (vf)((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000);
}

INLINE vf nearest_level(vf x, vf zero, vf scale)  // -8 to 7, and -8 for NaN
{
    vf level = (x - zero) / scale + 0x1.8p23f - 0x1.8p23f;
    return choose(level > -8.0f, choose(level < 7.0f, level, set(7.0f)), set(-8.0f));
}

// One group of LANES rows, `w` its weights: first its full range, then scale and zero are moved twice
// to the straight line through the levels by least squares, with which other levels are nearest
// (Lloyd 1982, doi:10.1109/TIT.1982.1056489).
INLINE void fit_levels(const vf w[GROUP], vf levels[GROUP], vf *scale, vf *zero)
{
    vf low = w[0], high = w[0], mean = w[0];
    for (int k = 1; k < GROUP; k++) {
        low = choose(w[k] < low, w[k], low);
        high = larger(high, w[k]);
        mean = mean + w[k];
    }
    mean = mean / (float)GROUP;
    *scale = as_bf16(larger(high - low, set(1e-8f)) / 15.0f);
    *zero = as_bf16(low + 8.0f * *scale);
    for (int k = 0; k < GROUP; k++) levels[k] = nearest_level(w[k], *zero, *scale);
    for (int refit = 0; refit < 2; refit++) {
        vf total = {0}, squares = {0}, products = {0};
        for (int k = 0; k < GROUP; k++) {
            total = total + levels[k];
            squares = fma_(levels[k], levels[k], squares);
            products = fma_(levels[k], w[k] - mean, products);
        }
        vf middle = total / (float)GROUP, spread = squares - total * middle;
        vf slope = as_bf16(larger(products / spread, set(1e-8f / 15)));
        *scale = choose(spread > 0.0f, slope, *scale);
        *zero = as_bf16(mean - *scale * middle);
        for (int k = 0; k < GROUP; k++) levels[k] = nearest_level(w[k], *zero, *scale);
    }
}

static void quantize_block4(const quantization *r, const float *rows, int64_t stride, int chunk)
{
    const int64_t K = r->from->cols;
    uint8_t *to = (uint8_t *)r->packed + chunk * block_bytes(INT4, K);
    for (int64_t g = 0; g < K; g += GROUP, to += INT4_GROUP) {
        memset(to, 0, INT4_GROUP);
        for (int first = 0; first < BLOCK; first += LANES) {
            vf w[GROUP], levels[GROUP], scale, zero;
            for (int k = 0; k < GROUP; k++)
                for (int i = 0; i < LANES; i++) w[k][i] = rows[(first + i) * stride + g + k];
            fit_levels(w, levels, &scale, &zero);
            for (int i = 0; i < LANES; i++) {
                const uint32_t scale_bits = ((vu)scale)[i], zero_bits = ((vu)zero)[i];
                const uint16_t both[2] = {(uint16_t)(scale_bits >> 16), (uint16_t)(zero_bits >> 16)};
                memcpy(to + INT4_LEVELS + 2 * (first + i), both, 2);
                memcpy(to + INT4_LEVELS + 2 * (BLOCK + first + i), both + 1, 2);
                for (int k = 0; k < GROUP; k++) {
                    const int level = (int)levels[k][i] + 8, half = k / (GROUP / 2), at = k % (GROUP / 2);
                    to[(at / 4 * BLOCK + first + i) * 4 + at % 4] |= (uint8_t)(level << (4 * half));
                }
            }
        }
    }
}

static void quantize_block(void *context, const void *argument, int chunk, int thread)
{
    const quantization *r = context;
    const int64_t stride = round_up(r->from->cols, GROUP);
    float *rows = r->rows + thread * BLOCK * stride;
    for (int i = 0; i < BLOCK; i++) {
        float *to = rows + i * stride;
        if (chunk * BLOCK + i >= r->from->rows) {
            memset(to, 0, 4 * (size_t)stride);
        } else {
            const char *row = row_of(r->from, chunk * BLOCK + i);
            if (r->from->type == F32) memcpy(to, row, 4 * (size_t)r->from->cols);
            else widen_row(r->from->type, r->from, row, to);
        }
    }
    (r->type == INT8 ? quantize_block8 : quantize_block4)(r, rows, stride, chunk);
    (void)argument;
}

// Float weights → packed ones of `type`, and the scales of rows at 8 bits.
static int quantize(pool *p, const matrix *from, int type, void *packed, float *scales)
{
    const size_t row = (size_t)round_up(from->cols, GROUP) * sizeof(float);
    float *rows = aligned_alloc(64, round_up(row * BLOCK * (size_t)pool_threads(p), 64));
    if (!rows) return NO_MEMORY;
    quantization r = {from, type, packed, scales, rows};
    const phase all = {quantize_block, NULL, (from->rows + BLOCK - 1) / BLOCK};
    pool_run(p, &r, &all, 1);
    free(rows);
    return DONE;
}

// ---- what `gptcli quantize` stored, row after row ----------------------------------------------------

typedef struct {
    const matrix *stored;
    const uint16_t *scales, *zeros;
    uint8_t *packed;
} packing;

static void pack_block(void *context, const void *argument, int chunk, int thread)
{
    const packing *p = context;
    const int64_t K = p->stored->cols, groups = round_up(K, GROUP) / GROUP;
    const int is_8 = p->stored->type == INT8, valid = p->stored->rows - chunk * BLOCK;
    uint8_t *block = p->packed + chunk * block_bytes(p->stored->type, K);
    memset(block, is_8 ? WEIGHT_BIAS : 0, (size_t)block_bytes(p->stored->type, K));
    for (int64_t i = 0; i < BLOCK && i < valid; i++) {
        const int64_t row = chunk * BLOCK + i;
        const uint8_t *from = (const uint8_t *)p->stored->data + row * p->stored->stride;
        if (is_8) {
            for (int64_t k = 0; k < K; k++) block[(k / 4 * BLOCK + i) * 4 + k % 4] = (uint8_t)(from[k] + WEIGHT_BIAS);
            continue;
        }
        for (int64_t g = 0; g < groups; g++) {
            uint8_t *to = block + g * INT4_GROUP;
            memcpy(to + INT4_LEVELS + 2 * i, p->scales + row * groups + g, 2);
            memcpy(to + INT4_LEVELS + 2 * (BLOCK + i), p->zeros + row * groups + g, 2);
            for (int k = 0; k < GROUP; k++) {
                const int level = from[(g * GROUP + k) / 2] >> (k % 2 * 4) & 15, half = k / (GROUP / 2);
                const int at = k % (GROUP / 2);
                to[(at / 4 * BLOCK + i) * 4 + at % 4] |= (uint8_t)(level << (4 * half));
            }
        }
    }
    (void)argument, (void)thread;
}

static int pack(pool *p, const matrix *stored, const uint16_t *scales, const uint16_t *zeros, void *packed)
{
    packing all = {stored, scales, zeros, packed};
    const phase blocks = {pack_block, NULL, (stored->rows + BLOCK - 1) / BLOCK};
    pool_run(p, &all, &blocks, 1);
    return DONE;
}

// ---- what reading memory costs, as a bound for a token's step ------------------------------------------

enum { READ_AT_ONCE = 1 << 18 };

typedef struct {
    const char *data;
    int64_t bytes;
} memory;

static void read_chunk(void *context, const void *argument, int chunk, int thread)
{
    const memory *m = argument;
    const int64_t begin = (int64_t)chunk * READ_AT_ONCE, left = m->bytes - begin;
    const int64_t count = left < READ_AT_ONCE ? left : READ_AT_ONCE;
    const char *from = m->data + begin;
    vi sums[4] = {{0}};
    for (int64_t at = 0; at + 4 * (int64_t)sizeof(vi) <= count; at += 4 * (int64_t)sizeof(vi))
        for (int i = 0; i < 4; i++) sums[i] ^= (vi)load_bytes(from + at + i * (int64_t)sizeof(vi));
    sums[0] ^= sums[1] ^ sums[2] ^ sums[3];
    for (int i = 0; i < LANES; i++) atomic_fetch_xor((_Atomic int32_t *)context, sums[0][i]);
    (void)thread;
}

// Reads all but the last few bytes once; returns something of them, so that none can be left out.
static int read_memory(pool *p, const void *from, int64_t bytes)
{
    _Atomic int32_t all = 0;
    const memory m = {from, bytes};
    const phase once = {read_chunk, &m, (int)((bytes + READ_AT_ONCE - 1) / READ_AT_ONCE)};
    pool_run(p, &all, &once, 1);
    return all;
}

#endif
