// One step: tokens of any sequences at any positions through all layers, as a list of phases for the pool.
#ifndef GPTCLI_STEP_H
#define GPTCLI_STEP_H

#include <stdatomic.h>
#include <stdlib.h>

#include "attention.h"
#include "matmul.h"
#include "quantized.h"

enum { QUERY_ROWS = 16 };      // neighbours of one sequence whose attention is one chunk of work
enum { CHUNK_BYTES = 1 << 17 };  // of weights, for a single token

// Queries of one sequence that follow one another among the active rows.
typedef struct {
    int first, count;
} query_run;

typedef struct {
    const model *m;
    const request *r;
    int64_t emb_stride, inner_stride;
    float *x, *h, *q, *u;  // (rows, stride): residual; normed or attended; queries; inner
    int8_inputs emb_in, inner_in;
    atomic_uchar *not_finite;  // (n_logits,)
    char *scratch;             // of each thread
    int64_t scratch_size, scores_stride;
} step_state;

typedef enum { KEEP, ADD, QKV, LOGITS } finish;

typedef struct {
    int rows, layer;
    const norm *norm;         // of `x` into `h`
    const linear *linears[3];  // side by side
    int n_linears, width;      // outputs of a chunk
    finish finish;
    int activation;  // -1: none
    int is_last;     // attention: only rows whose logits are wanted
    const float *from;
    int64_t from_stride;
    const int8_inputs *in;  // of `from`, or NULL
    float *to;
    int64_t to_stride;
    const query_run *query_runs;
} job;

static int row_at(const step_state *s, const job *j, int active) { return j->is_last ? s->r->logit_rows[active] : active; }

// ---- rows ------------------------------------------------------------------------------------------

static void float_row(const matrix *m, int row, float *to)
{
    if (m->type == INT8) {
        q_row(m, row, to);
        return;
    }
    const char *from = row_of(m, row);
    for (int k = 0; k < m->cols; k += LANES) {
        vf v = load_some(m->type, from, k, m->cols - k);
        memcpy(to + k, &v, 4 * (m->cols - k < LANES ? m->cols - k : LANES));
    }
}

static void embed(void *context, const void *argument, int row, int thread)
{
    const step_state *s = context;
    float *x = s->x + row * s->emb_stride, *position = s->h + row * s->emb_stride;
    float_row(&s->m->tokens, s->r->ids[row], x);
    float_row(&s->m->positions, s->r->positions[row], position);
    for (int k = 0; k < s->m->emb; k++) x[k] = x[k] + position[k];
    (void)argument, (void)thread;
}

// (x - mean) / sqrt(variance + epsilon) * scale + shift, each sum by 16 partial sums.
static void layer_norm(const float *x, int n, float epsilon, const norm *norm, float *y)
{
    const int padded = (int)round_up(n, BLOCK);
    vf sums[PARTS] = {{0}}, squares[PARTS] = {{0}};
    for (int k = 0; k < padded; k += BLOCK)
        for (int p = 0; p < PARTS; p++) sums[p] = sums[p] + load(x + k + p * LANES);
    const float mean = sum(sums) / (float)n;
    for (int k = 0; k < padded; k += LANES) store(y + k, load(x + k) - mean);
    for (int k = n; k < padded; k++) y[k] = 0.0f;
    for (int k = 0; k < padded; k += BLOCK)
        for (int p = 0; p < PARTS; p++) {
            vf d = load(y + k + p * LANES);
            squares[p] = fma_(d, d, squares[p]);
        }
    const float inverse = 1.0f / sqrtf(sum(squares) / (float)n + epsilon);
    for (int k = 0; k < padded; k += LANES)
        store(y + k, fma_(load(y + k) * inverse, load(norm->scale + k), load(norm->shift + k)));
}

static void norm_row(void *context, const void *argument, int row, int thread)
{
    const step_state *s = context;
    const job *j = argument;
    float *y = s->h + row * s->emb_stride;
    layer_norm(s->x + row * s->emb_stride, s->m->emb, s->m->epsilon, j->norm, y);
    if (j->in) quantize_token(y, j->in, row);
    (void)thread;
}

static void quantize_row(void *context, const void *argument, int row, int thread)
{
    const job *j = argument;
    quantize_token(j->from + row * j->from_stride, j->in, row);
    (void)context, (void)thread;
}

// After the last attention only some rows go on: they move together.
static void gather(void *context, const void *argument, int chunk, int thread)
{
    const step_state *s = context;
    for (int n = 0; n < s->r->n_logits; n++)
        memmove(s->x + n * s->emb_stride, s->x + s->r->logit_rows[n] * s->emb_stride, 4 * (size_t)s->emb_stride);
    (void)argument, (void)chunk, (void)thread;
}

// ---- matmuls ----------------------------------------------------------------------------------------

