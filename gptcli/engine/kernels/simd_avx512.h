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
INLINE vi dot(vi sum, vb weights, vb inputs)  // pairs fit into 16 bits: 2 * 127 * 127
{
    __m512i w = (__m512i)weights, x = (__m512i)inputs;
    x = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(w), _mm512_setzero_si512(), x);
    __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(w), x);
    return sum + (vi)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
}

// Sums of pairs in 16 bits, where a whole group has room: 16 * 15 * 127; settled() adds the pairs.
INLINE vi dot4(vi sum, vb levels, vb inputs)
{
    return (vi)_mm512_add_epi16((__m512i)sum, _mm512_maddubs_epi16((__m512i)levels, (__m512i)inputs));
}
INLINE vi settled(vi sum) { return (vi)_mm512_madd_epi16((__m512i)sum, _mm512_set1_epi16(1)); }
#else
enum { WEIGHT_BIAS = 128 };  // the instruction takes weights without a sign
INLINE vi dot(vi sum, vb weights, vb inputs)
{
    return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)weights, (__m512i)inputs);
}
INLINE vi dot4(vi sum, vb levels, vb inputs) { return dot(sum, levels, inputs); }
INLINE vi settled(vi sum) { return sum; }
#endif
