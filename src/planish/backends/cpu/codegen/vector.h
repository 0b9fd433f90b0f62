/* Vectors of floats: what GEMM tiles and their epilogues are printed with.
 *
 * One set of names for each width: planish_v16_* (AVX-512: F, BW, VL) and planish_v8_* (AVX2, FMA).
 * "_part" reads or writes the first n elements only and touches no memory behind them; elements
 * that are not read are 0. Arithmetic is written with the operators that gcc and clang define on
 * vector types; a * b + c contracts to an FMA.
 */
#ifndef PLANISH_VECTOR_H
#define PLANISH_VECTOR_H

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define PLANISH_WIDE 1
typedef __m512 planish_v16;
#define PLANISH_MASK16(n) ((__mmask16)((1u << (n)) - 1u))

PLANISH_INLINE planish_v16 planish_v16_zero(void) { return _mm512_setzero_ps(); }
PLANISH_INLINE planish_v16 planish_v16_set1(float x) { return _mm512_set1_ps(x); }
PLANISH_INLINE planish_v16 planish_v16_load(const float *p) { return _mm512_loadu_ps(p); }
PLANISH_INLINE planish_v16 planish_v16_load_part(const float *p, int n) {
    return _mm512_maskz_loadu_ps(PLANISH_MASK16(n), p);
}
PLANISH_INLINE void planish_v16_store(float *p, planish_v16 x) { _mm512_storeu_ps(p, x); }
PLANISH_INLINE void planish_v16_store_part(float *p, planish_v16 x, int n) {
    _mm512_mask_storeu_ps(p, PLANISH_MASK16(n), x);
}
PLANISH_INLINE planish_v16 planish_v16_widen(__m256i h) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
PLANISH_INLINE __m256i planish_v16_narrow(planish_v16 x) {
#if defined(__AVX512BF16__)
    return (__m256i)_mm512_cvtneps_pbh(x);
#else
    const __m512i u = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __m512i quiet = _mm512_or_si512(u, _mm512_set1_epi32(0x400000));
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_mov_epi32(up, nan, quiet), 16));
#endif
}
PLANISH_INLINE planish_v16 planish_v16_load_bf16(const uint16_t *p) {
    return planish_v16_widen(_mm256_loadu_si256((const __m256i *)p));
}
PLANISH_INLINE planish_v16 planish_v16_load_bf16_part(const uint16_t *p, int n) {
    return planish_v16_widen(_mm256_maskz_loadu_epi16(PLANISH_MASK16(n), p));
}
PLANISH_INLINE void planish_v16_store_bf16(uint16_t *p, planish_v16 x) {
    _mm256_storeu_si256((__m256i *)p, planish_v16_narrow(x));
}
PLANISH_INLINE void planish_v16_store_bf16_part(uint16_t *p, planish_v16 x, int n) {
    _mm256_mask_storeu_epi16(p, PLANISH_MASK16(n), planish_v16_narrow(x));
}
PLANISH_INLINE planish_v16 planish_v16_fma(planish_v16 a, planish_v16 b, planish_v16 c) {
    return _mm512_fmadd_ps(a, b, c);
}
/* NaN in the second operand stays NaN. */
PLANISH_INLINE planish_v16 planish_v16_max(planish_v16 a, planish_v16 b) {
    return _mm512_max_ps(a, b);
}
PLANISH_INLINE planish_v16 planish_v16_min(planish_v16 a, planish_v16 b) {
    return _mm512_min_ps(a, b);
}
PLANISH_INLINE planish_v16 planish_v16_sqrt(planish_v16 x) { return _mm512_sqrt_ps(x); }
/* x < 0 ? a : b */
PLANISH_INLINE planish_v16 planish_v16_if_negative(planish_v16 x, planish_v16 a, planish_v16 b) {
    const __mmask16 below = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
    return _mm512_mask_mov_ps(b, below, a);
}
/* round to the nearest integer; 2^n as the exponent bits of an integral n in -126..127 */
PLANISH_INLINE planish_v16 planish_v16_round(planish_v16 x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
PLANISH_INLINE planish_v16 planish_v16_scale(planish_v16 x, planish_v16 n) {
    return _mm512_scalef_ps(x, n);
}
/* x[0..1] as one pair of bf16, in every lane; and acc += a.x * b.x + a.y * b.y lane by lane */
PLANISH_INLINE __m512i planish_v16_pair(const uint16_t *p) {
    int32_t pair;
    memcpy(&pair, p, 4);
    return _mm512_set1_epi32(pair);
}
PLANISH_INLINE __m512i planish_v16_single(const uint16_t *p) { return _mm512_set1_epi32(*p); }
PLANISH_INLINE __m512i planish_v16_load_pairs(const uint16_t *p) { return _mm512_loadu_si512(p); }
PLANISH_INLINE float planish_v16_largest(planish_v16 x) { return _mm512_reduce_max_ps(x); }
PLANISH_INLINE float planish_v16_sum(planish_v16 x) { return _mm512_reduce_add_ps(x); }
/* f words of 32 bits, repeated over the register; and the first of them by half words, rest zero */
PLANISH_INLINE __m512i planish_v16_words2(const void *p) {
    int64_t words;
    memcpy(&words, p, 8);
    return _mm512_set1_epi64(words);
}
PLANISH_INLINE __m512i planish_v16_words4(const void *p) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)p));
}
PLANISH_INLINE __m512i planish_v16_words8(const void *p) {
    return _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)p));
}
PLANISH_INLINE __m512i planish_v16_words16(const void *p) { return _mm512_loadu_si512(p); }
PLANISH_INLINE __m512i planish_v16_words_part(const void *p, int halves, int f) {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i x = _mm512_maskz_loadu_epi16((__mmask32)((1ull << halves) - 1u), p);
    return _mm512_permutexvar_epi32(_mm512_and_si512(lane, _mm512_set1_epi32(f - 1)), x);
}
/* Sums of each f neighbouring lanes, moved to the front. */
PLANISH_INLINE planish_v16 planish_v16_pair_sums(planish_v16 x) {
    return x + _mm512_permute_ps(x, 0xb1);
}
PLANISH_INLINE planish_v16 planish_v16_fold2(planish_v16 x) {
    return _mm512_maskz_compress_ps(0x5555, planish_v16_pair_sums(x));
}
PLANISH_INLINE planish_v16 planish_v16_quad_sums(planish_v16 x) {
    const planish_v16 pairs = planish_v16_pair_sums(x);
    return pairs + _mm512_permute_ps(pairs, 0x4e);
}
PLANISH_INLINE planish_v16 planish_v16_fold4(planish_v16 x) {
    return _mm512_maskz_compress_ps(0x1111, planish_v16_quad_sums(x));
}
PLANISH_INLINE planish_v16 planish_v16_fold8(planish_v16 x) {
    const planish_v16 quads = planish_v16_quad_sums(x);
    const planish_v16 sums = quads + _mm512_shuffle_f32x4(quads, quads, 0xb1);
    return _mm512_maskz_compress_ps(0x0101, sums);
}
PLANISH_INLINE planish_v16 planish_v16_fold16(planish_v16 x) {
    return _mm512_castps128_ps512(_mm_set_ss(_mm512_reduce_add_ps(x)));
}
#if defined(__AVX512BF16__)
PLANISH_INLINE planish_v16 planish_v16_dot(__m512i a, __m512i b, planish_v16 acc) {
    return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b);
}
#endif
#endif /* AVX-512 */

