// What the parts of the engine share: matrices, the model, a step, the thread pool.
//
// All sums have one fixed order (docs/engine.md), so that every build, number of threads and way to
// cut a prompt gives the same bits. Python checks shapes and sizes before it fills these structs;
// gptcli/engine/native.py mirrors them field by field.
//
// Shapes: N tokens of a step, E emb_dim, I inner width, H heads, D head_dim, V vocabulary,
// C capacity of a sequence, M outputs and K inputs of a matrix.
#ifndef GPTCLI_ENGINE_H
#define GPTCLI_ENGINE_H

#include <stddef.h>
#include <stdint.h>

enum { BLOCK = 16 };  // partial sums of a matmul; rows of a packed block; positions of a key block
enum { GROUP = 32 };  // inputs that share a scale at 8 and 4 bits

static inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// ---- model ---------------------------------------------------------------------------------------

enum { F32, BF16, F16, INT8, INT4 };
enum { GELU_TANH, GELU_ERF, RELU, SILU, QUICK_GELU };

// Weights (rows, cols). Floats stay where they are, row after row, `stride` elements apart. INT8
// and INT4 are packed (quantized.h); INT8 has a scale for each row, padded to whole blocks.
typedef struct {
    int32_t type, rows, cols;
    int64_t stride;
    const void *data;
    const float *scales;
} matrix;

typedef struct {
    matrix weight;
    const float *bias;  // padded to whole blocks, or NULL
} linear;

typedef struct {
    const float *scale, *shift;  // padded with zeros to whole groups
} norm;

typedef struct {
    norm norm1, norm2;
    linear query, key, value, out, up, down;
    float attention_scale;
} block;

typedef struct {
    int32_t vocab, context, emb, heads, layers, inner, activation;
    float epsilon;
    matrix tokens, positions;
    const block *blocks;
    norm final_norm;
    linear head;
} model;

// ---- one step ------------------------------------------------------------------------------------

// Keys (L, H, C/16, D, 16) and values (L, H, C, D rounded up to 16) of one sequence.
typedef struct {
    float *keys, *values;
    int64_t capacity;  // a multiple of 16
} kv_cache;

typedef struct {
    int32_t rows, n_logits;
    const int32_t *ids, *positions, *owners;  // (rows,): owners index `caches`
    const kv_cache *caches;
    const int32_t *logit_rows;  // (n_logits,) ascending
    float *logits;              // (n_logits, logit_stride)
    int64_t logit_stride;
} request;

enum { DONE, NOT_FINITE, NO_MEMORY };

// What a step computes in; it grows and is used again.
typedef struct {
    void *memory;
    int64_t size;
} workspace;

void *workspace_of(workspace *, int64_t bytes);  // NULL: out of memory

// ---- threads -------------------------------------------------------------------------------------

typedef struct pool pool;

// Work that any thread may do a chunk of; the phases of a run follow one another.
typedef struct {
    void (*work)(void *context, const void *argument, int chunk, int thread);
    const void *argument;
    int chunks;  // fewer than 2^20
} phase;

// Where the chunks begin that a thread takes first, side by side; the first has one if there are any.
static inline int first_chunk(int chunks, int threads, int thread)
{
    return (int)(((int64_t)chunks * thread + threads - 1) / threads);
}

pool *pool_create(int threads);
void pool_destroy(pool *);
int pool_threads(const pool *);
void pool_run(pool *, void *context, const phase *phases, int count);

// ---- one build for each instruction set -----------------------------------------------------------

typedef struct {
    const char *name;
    int (*supported)(void);
    int (*step)(pool *, workspace *, const model *, const request *);
    int (*transpose)(pool *, const void *from, int64_t stride, int item, int rows, int cols, void *to);
    int (*quantize)(pool *, const matrix *from, int type, void *packed, float *scales);
    int (*pack)(pool *, const matrix *stored, const uint16_t *scales, const uint16_t *zeros, void *packed);
    int (*read)(pool *, const void *from, int64_t bytes);
    void (*apply)(int function, const float *from, float *to, int64_t count);
} kernels;

#endif
