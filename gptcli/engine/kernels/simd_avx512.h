// AVX-512, with integer products of its own (VNNI) or by AVX-512BW.
#include <immintrin.h>

enum { STREAM = 8, TILE = 6, Q_TILE = 6, Q_VECTORS = 2 };

INLINE vf fma_(vf a, vf b, vf c) { return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
INLINE vf widen_bf16(vh h) { return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)h), 16); }
INLINE vf widen_f16(vh h) { return (vf)_mm512_cvtph_ps((__m256i)h); }

INLINE void sum4(vf s[4][PARTS], float *to)
{
    __m512 a = (__m512)s[0][0], b = (__m512)s[1][0], c = (__m512)s[2][0], d = (__m512)s[3][0];
    __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
    __m512 t = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
    t = _mm512_add_ps(t, _mm512_permute_ps(t, 0x4e));
    t = _mm512_add_ps(t, _mm512_permute_ps(t, 0xb1));
    const __m512i firsts = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
    _mm_storeu_ps(to, _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, t)));
}

#if defined(BUILD_avx512)
enum { WEIGHT_BIAS = 0 };
INLINE vi dot_unsigned(vi sum, vb levels, vb inputs)  // pairs fit into 16 bits: 2 * 127 * 127
{
    __m512i pairs = _mm512_maddubs_epi16((__m512i)levels, (__m512i)inputs);
    return sum + (vi)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
}
INLINE vi dot(vi sum, vb weights, vb inputs)
{
    __mmask64 negative = _mm512_movepi8_mask((__m512i)weights);
    __m512i x = (__m512i)inputs;
    x = _mm512_mask_sub_epi8(x, negative, _mm512_setzero_si512(), x);
    return dot_unsigned(sum, (vb)_mm512_abs_epi8((__m512i)weights), (vb)x);
}
#else
enum { WEIGHT_BIAS = 128 };  // the instruction takes weights without a sign
INLINE vi dot_unsigned(vi sum, vb levels, vb inputs)
{
    return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)levels, (__m512i)inputs);
}
INLINE vi dot(vi sum, vb weights, vb inputs) { return dot_unsigned(sum, weights, inputs); }
#endif
