/* Vectors of 32-bit sums, products of bytes, and bytes to floats and back.
 *
 * planish_v16i_* (AVX-512) and planish_v8i_* (AVX2) are what integer tiles accumulate in.
 * dot_quads adds to each lane four products of an unsigned byte (first operand) by a signed one,
 * exactly; without VNNI it multiplies sixteen bits, because vpmaddubsw would saturate.
 * load_i8, load_u8: bytes as floats. store_i8, store_u8: floats that are whole numbers in range.
 * quantize_i8, quantize_u8: store saturate(round(x) + zero), halves to even, for x below 2^31.
 * quantize_4x1, 2x2, 1x4 (vectors x rows): the same for four vectors at once, n bytes of each row.
 */
#ifndef PLANISH_INTEGER_H
#define PLANISH_INTEGER_H

/* n (1 to 3) bytes as the low ones of a word. */
PLANISH_INLINE int32_t planish_bytes(const void *p, int n) {
    const uint8_t *const b = (const uint8_t *)p;
    uint32_t word = b[0];
    if (n > 1) word |= (uint32_t)b[1] << 8;
    if (n > 2) word |= (uint32_t)b[2] << 16;
    return (int32_t)word;
}
PLANISH_INLINE int32_t planish_word(const void *p) {
    int32_t word;
    memcpy(&word, p, 4);
    return word;
}

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
typedef int32_t planish_v16i __attribute__((vector_size(64)));
#define PLANISH_V16I(x) ((planish_v16i)(x))

PLANISH_INLINE planish_v16i planish_v16i_zero(void) { return PLANISH_V16I(_mm512_setzero_si512()); }
PLANISH_INLINE planish_v16i planish_v16i_load(const int32_t *p) {
    return PLANISH_V16I(_mm512_loadu_si512(p));
}
PLANISH_INLINE void planish_v16i_store(int32_t *p, planish_v16i x) {
    _mm512_storeu_si512(p, (__m512i)x);
}
PLANISH_INLINE planish_v16i planish_v16_load_quads(const int8_t *p) {
    return PLANISH_V16I(_mm512_loadu_si512(p));
}
PLANISH_INLINE planish_v16i planish_v16_quad(const void *p) {
    return PLANISH_V16I(_mm512_set1_epi32(planish_word(p)));
}
PLANISH_INLINE planish_v16i planish_v16_quad_part(const void *p, int n) {
    return PLANISH_V16I(_mm512_set1_epi32(planish_bytes(p, n)));
}
PLANISH_INLINE planish_v16i planish_v16_flipped(planish_v16i x) {
    return PLANISH_V16I(_mm512_xor_si512((__m512i)x, _mm512_set1_epi8((char)0x80)));
}
PLANISH_INLINE planish_v16i planish_v16_dot_quads(planish_v16i a, planish_v16i b,
                                                  planish_v16i acc) {
#if defined(__AVX512VNNI__)
    return PLANISH_V16I(_mm512_dpbusd_epi32((__m512i)acc, (__m512i)a, (__m512i)b));
#else
    const __m512i low = _mm512_set1_epi16(0xff);
    const __m512i a_even = _mm512_and_si512((__m512i)a, low);
    const __m512i a_odd = _mm512_srli_epi16((__m512i)a, 8);
    const __m512i b_even = _mm512_srai_epi16(_mm512_slli_epi16((__m512i)b, 8), 8);
    const __m512i b_odd = _mm512_srai_epi16((__m512i)b, 8);
    return acc + PLANISH_V16I(_mm512_madd_epi16(a_even, b_even)) +
           PLANISH_V16I(_mm512_madd_epi16(a_odd, b_odd));
#endif
}
/* Lane c holds byte c of each of up to four rows, `stride` bytes apart; `part` lanes, or all (-1). */
PLANISH_INLINE __m128i planish_v16_row(const char *p, int part) {
    return part < 0 ? _mm_loadu_si128((const __m128i *)p)
                    : _mm_maskz_loadu_epi8(PLANISH_MASK16(part), p);
}
PLANISH_INLINE planish_v16i planish_v16_gather_rows(const void *p, int64_t stride, int rows,
                                                    int part) {
    const char *const b = (const char *)p;
#if defined(__AVX512VBMI__)
    const __m512i order = _mm512_add_epi32(
        _mm512_set1_epi32(0x30201000),
        _mm512_mullo_epi32(_mm512_set1_epi32(0x01010101),
                           _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)));
    __m512i x = _mm512_zextsi128_si512(planish_v16_row(b, part));
    if (rows > 1) x = _mm512_mask_broadcast_i32x4(x, 0x00f0, planish_v16_row(b + stride, part));
    if (rows > 2) x = _mm512_mask_broadcast_i32x4(x, 0x0f00, planish_v16_row(b + 2 * stride, part));
    if (rows > 3) x = _mm512_mask_broadcast_i32x4(x, 0xf000, planish_v16_row(b + 3 * stride, part));
    return PLANISH_V16I(_mm512_permutexvar_epi8(order, x));
