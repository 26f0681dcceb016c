// What Python calls: the builds that are in this library, memory, and the kernels behind one table.
#include "engine.h"

#include <stdlib.h>
#include <string.h>

// builds.h lists what the compiler could build, the best first: BUILT(amx) BUILT(vnni) ...
#define EXPORT __attribute__((visibility("default")))

#define BUILT(name) extern const kernels kernels_##name;
#include "builds.h"
#undef BUILT

static const kernels *const builds[] = {
#define BUILT(name) &kernels_##name,
#include "builds.h"
#undef BUILT
};

EXPORT int gptcli_builds(void) { return (int)(sizeof builds / sizeof builds[0]); }
EXPORT const char *gptcli_build_name(int build) { return builds[build]->name; }
EXPORT int gptcli_build_supported(int build) { return builds[build]->supported(); }

EXPORT pool *gptcli_pool_create(int threads) { return pool_create(threads); }
EXPORT void gptcli_pool_destroy(pool *p) { pool_destroy(p); }

void *workspace_of(workspace *w, int64_t bytes)
{
    if (bytes > w->size) {
        free(w->memory);
        w->memory = aligned_alloc(64, (size_t)round_up(bytes, 64));
        w->size = w->memory ? bytes : 0;
    }
    return w->memory;
}

EXPORT void gptcli_workspace_free(workspace *w)
{
    free(w->memory);
    w->memory = NULL;
    w->size = 0;
}

EXPORT int gptcli_step(int build, pool *p, workspace *w, const model *m, const request *r)
{
    return builds[build]->step(p, w, m, r);
}

EXPORT int gptcli_transpose(int build, pool *p, const void *from, int64_t stride, int item, int rows, int cols, void *to)
{
    return builds[build]->transpose(p, from, stride, item, rows, cols, to);
}

EXPORT int gptcli_quantize(int build, pool *p, const matrix *from, int type, void *packed, float *scales)
{
    return builds[build]->quantize(p, from, type, packed, scales);
}

EXPORT int gptcli_pack(int build, pool *p, const matrix *stored, const uint16_t *scales, const uint16_t *zeros, void *packed)
{
    return builds[build]->pack(p, stored, scales, zeros, packed);
}

EXPORT int gptcli_read(int build, pool *p, const void *from, int64_t bytes)
{
    return builds[build]->read(p, from, bytes);
}

EXPORT void gptcli_apply(int build, int function, const float *from, float *to, int64_t count)
{
    builds[build]->apply(function, from, to, count);
}
