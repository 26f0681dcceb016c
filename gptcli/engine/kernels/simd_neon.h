// AArch64, with the dot product instruction (neondot) or without.
#include <arm_neon.h>

enum { STREAM = 4, TILE = 4, Q_TILE = 2, Q_VECTORS = 4, WEIGHT_BIAS = 0 };

INLINE vf fma_(vf a, vf b, vf c) { return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
INLINE vf widen_bf16(vh h) { return (vf)vshll_n_u16((uint16x4_t)h, 16); }
INLINE vf widen_f16(vh h) { return (vf)vcvt_f32_f16((float16x4_t)h); }

INLINE float32x4_t sum_to_4(vf s[PARTS])  // j with j + 8, then j + 4
{
    return vaddq_f32((float32x4_t)(s[0] + s[2]), (float32x4_t)(s[1] + s[3]));
}

INLINE float32x4_t sum_to_2(float32x4_t a, float32x4_t b)  // j with j + 2, of two
{
    return vaddq_f32(vcombine_f32(vget_low_f32(a), vget_low_f32(b)),
                     vcombine_f32(vget_high_f32(a), vget_high_f32(b)));
}

INLINE void sum4(vf s[4][PARTS], float *to)
{
    float32x4_t ab = sum_to_2(sum_to_4(s[0]), sum_to_4(s[1]));
    float32x4_t cd = sum_to_2(sum_to_4(s[2]), sum_to_4(s[3]));
    vst1q_f32(to, vpaddq_f32(ab, cd));
}

INLINE vi dot(vi sum, vb weights, vb inputs)
{
    int8x16_t w = (int8x16_t)weights, x = (int8x16_t)inputs;
#if defined(BUILD_neondot)
    return (vi)vdotq_s32((int32x4_t)sum, w, x);
#else  // pairs fit into 16 bits: 2 * 127 * 127
    int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(x)), high = vmull_high_s8(w, x);
    return (vi)vpadalq_s16((int32x4_t)sum, vpaddq_s16(low, high));
#endif
}
INLINE vi dot4(vi sum, vb levels, vb inputs) { return dot(sum, levels, inputs); }
INLINE vi settled(vi sum) { return sum; }