// Outputs [first, first + count) of one row are keys or values: into the cache, head by head.
static void store_kv(const step_state *s, const job *j, int is_key, int row, int first, int count, const float *y)
{
    const int D = s->m->emb / s->m->heads, padded = (int)round_up(D, BLOCK), position = s->r->positions[row];
    const kv_cache *cache = s->r->caches + s->r->owners[row];
    for (int o = first, end = first + count; o < end;) {
        const int d = o % D, run = D - d < end - o ? D - d : end - o;
        const int64_t head = (int64_t)j->layer * s->m->heads + o / D;
        if (is_key) {
            float *to = cache->keys + ((head * (cache->capacity / BLOCK) + position / BLOCK) * D + d) * BLOCK;
            for (int i = 0; i < run; i++) to[i * BLOCK + position % BLOCK] = y[o - first + i];
        } else {
            float *to = cache->values + (head * cache->capacity + position) * padded + d;
            for (int i = 0; i < run; i++) to[i] = y[o - first + i];
        }
        o += run;
    }
}

static int any_not_finite(const float *y, int count)
{
    int found = 0;
    for (int i = 0; i < count; i++) {
        int32_t bits;
        memcpy(&bits, y + i, sizeof bits);
        found |= (bits & 0x7f800000) == 0x7f800000;
    }
    return found;
}

// Bias, activation and residual, each rounded by itself; then where the outputs belong. `y` holds the
// outputs [first, first + count) of each row; those beyond the matrix only pad the last block.
static void finish_rows(const step_state *s, const job *j, int part, int first, int count, float *y)
{
    const linear *l = j->linears[part];
    const int valid = l->weight.rows - first < count ? l->weight.rows - first : count;
    for (int row = 0; row < j->rows; row++, y += count) {
        if (l->bias)
            for (int i = 0; i < count; i += LANES) store(y + i, load(y + i) + load(l->bias + first + i));
        if (j->activation >= 0)
            for (int i = 0; i < count; i += LANES) store(y + i, activate(j->activation, load(y + i)));
        float *to = j->to + row * j->to_stride + first;
        if (j->finish == QKV && part > 0) {
            store_kv(s, j, part == 1, row, first, valid, y);
        } else if (j->finish == ADD) {
            for (int i = 0; i < valid; i++) to[i] = to[i] + y[i];
        } else {
            if (j->finish == LOGITS && any_not_finite(y, valid)) atomic_store(s->not_finite + row, 1);
            memcpy(to, y, 4 * (size_t)valid);
        }
    }
}

static int chunks_of_linear(const job *j, int part)
{
    return (int)((round_up(j->linears[part]->weight.rows, BLOCK) + j->width - 1) / j->width);
}

static void matmul(void *context, const void *argument, int chunk, int thread)
{
    const step_state *s = context;
    const job *j = argument;
    int part = 0;
    for (; chunk >= chunks_of_linear(j, part); part++) chunk -= chunks_of_linear(j, part);
    const matrix *w = &j->linears[part]->weight;
    const int first = chunk * j->width, left = (int)round_up(w->rows, BLOCK) - first;
    const int count = left < j->width ? left : j->width;
    float *y = (float *)(s->scratch + thread * s->scratch_size);
    if (w->type >= INT8)
        q_matmul(w, first, count, j->in, j->rows, y, count);
    else
        float_matmul(w, first, count, j->from, j->from_stride, j->rows, y, count,
                     y + (int64_t)j->rows * j->width);
    finish_rows(s, j, part, first, count, y);
}

// ---- attention --------------------------------------------------------------------------------------

static void attention(void *context, const void *argument, int chunk, int thread)
{
    const step_state *s = context;
    const job *j = argument;
    const int H = s->m->heads, D = s->m->emb / H, head = chunk % H, padded = (int)round_up(D, BLOCK);
    const query_run *queries = j->query_runs + chunk / H;
    const kv_cache *cache = s->r->caches + s->r->owners[row_at(s, j, queries->first)];
    const int64_t at = (int64_t)j->layer * H + head;
    const float *keys = cache->keys + at * cache->capacity * D, *values = cache->values + at * cache->capacity * padded;
    float *scores = (float *)(s->scratch + thread * s->scratch_size), *found = scores + QUERIES * s->scores_stride;
    for (int n = 0; n < queries->count; n += QUERIES) {
        const int T = queries->count - n < QUERIES ? queries->count - n : QUERIES;
        const float *q[QUERIES];
        float *to[QUERIES];
        int64_t ends[QUERIES];
        for (int t = 0; t < T; t++) {
            const int row = row_at(s, j, queries->first + n + t);
            q[t] = s->q + row * s->emb_stride + head * D;
            to[t] = found + t * padded;
            ends[t] = s->r->positions[row] + 1;
        }
        attend(T, D, q, keys, values, ends, s->m->blocks[j->layer].attention_scale, scores, s->scores_stride, to);
        for (int t = 0; t < T; t++)
            memcpy(s->h + (queries->first + n + t) * s->emb_stride + head * D, to[t], 4 * (size_t)D);
    }
}

