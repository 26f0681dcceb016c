// C alone, for any processor: the reference for the bits of all other builds.

enum { STREAM = 4, TILE = 2, Q_TILE = 2, Q_VECTORS = 1, WEIGHT_BIAS = 0 };

INLINE vf fma_(vf a, vf b, vf c)
{
    for (int i = 0; i < LANES; i++) c[i] = fmaf(a[i], b[i], c[i]);
    return c;
}

INLINE vf widen_bf16(vh h) { return (vf)(__builtin_convertvector(h, vu) << 16); }
INLINE vf widen_f16(vh h)
{
    vu bits = __builtin_convertvector(h, vu), sign = (bits & 0x8000) << 16, rest = bits & 0x7fff;
    vf normal = (vf)((rest << 13) + (112u << 23));  // the exponent's bias is 15 there, 127 here
    vf tiny = __builtin_convertvector(rest, vf) * 0x1p-24f;
    vi is_tiny = (vi)(rest < 0x400), is_special = (vi)(rest >= 0x7c00);
    vf found = choose(is_tiny, tiny, choose(is_special, (vf)((rest << 13) | 0x7f800000), normal));
    return (vf)((vu)found | sign);
}

INLINE void sum4(vf sums[4][PARTS], float *to)
{
    for (int i = 0; i < 4; i++) {
        float s[BLOCK];
        memcpy(s, sums[i], sizeof s);
        for (int half = BLOCK / 2; half > 0; half /= 2)
            for (int j = 0; j < half; j++) s[j] = s[j] + s[j + half];
        to[i] = s[0];
    }
}

// Each lane: sum + its 4 weights times 4 inputs.
INLINE vi dot(vi sum, vb weights, vb inputs)
{
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < 4; j++) sum[i] += weights[4 * i + j] * inputs[4 * i + j];
    return sum;
}
INLINE vi dot4(vi sum, vb levels, vb inputs) { return dot(sum, levels, inputs); }
INLINE vi settled(vi sum) { return sum; }
