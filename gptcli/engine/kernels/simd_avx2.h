// AVX2 with FMA and F16C.
#include <immintrin.h>

enum { STREAM = 4, TILE = 3, Q_TILE = 4, Q_VECTORS = 1, WEIGHT_BIAS = 0 };

INLINE vf fma_(vf a, vf b, vf c) { return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
INLINE vf widen_bf16(vh h) { return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32((__m128i)h), 16); }
INLINE vf widen_f16(vh h) { return (vf)_mm256_cvtph_ps((__m128i)h); }

INLINE __m128 sum_to_4(vf s[PARTS])  // j with j + 8, then j + 4
{
    __m256 t = _mm256_add_ps((__m256)s[0], (__m256)s[1]);
    return _mm_add_ps(_mm256_castps256_ps128(t), _mm256_extractf128_ps(t, 1));
}

INLINE void sum4(vf s[4][PARTS], float *to)
{
    __m128 a = sum_to_4(s[0]), b = sum_to_4(s[1]), c = sum_to_4(s[2]), d = sum_to_4(s[3]);
    __m128 ab = _mm_add_ps(_mm_movelh_ps(a, b), _mm_movehl_ps(b, a));
    __m128 cd = _mm_add_ps(_mm_movelh_ps(c, d), _mm_movehl_ps(d, c));
    _mm_storeu_ps(to, _mm_add_ps(_mm_shuffle_ps(ab, cd, 0x88), _mm_shuffle_ps(ab, cd, 0xdd)));
}

INLINE vi dot(vi sum, vb weights, vb inputs)  // pairs fit into 16 bits: 2 * 127 * 127
{
    __m256i w = (__m256i)weights, x = _mm256_sign_epi8((__m256i)inputs, w);
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), x);
    return sum + (vi)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

// Sums of pairs in 16 bits, where a whole group has room: 16 * 15 * 127; settled() adds the pairs.
INLINE vi dot4(vi sum, vb levels, vb inputs)
{
    return (vi)_mm256_add_epi16((__m256i)sum, _mm256_maddubs_epi16((__m256i)levels, (__m256i)inputs));
}
INLINE vi settled(vi sum) { return (vi)_mm256_madd_epi16((__m256i)sum, _mm256_set1_epi16(1)); }