// ---- the plan ---------------------------------------------------------------------------------------

typedef struct {
    phase *phases;
    job *jobs;
    int count, threads;
    step_state *s;
} plan;

static job *add(plan *p, void (*work)(void *, const void *, int, int), int chunks, job j)
{
    p->jobs[p->count] = j;
    p->phases[p->count] = (phase){work, p->jobs + p->count, chunks};
    return p->jobs + p->count++;
}

static int64_t row_bytes(const matrix *w)
{
    if (w->type >= INT8) return block_bytes(w->type, w->cols) / BLOCK;
    return (int64_t)w->cols * (w->type == F32 ? 4 : 2);
}

static void add_matmul(plan *p, job j)
{
    const matrix *w = &j.linears[0]->weight;
    const int64_t by_size = CHUNK_BYTES / (row_bytes(w) * (j.rows < 8 ? 1 : 2));
    const int64_t by_threads = w->rows / (4 * p->threads);
    const int64_t least = by_size < by_threads ? by_size : by_threads;
    j.width = least < 32 ? (w->type >= INT8 ? 32 : 16) : (int)(least / 32 * 32);
    if (j.width > 256) j.width = 256;
    int chunks = 0;
    for (int part = 0; part < j.n_linears; part++) chunks += chunks_of_linear(&j, part);
    add(p, matmul, chunks, j);
}

static int is_quantized(const linear *l) { return l->weight.type >= INT8; }

// Neighbours among `rows` active ones that are queries of one sequence; returns how many runs.
static int find_query_runs(const step_state *s, const job *j, query_run *found)
{
    int count = 0;
    for (int n = 0; n < j->rows; n++) {
        query_run *last = found + count - 1;
        const int row = row_at(s, j, n), before = n ? row_at(s, j, n - 1) : 0;
        if (count && last->count < QUERY_ROWS && s->r->owners[row] == s->r->owners[before] &&
            s->r->positions[row] > s->r->positions[before])
            last->count++;
        else
            found[count++] = (query_run){n, 1};
    }
    return count;
}

static void add_layer(plan *p, int layer, query_run *query_runs)
{
    step_state *s = p->s;
    const model *m = s->m;
    const block *b = m->blocks + layer;
    const int64_t E = s->emb_stride;
    const int rows = s->r->rows, is_last = layer == m->layers - 1, active = is_last ? s->r->n_logits : rows;
    const int qkv_quantized = is_quantized(&b->query) || is_quantized(&b->key) || is_quantized(&b->value);
    const int8_inputs *in = &s->emb_in;

    add(p, norm_row, rows, (job){.norm = &b->norm1, .in = qkv_quantized ? in : NULL});
    add_matmul(p, (job){.rows = rows, .layer = layer, .linears = {&b->query, &b->key, &b->value}, .n_linears = 3,
                         .finish = QKV, .activation = -1, .from = s->h, .from_stride = E, .in = in, .to = s->q,
                         .to_stride = E});
    if (!active) return;
    job *attend = add(p, attention, 0, (job){.rows = active, .layer = layer, .is_last = is_last, .query_runs = query_runs});
    p->phases[p->count - 1].chunks = find_query_runs(s, attend, query_runs) * m->heads;
    if (active < rows) add(p, gather, 1, (job){0});
    if (is_quantized(&b->out)) add(p, quantize_row, active, (job){.from = s->h, .from_stride = E, .in = in});
    add_matmul(p, (job){.rows = active, .linears = {&b->out}, .n_linears = 1, .finish = ADD, .activation = -1,
                         .from = s->h, .from_stride = E, .in = in, .to = s->x, .to_stride = E});
    add(p, norm_row, active, (job){.norm = &b->norm2, .in = is_quantized(&b->up) ? in : NULL});
    add_matmul(p, (job){.rows = active, .linears = {&b->up}, .n_linears = 1, .finish = KEEP,
                         .activation = m->activation, .from = s->h, .from_stride = E, .in = in, .to = s->u,
                         .to_stride = s->inner_stride});
    if (is_quantized(&b->down))
        add(p, quantize_row, active, (job){.from = s->u, .from_stride = s->inner_stride, .in = &s->inner_in});
    add_matmul(p, (job){.rows = active, .linears = {&b->down}, .n_linears = 1, .finish = ADD, .activation = -1,
                         .from = s->u, .from_stride = s->inner_stride, .in = &s->inner_in, .to = s->x, .to_stride = E});
}