#if defined(__AVX2__) && defined(__FMA__)
typedef __m256 planish_v8;

PLANISH_INLINE __m256i planish_v8_mask(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
PLANISH_INLINE planish_v8 planish_v8_zero(void) { return _mm256_setzero_ps(); }
PLANISH_INLINE planish_v8 planish_v8_set1(float x) { return _mm256_set1_ps(x); }
PLANISH_INLINE planish_v8 planish_v8_load(const float *p) { return _mm256_loadu_ps(p); }
PLANISH_INLINE planish_v8 planish_v8_load_part(const float *p, int n) {
    return _mm256_maskload_ps(p, planish_v8_mask(n));
}
PLANISH_INLINE void planish_v8_store(float *p, planish_v8 x) { _mm256_storeu_ps(p, x); }
PLANISH_INLINE void planish_v8_store_part(float *p, planish_v8 x, int n) {
    _mm256_maskstore_ps(p, planish_v8_mask(n), x);
}
PLANISH_INLINE planish_v8 planish_v8_widen(__m128i h) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
PLANISH_INLINE __m128i planish_v8_narrow(planish_v8 x) {
    const __m256i u = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i bits = _mm256_srli_epi32(_mm256_blendv_epi8(up, quiet, nan), 16);
    const __m256i packed = _mm256_packus_epi32(bits, bits);
    return _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
}
PLANISH_INLINE planish_v8 planish_v8_load_bf16(const uint16_t *p) {
    return planish_v8_widen(_mm_loadu_si128((const __m128i *)p));
}
PLANISH_INLINE planish_v8 planish_v8_load_bf16_part(const uint16_t *p, int n) {
    uint16_t h[8] = {0};
    memcpy(h, p, (size_t)n * 2);
    return planish_v8_load_bf16(h);
}
PLANISH_INLINE void planish_v8_store_bf16(uint16_t *p, planish_v8 x) {
    _mm_storeu_si128((__m128i *)p, planish_v8_narrow(x));
}
PLANISH_INLINE void planish_v8_store_bf16_part(uint16_t *p, planish_v8 x, int n) {
    uint16_t h[8];
    planish_v8_store_bf16(h, x);
    memcpy(p, h, (size_t)n * 2);
}
PLANISH_INLINE planish_v8 planish_v8_fma(planish_v8 a, planish_v8 b, planish_v8 c) {
    return _mm256_fmadd_ps(a, b, c);
}
PLANISH_INLINE planish_v8 planish_v8_max(planish_v8 a, planish_v8 b) { return _mm256_max_ps(a, b); }
PLANISH_INLINE planish_v8 planish_v8_min(planish_v8 a, planish_v8 b) { return _mm256_min_ps(a, b); }
PLANISH_INLINE planish_v8 planish_v8_sqrt(planish_v8 x) { return _mm256_sqrt_ps(x); }
PLANISH_INLINE planish_v8 planish_v8_if_negative(planish_v8 x, planish_v8 a, planish_v8 b) {
    return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_LT_OQ));
}
PLANISH_INLINE planish_v8 planish_v8_round(planish_v8 x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* x * 2^n in two steps, so that results below 2^-126 and above 2^127 come out right */
PLANISH_INLINE planish_v8 planish_v8_scale(planish_v8 x, planish_v8 n) {
    const __m256i k = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(k, 1);
    const __m256i bias = _mm256_set1_epi32(127), rest = _mm256_sub_epi32(k, half);
    const __m256i s1 = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    const __m256i s2 = _mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23);
    return x * _mm256_castsi256_ps(s1) * _mm256_castsi256_ps(s2);
}
PLANISH_INLINE float planish_v8_largest(planish_v8 x) {
    float lanes[8], top;
    _mm256_storeu_ps(lanes, x);
    top = lanes[0];
    for (int i = 1; i < 8; i++) top = lanes[i] > top ? lanes[i] : top;
    return top;
}
PLANISH_INLINE float planish_v8_sum(planish_v8 x) {
    const __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)));
}
#endif /* AVX2 */