#else
    __m512i x = _mm512_cvtepu8_epi32(planish_v16_row(b, part));
    for (int row = 1; row < rows; row++) {
        const __m512i next = _mm512_cvtepu8_epi32(planish_v16_row(b + row * stride, part));
        x = _mm512_or_si512(x, _mm512_sllv_epi32(next, _mm512_set1_epi32(8 * row)));
    }
    return PLANISH_V16I(x);
#endif
}
PLANISH_INLINE planish_v16 planish_v16_from_i32(planish_v16i x) {
    return _mm512_cvtepi32_ps((__m512i)x);
}
PLANISH_INLINE planish_v16 planish_v16_load_i8(const int8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
PLANISH_INLINE planish_v16 planish_v16_load_u8(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
PLANISH_INLINE planish_v16 planish_v16_load_i8_part(const int8_t *p, int n) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(PLANISH_MASK16(n), p)));
}
PLANISH_INLINE planish_v16 planish_v16_load_u8_part(const uint8_t *p, int n) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(PLANISH_MASK16(n), p)));
}
PLANISH_INLINE __m128i planish_v16_to_i8(planish_v16 x, int zero) {
    const __m512i q = _mm512_cvtps_epi32(x);
    return _mm512_cvtsepi32_epi8(zero ? _mm512_add_epi32(q, _mm512_set1_epi32(zero)) : q);
}
PLANISH_INLINE __m128i planish_v16_to_u8(planish_v16 x, int zero) {
    const __m512i q = _mm512_cvtps_epi32(x);
    const __m512i moved = zero ? _mm512_add_epi32(q, _mm512_set1_epi32(zero)) : q;
    return _mm512_cvtusepi32_epi8(_mm512_max_epi32(moved, _mm512_setzero_si512()));
}
/* table[x] for 16 bytes of either sign */
PLANISH_INLINE __m128i planish_v16_looked_up(const uint8_t *table, __m128i x) {
#if defined(__AVX512VBMI__)
    const __m512i wide = _mm512_castsi128_si512(x);
    const __m512i low = _mm512_permutex2var_epi8(_mm512_loadu_si512(table), wide,
                                                 _mm512_loadu_si512(table + 64));
    const __m512i high = _mm512_permutex2var_epi8(_mm512_loadu_si512(table + 128), wide,
                                                  _mm512_loadu_si512(table + 192));
    return _mm_mask_blend_epi8(_mm_movepi8_mask(x), _mm512_castsi512_si128(low),
                               _mm512_castsi512_si128(high));
#else
    uint8_t bytes[16];
    _mm_storeu_si128((__m128i *)bytes, x);
    for (int i = 0; i < 16; i++) bytes[i] = table[bytes[i]];
    return _mm_loadu_si128((const __m128i *)bytes);
#endif
}
#define PLANISH_STORE_BYTES16(NAME, T)                                                             \
    PLANISH_INLINE void planish_v16_quantize_##NAME(T *p, planish_v16 x, int zero) {               \
        _mm_storeu_si128((__m128i *)p, planish_v16_to_##NAME(x, zero));                            \
    }                                                                                              \
    PLANISH_INLINE void planish_v16_quantize_##NAME##_part(T *p, planish_v16 x, int zero, int n) { \
        _mm_mask_storeu_epi8(p, PLANISH_MASK16(n), planish_v16_to_##NAME(x, zero));                \
    }                                                                                              \
    PLANISH_INLINE void planish_v16_look_up_##NAME(void *p, const uint8_t *t, planish_v16 x,       \
                                                   int zero) {                                     \
        _mm_storeu_si128((__m128i *)p, planish_v16_looked_up(t, planish_v16_to_##NAME(x, zero)));  \
    }                                                                                              \
    PLANISH_INLINE void planish_v16_look_up_##NAME##_part(void *p, const uint8_t *t,               \
                                                          planish_v16 x, int zero, int n) {        \
        const __m128i y = planish_v16_looked_up(t, planish_v16_to_##NAME(x, zero));                \
        _mm_mask_storeu_epi8(p, PLANISH_MASK16(n), y);                                             \
    }
PLANISH_STORE_BYTES16(i8, int8_t)
PLANISH_STORE_BYTES16(u8, uint8_t)
/* Four vectors, saturated to bytes, one after the other: narrowing them together takes half the
 * shuffles of narrowing each. */
PLANISH_INLINE __m512i planish_v16_words_of(planish_v16 x, planish_v16 y, int zero) {
    const __m512i q = _mm512_packs_epi32(_mm512_cvtps_epi32(x), _mm512_cvtps_epi32(y));
    return zero ? _mm512_adds_epi16(q, _mm512_set1_epi16((int16_t)zero)) : q;
}
#define PLANISH_STORE_GROUPS(NAME, PACK, T)                                                        \
    PLANISH_INLINE __m512i planish_v16_pack4_##NAME(planish_v16 a, planish_v16 b, planish_v16 c,   \
                                                    planish_v16 d, int zero) {                     \
        const __m512i order =                                                                      \
            _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);               \
        const __m512i words = planish_v16_words_of(a, b, zero);                                    \
        return _mm512_permutexvar_epi32(order, PACK(words, planish_v16_words_of(c, d, zero)));     \
    }                                                                                              \
    PLANISH_INLINE void planish_v16_quantize_4x1_##NAME(T *p, planish_v16 a, planish_v16 b,        \
                                                        planish_v16 c, planish_v16 d, int zero,    \
                                                        int n) {                                   \
        const __m512i x = planish_v16_pack4_##NAME(a, b, c, d, zero);                              \
        if (n == 64) _mm512_storeu_si512(p, x);                                                    \
        else _mm512_mask_storeu_epi8(p, (1ull << n) - 1u, x);                                      \
    }                                                                                              \
    PLANISH_INLINE void planish_v16_quantize_2x2_##NAME(T *p, T *q, planish_v16 a, planish_v16 b,  \
                                                        planish_v16 c, planish_v16 d, int zero,    \
                                                        int n) {                                   \
        const __m512i x = planish_v16_pack4_##NAME(a, b, c, d, zero);                              \
        const __m256i low = _mm512_castsi512_si256(x), high = _mm512_extracti64x4_epi64(x, 1);     \
        const __mmask32 mask = (__mmask32)((1ull << n) - 1u);                                      \
        if (n == 32) _mm256_storeu_si256((__m256i *)p, low);                                       \
        else _mm256_mask_storeu_epi8(p, mask, low);                                                \
        if (n == 32) _mm256_storeu_si256((__m256i *)q, high);                                      \
        else _mm256_mask_storeu_epi8(q, mask, high);                                               \
    }                                                                                              \
    PLANISH_INLINE void planish_v16_quantize_1x4_##NAME(T *p, T *q, T *r, T *s, planish_v16 a,     \
                                                        planish_v16 b, planish_v16 c,              \
                                                        planish_v16 d, int zero, int n) {          \
        const __m512i x = planish_v16_pack4_##NAME(a, b, c, d, zero);                              \
        const __mmask16 mask = PLANISH_MASK16(n);                                                  \
        _mm_mask_storeu_epi8(p, mask, _mm512_castsi512_si128(x));                                  \
        _mm_mask_storeu_epi8(q, mask, _mm512_extracti32x4_epi32(x, 1));                            \
        _mm_mask_storeu_epi8(r, mask, _mm512_extracti32x4_epi32(x, 2));                            \
        _mm_mask_storeu_epi8(s, mask, _mm512_extracti32x4_epi32(x, 3));                            \
    }
