// Many tokens by AMX: 16 tokens by 16 outputs a group, from the packed layout as it is. The sums are
// exact, so these are the bits of every other build.
#ifndef GPTCLI_AMX_H
#define GPTCLI_AMX_H

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_shapes;

// As many tokens as fill tiles; returns how many.
static int amx_matmul(const matrix *m, int first, int count, const int8_inputs *x, int n, float *y, int64_t y_stride)
{
    static const tile_shapes shapes = {.palette = 1, .row_bytes = {64, GROUP, 64}, .rows = {16, 16, GROUP / 4}};
    int32_t sums[16][16];
    if (n < 16) return 0;
    _tile_loadconfig(&shapes);
    for (int o = first; o < first + count; o += BLOCK) {
        const char *weights = (const char *)m->data + o / BLOCK * x->groups * INT8_GROUP;
        for (int t = 0; t + 16 <= n; t += 16) {
            vf f[16] = {{0}};
            for (int64_t g = 0; g < x->groups; g++) {
                _tile_zero(0);
                _tile_loadd(1, x->values + (t * x->groups + g) * GROUP, x->groups * GROUP);
                _tile_loadd(2, weights + g * INT8_GROUP, 4 * BLOCK);
                _tile_dpbsud(0, 1, 2);
                _tile_stored(0, sums, sizeof sums[0]);
                for (int i = 0; i < 16; i++) {
                    const int64_t at = (t + i) * x->groups + g;
                    vi exact = load_ints(sums[i]) - WEIGHT_BIAS * x->sums[at];
                    f[i] = fma_(to_float(exact), set(x->scales[at]), f[i]);
                }
            }
            for (int i = 0; i < 16; i++) store(y + (t + i) * y_stride + o - first, f[i] * load(m->scales + o));
        }
    }
    _tile_release();
    return n / 16 * 16;
}

#endif