/* ---- functions on either width --------------------------------------------------------------- */

/* exp, sigmoid, tanh and erf: the algorithms of the scalar functions of the same names. */
#define PLANISH_VECTOR_FUNCTIONS(V)                                                                \
    PLANISH_INLINE V V##_relu(V x) { return V##_max(V##_zero(), x); }                              \
    PLANISH_INLINE V V##_clip(V x, V low, V high) { return V##_min(high, V##_max(low, x)); }       \
    /* x / scale, rounded as a division does, at a quarter of its cost: a product with the          \
     * reciprocal, corrected by what it leaves over (P. Markstein, "IA-64 and Elementary            \
     * Functions", 2000). Beyond 1e9 it is 1e9. */                                                 \
    PLANISH_INLINE V V##_quotient(V x, V scale, V inverse) {                                       \
        const V most = V##_set1(1e9f) * scale, c = V##_clip(x, V##_zero() - most, most);           \
        const V q = c * inverse;                                                                   \
        return V##_fma(V##_fma(V##_zero() - q, scale, c), inverse, q);                             \
    }                                                                                              \
    PLANISH_INLINE V V##_abs(V x) { return V##_max(V##_zero() - x, x); }                           \
    PLANISH_INLINE V V##_exp(V x) {                                                                \
        const V c = V##_clip(x, V##_set1(-104.0f), V##_set1(89.0f));                               \
        const V n = V##_round(c * V##_set1(1.44269504f));                                          \
        const V r = V##_fma(n, V##_set1(2.12194440e-4f), V##_fma(n, V##_set1(-0.693359375f), c));  \
        V p = V##_set1(1.9875691500e-4f);                                                          \
        p = V##_fma(p, r, V##_set1(1.3981999507e-3f));                                             \
        p = V##_fma(p, r, V##_set1(8.3334519073e-3f));                                             \
        p = V##_fma(p, r, V##_set1(4.1665795894e-2f));                                             \
        p = V##_fma(p, r, V##_set1(1.6666665459e-1f));                                             \
        p = V##_fma(p, r, V##_set1(5.0000001201e-1f));                                             \
        return V##_scale(V##_fma(p, r * r, r) + V##_set1(1.0f), n);                                \
    }                                                                                              \
    /* 2^x for x <= 0 in one reduction step (softmax); below 2^-149 it is 0. 1.5 ulp. */           \
    PLANISH_INLINE V V##_exp2_nonpositive(V x) {                                                   \
        const V c = V##_max(V##_set1(-150.0f), x), n = V##_round(c), f = c - n;                    \
        V p = V##_set1(1.3266970386e-3f);                                                          \
        p = V##_fma(p, f, V##_set1(9.6754597455e-3f));                                             \
        p = V##_fma(p, f, V##_set1(5.5507426160e-2f));                                             \
        p = V##_fma(p, f, V##_set1(2.4022121754e-1f));                                             \
        p = V##_fma(p, f, V##_set1(6.9314694916e-1f));                                             \
        return V##_scale(V##_fma(p, f, V##_set1(1.0f)), n);                                        \
    }                                                                                              \
    PLANISH_INLINE V V##_sigmoid(V x) {                                                            \
        return V##_set1(1.0f) / (V##_set1(1.0f) + V##_exp(V##_zero() - x));                        \
    }                                                                                              \
    PLANISH_INLINE V V##_tanh(V x) {                                                               \
        const V c = V##_clip(x, V##_set1(-7.90531110763549805f), V##_set1(7.90531110763549805f));  \
        const V s = c * c;                                                                         \
        V p = V##_set1(-2.76076847742355e-16f), q = V##_set1(1.19825839466702e-06f);               \
        p = V##_fma(p, s, V##_set1(2.00018790482477e-13f));                                        \
        p = V##_fma(p, s, V##_set1(-8.60467152213735e-11f));                                       \
        p = V##_fma(p, s, V##_set1(5.12229709037114e-08f));                                        \
        p = V##_fma(p, s, V##_set1(1.48572235717979e-05f));                                        \
        p = V##_fma(p, s, V##_set1(6.37261928875436e-04f));                                        \
        p = V##_fma(p, s, V##_set1(4.89352455891786e-03f));                                        \
        q = V##_fma(q, s, V##_set1(1.18534705686654e-04f));                                        \
        q = V##_fma(q, s, V##_set1(2.26843463243900e-03f));                                        \
        q = V##_fma(q, s, V##_set1(4.89352518554385e-03f));                                        \
        return c * p / q;                                                                          \
    }                                                                                              \
    PLANISH_INLINE V V##_erf(V x) {                                                                \
        const V c = V##_clip(x, V##_set1(-4.0f), V##_set1(4.0f)), s = c * c;                       \
        V p = V##_set1(-2.72614225801306e-10f), q = V##_set1(-1.45660718464996e-05f);              \
        p = V##_fma(p, s, V##_set1(2.77068142495902e-08f));                                        \
        p = V##_fma(p, s, V##_set1(-2.10102402082508e-06f));                                       \
        p = V##_fma(p, s, V##_set1(-5.69250639462346e-05f));                                       \
        p = V##_fma(p, s, V##_set1(-7.34990630326855e-04f));                                       \
        p = V##_fma(p, s, V##_set1(-2.95459980854025e-03f));                                       \
        p = V##_fma(p, s, V##_set1(-1.60960333262415e-02f));                                       \
        q = V##_fma(q, s, V##_set1(-2.13374055278905e-04f));                                       \
        q = V##_fma(q, s, V##_set1(-1.68282697438203e-03f));                                       \
        q = V##_fma(q, s, V##_set1(-7.37332916720468e-03f));                                       \
        q = V##_fma(q, s, V##_set1(-1.42647390514189e-02f));                                       \
        return c * p / q;                                                                          \
    }                                                                                              \
    PLANISH_INLINE V V##_gelu(V x) {                                                               \
        const V half = V##_set1(0.5f) * x;                                                         \
        return V##_fma(half, V##_erf(x * V##_set1(0.70710678118f)), half);                         \
    }                                                                                              \
    PLANISH_INLINE V V##_gelu_tanh(V x) {                                                          \
        const V cubic = V##_fma(V##_set1(0.044715f) * x * x, x, x), half = V##_set1(0.5f) * x;     \
        return V##_fma(half, V##_tanh(V##_set1(0.7978845608f) * cubic), half);                     \
    }

#if defined(PLANISH_WIDE)
PLANISH_VECTOR_FUNCTIONS(planish_v16)
#endif
#if defined(__AVX2__) && defined(__FMA__)
PLANISH_VECTOR_FUNCTIONS(planish_v8)
#endif
#endif /* PLANISH_VECTOR_H */