static void add_head(plan *p)
{
    step_state *s = p->s;
    const model *m = s->m;
    const int n = s->r->n_logits;
    if (!n) return;
    add(p, norm_row, n, (job){.norm = &m->final_norm, .in = is_quantized(&m->head) ? &s->emb_in : NULL});
    add_matmul(p, (job){.rows = n, .linears = {&m->head}, .n_linears = 1, .finish = LOGITS, .activation = -1,
                         .from = s->h, .from_stride = s->emb_stride, .in = &s->emb_in, .to = s->r->logits,
                         .to_stride = s->r->logit_stride});
}

// ---- memory -----------------------------------------------------------------------------------------

// Parts of one allocation, each on its own cache lines; measured first, with no memory yet.
typedef struct {
    char *memory;
    int64_t used;
} arena;

static void *take(arena *a, int64_t bytes)
{
    void *found = a->memory ? a->memory + a->used : NULL;
    a->used += round_up(bytes, 64);
    return found;
}

// Rows of a tile that lie a page apart would share few places in the first cache.
static int64_t stride_of(int64_t width)
{
    const int64_t padded = round_up(width, GROUP);
    return padded % 512 ? padded : padded + GROUP;
}

static void lay_out(arena *a, plan *p, query_run **query_runs)
{
    step_state *s = p->s;
    const model *m = s->m;
    const int64_t n = s->r->rows, phases = (int64_t)m->layers * 10 + 4, most = m->emb > m->inner ? m->emb : m->inner;
    const int64_t head = round_up(m->emb / m->heads, BLOCK);
    int64_t longest = 0;
    for (int row = 0; row < n; row++) longest = s->r->positions[row] > longest ? s->r->positions[row] : longest;
    s->emb_stride = stride_of(m->emb);
    s->inner_stride = stride_of(m->inner);
    s->scores_stride = round_up(longest + 1, BLOCK);
    p->phases = take(a, phases * (int64_t)sizeof(phase));
    p->jobs = take(a, phases * (int64_t)sizeof(job));
    *query_runs = take(a, 2 * n * (int64_t)sizeof(query_run));
    s->not_finite = take(a, n);
    s->x = take(a, n * s->emb_stride * 4);
    s->h = take(a, n * s->emb_stride * 4);
    s->q = take(a, n * s->emb_stride * 4);
    s->u = take(a, n * s->inner_stride * 4);
    const int64_t groups = round_up(most, GROUP) / GROUP;
    s->emb_in = s->inner_in = (int8_inputs){take(a, n * groups * GROUP), take(a, n * groups * 4), take(a, n * groups * 4), 0};
    s->emb_in.groups = round_up(m->emb, GROUP) / GROUP;
    s->inner_in.groups = round_up(m->inner, GROUP) / GROUP;
    const int64_t for_matmul = 4 * (n * 256 + 4 * round_up(most, BLOCK));
    const int64_t for_attention = QUERIES * 4 * (s->scores_stride + head);
    s->scratch_size = round_up((for_matmul > for_attention ? for_matmul : for_attention) + 256, 64);
    s->scratch = take(a, s->scratch_size * p->threads);
}

// Padding is never written but must be zero: it is part of every sum.
static void clear_padding(const step_state *s)
{
    const int64_t E = s->m->emb, I = s->m->inner;
    for (int row = 0; row < s->r->rows; row++) {
        memset(s->x + row * s->emb_stride + E, 0, 4 * (size_t)(s->emb_stride - E));
        memset(s->h + row * s->emb_stride + E, 0, 4 * (size_t)(s->emb_stride - E));
        memset(s->u + row * s->inner_stride + I, 0, 4 * (size_t)(s->inner_stride - I));
    }
}

static int step(pool *threads, workspace *kept, const model *m, const request *r)
{
    step_state s = {.m = m, .r = r};
    plan p = {.threads = pool_threads(threads), .s = &s};
    query_run *query_runs;
    arena a = {0};
    lay_out(&a, &p, &query_runs);
    a.memory = workspace_of(kept, a.used);
    if (!a.memory) return NO_MEMORY;
    a.used = 0;
    lay_out(&a, &p, &query_runs);
    clear_padding(&s);
    memset((void *)s.not_finite, 0, (size_t)r->rows);
    add(&p, embed, r->rows, (job){0});
    for (int layer = 0; layer < m->layers; layer++)
        add_layer(&p, layer, query_runs + (layer == m->layers - 1 ? r->rows : 0));
    add_head(&p);
    pool_run(threads, &s, p.phases, p.count);
    int code = DONE;
    for (int n = 0; n < r->n_logits; n++) {
        if (!s.not_finite[n]) continue;
        for (int v = 0; v < m->vocab; v++) r->logits[n * r->logit_stride + v] = NAN;
        code = NOT_FINITE;
    }
    return code;
}

#endif