PLANISH_STORE_GROUPS(i8, _mm512_packs_epi16, int8_t)
PLANISH_STORE_GROUPS(u8, _mm512_packus_epi16, uint8_t)
#endif /* AVX-512 */

#if defined(__AVX2__) && defined(__FMA__)
typedef int32_t planish_v8i __attribute__((vector_size(32)));
#define PLANISH_V8I(x) ((planish_v8i)(x))

PLANISH_INLINE planish_v8i planish_v8i_zero(void) { return PLANISH_V8I(_mm256_setzero_si256()); }
PLANISH_INLINE planish_v8i planish_v8i_load(const int32_t *p) {
    return PLANISH_V8I(_mm256_loadu_si256((const __m256i *)p));
}
PLANISH_INLINE void planish_v8i_store(int32_t *p, planish_v8i x) {
    _mm256_storeu_si256((__m256i *)p, (__m256i)x);
}
PLANISH_INLINE planish_v8i planish_v8_load_quads(const int8_t *p) {
    return PLANISH_V8I(_mm256_loadu_si256((const __m256i *)p));
}
PLANISH_INLINE planish_v8i planish_v8_quad(const void *p) {
    return PLANISH_V8I(_mm256_set1_epi32(planish_word(p)));
}
PLANISH_INLINE planish_v8i planish_v8_quad_part(const void *p, int n) {
    return PLANISH_V8I(_mm256_set1_epi32(planish_bytes(p, n)));
}
PLANISH_INLINE planish_v8i planish_v8_flipped(planish_v8i x) {
    return PLANISH_V8I(_mm256_xor_si256((__m256i)x, _mm256_set1_epi8((char)0x80)));
}
PLANISH_INLINE planish_v8i planish_v8_dot_quads(planish_v8i a, planish_v8i b, planish_v8i acc) {
#if defined(__AVXVNNI__)
    return PLANISH_V8I(_mm256_dpbusd_avx_epi32((__m256i)acc, (__m256i)a, (__m256i)b));
#else
    const __m256i low = _mm256_set1_epi16(0xff);
    const __m256i a_even = _mm256_and_si256((__m256i)a, low);
    const __m256i a_odd = _mm256_srli_epi16((__m256i)a, 8);
    const __m256i b_even = _mm256_srai_epi16(_mm256_slli_epi16((__m256i)b, 8), 8);
    const __m256i b_odd = _mm256_srai_epi16((__m256i)b, 8);
    return acc + PLANISH_V8I(_mm256_madd_epi16(a_even, b_even)) +
           PLANISH_V8I(_mm256_madd_epi16(a_odd, b_odd));
#endif
}
PLANISH_INLINE __m128i planish_v8_row(const char *p, int part) {
    if (part < 0) return _mm_loadl_epi64((const __m128i *)p);
    int64_t bytes = 0;
    memcpy(&bytes, p, (size_t)part);
    return _mm_cvtsi64_si128(bytes);
}
PLANISH_INLINE planish_v8i planish_v8_gather_rows(const void *p, int64_t stride, int rows,
                                                  int part) {
    const char *const b = (const char *)p;
    const __m128i none = _mm_setzero_si128();
    const __m128i r0 = planish_v8_row(b, part);
    const __m128i r1 = rows > 1 ? planish_v8_row(b + stride, part) : none;
    const __m128i r2 = rows > 2 ? planish_v8_row(b + 2 * stride, part) : none;
    const __m128i r3 = rows > 3 ? planish_v8_row(b + 3 * stride, part) : none;
    const __m128i low = _mm_unpacklo_epi8(r0, r1), high = _mm_unpacklo_epi8(r2, r3);
    return PLANISH_V8I(
        _mm256_set_m128i(_mm_unpackhi_epi16(low, high), _mm_unpacklo_epi16(low, high)));
}
PLANISH_INLINE planish_v8 planish_v8_from_i32(planish_v8i x) {
    return _mm256_cvtepi32_ps((__m256i)x);
}
PLANISH_INLINE planish_v8 planish_v8_load_i8(const int8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
PLANISH_INLINE planish_v8 planish_v8_load_u8(const uint8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
PLANISH_INLINE __m128i planish_v8_to_words(planish_v8 x, int zero) {
    const __m256i q = _mm256_cvtps_epi32(x);
    const __m256i moved = _mm256_add_epi32(q, _mm256_set1_epi32(zero));
    return _mm_packs_epi32(_mm256_castsi256_si128(moved), _mm256_extracti128_si256(moved, 1));
}
PLANISH_INLINE __m128i planish_v8_to_i8(planish_v8 x, int zero) {
    const __m128i words = planish_v8_to_words(x, zero);
    return _mm_packs_epi16(words, words);
}
PLANISH_INLINE __m128i planish_v8_to_u8(planish_v8 x, int zero) {
    const __m128i words = planish_v8_to_words(x, zero);
    return _mm_packus_epi16(words, words);
}
#define PLANISH_BYTES8(NAME, T)                                                                    \
    PLANISH_INLINE planish_v8 planish_v8_load_##NAME##_part(const T *p, int n) {                   \
        T bytes[8] = {0};                                                                          \
        memcpy(bytes, p, (size_t)n);                                                               \
        return planish_v8_load_##NAME(bytes);                                                      \
    }                                                                                              \
    PLANISH_INLINE void planish_v8_quantize_##NAME(T *p, planish_v8 x, int zero) {                 \
        _mm_storel_epi64((__m128i *)p, planish_v8_to_##NAME(x, zero));                             \
    }                                                                                              \
    PLANISH_INLINE void planish_v8_quantize_##NAME##_part(T *p, planish_v8 x, int zero, int n) {   \
        T bytes[8];                                                                                \
        planish_v8_quantize_##NAME(bytes, x, zero);                                                \
        memcpy(p, bytes, (size_t)n);                                                               \
    }                                                                                              \
    PLANISH_INLINE void planish_v8_look_up_##NAME##_part(void *p, const uint8_t *t, planish_v8 x,  \
                                                         int zero, int n) {                        \
        uint8_t bytes[8];                                                                          \
        planish_v8_quantize_##NAME((T *)bytes, x, zero);                                           \
        for (int i = 0; i < n; i++) ((uint8_t *)p)[i] = t[bytes[i]];                               \
    }                                                                                              \
    PLANISH_INLINE void planish_v8_look_up_##NAME(void *p, const uint8_t *t, planish_v8 x,         \
                                                  int zero) {                                      \
        planish_v8_look_up_##NAME##_part(p, t, x, zero, 8);                                        \
    }
PLANISH_BYTES8(i8, int8_t)
PLANISH_BYTES8(u8, uint8_t)
#endif /* AVX2 */
/* y[i] = table[x[i]] for n bytes of either sign. */
PLANISH_INLINE void planish_lookup(void *to, const void *from, const void *table, int64_t n) {
    uint8_t *const y = (uint8_t *)to;
    const uint8_t *const x = (const uint8_t *)from, *const t = (const uint8_t *)table;
#if defined(__AVX512VBMI__)
    const __m512i t0 = _mm512_loadu_si512(t), t1 = _mm512_loadu_si512(t + 64);
    const __m512i t2 = _mm512_loadu_si512(t + 128), t3 = _mm512_loadu_si512(t + 192);
    for (int64_t i = 0; i < n; i += 64) {
        const __mmask64 mask = n - i < 64 ? (1ull << (n - i)) - 1u : ~0ull;
        const __m512i v = _mm512_maskz_loadu_epi8(mask, x + i);
        const __m512i low = _mm512_permutex2var_epi8(t0, v, t1);
        const __m512i high = _mm512_permutex2var_epi8(t2, v, t3);
        const __m512i found = _mm512_mask_blend_epi8(_mm512_movepi8_mask(v), low, high);
        _mm512_mask_storeu_epi8(y + i, mask, found);
    }
#else
    for (int64_t i = 0; i < n; i++) y[i] = t[x[i]];
#endif
}
#endif /* PLANISH_INTEGER_H */
