/* Weights of four or eight bits as floats: (number - zero) * scale, a scale for each group of K.
 *
 * Layout (compressed.py): eight K steps of four bits are one word of 32 bits a column, the first
 * step in its low bits, numbers 0..15; eight bits are signed bytes. `stride` columns lie side by
 * side, as do the scales and zero points of a group.
 * field, last_field: one of the first seven numbers of each word times 16^index, and the eighth.
 * decode4, decode8: `count` K steps (from a multiple of eight on) of one vector of columns, to rows
 * of `width` floats.
 * prepare4, prepare8: one row of the other operand as the loops want it: with four bits each
 * element over its 16^index; and the sums of each `part` elements of a group, which zero points
 * are multiplied by. Elements behind the row are zeros.
 */
#ifndef PLANISH_COMPRESSED_H
#define PLANISH_COMPRESSED_H

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
typedef __m512i planish_v16_words;
PLANISH_INLINE __m512i planish_v16_load_words(const uint32_t *p) { return _mm512_loadu_si512(p); }
PLANISH_INLINE planish_v16 planish_v16_field(__m512i words, int index) {
    const __m512i mask = _mm512_set1_epi32((int)(15u << (4 * index)));
    return _mm512_cvtepi32_ps(_mm512_and_si512(words, mask));
}
PLANISH_INLINE planish_v16 planish_v16_last_field(__m512i words) {
    return _mm512_cvtepi32_ps(_mm512_srli_epi32(words, 28));
}
PLANISH_INLINE __m512i planish_v16_next_field(__m512i words) { return _mm512_srli_epi32(words, 4); }
PLANISH_INLINE planish_v16 planish_v16_load_f16(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
#endif

#if defined(__AVX2__) && defined(__FMA__)
typedef __m256i planish_v8_words;
PLANISH_INLINE __m256i planish_v8_load_words(const uint32_t *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}
PLANISH_INLINE planish_v8 planish_v8_field(__m256i words, int index) {
    const __m256i mask = _mm256_set1_epi32((int)(15u << (4 * index)));
    return _mm256_cvtepi32_ps(_mm256_and_si256(words, mask));
}
PLANISH_INLINE planish_v8 planish_v8_last_field(__m256i words) {
    return _mm256_cvtepi32_ps(_mm256_srli_epi32(words, 28));
}
PLANISH_INLINE __m256i planish_v8_next_field(__m256i words) { return _mm256_srli_epi32(words, 4); }
#if defined(__F16C__)
PLANISH_INLINE planish_v8 planish_v8_load_f16(const uint16_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
#endif
#endif

#define PLANISH_DECODE(V, SCALES, S)                                                               \
    PLANISH_INLINE void V##_decode4_##SCALES(const uint32_t *q, const S *scales,                   \
                                             const uint8_t *zeros, float zero, int64_t first,      \
                                             int64_t count, int64_t group, int64_t stride,         \
                                             float *out, int64_t width) {                          \
        for (int64_t k = first, last = first + count; k < last;) {                                 \
            const int64_t g = k / group * stride;                                                  \
            const int64_t end = planish_min_i64(last, (k / group + 1) * group);                    \
            const V scale = V##_load_##SCALES(scales + g);                                         \
            const V z = zeros ? V##_load_u8(zeros + g) : V##_set1(zero);                           \
            for (; k < end; k += 8) {                                                              \
                V##_words words = V##_load_words(q + k / 8 * stride);                              \
                const int64_t left = planish_min_i64(8, end - k);                                  \
                if (left == 8) {                                                                   \
                    _Pragma("GCC unroll 8")                                                        \
                    for (int i = 0; i < 8; i++, words = V##_next_field(words), out += width)       \
                        V##_store(out, (V##_field(words, 0) - z) * scale);                         \
                } else {                                                                           \
                    for (int i = 0; i < left; i++, words = V##_next_field(words), out += width)    \
                        V##_store(out, (V##_field(words, 0) - z) * scale);                         \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
    PLANISH_INLINE void V##_decode8_##SCALES(const int8_t *q, const S *scales,                     \
                                             const int8_t *zeros, float zero, int64_t first,       \
                                             int64_t count, int64_t group, int64_t stride,         \
                                             float *out, int64_t width) {                          \
        for (int64_t k = first, last = first + count; k < last;) {                                 \
            const int64_t g = k / group * stride;                                                  \
            const int64_t end = planish_min_i64(last, (k / group + 1) * group);                    \
            const V scale = V##_load_##SCALES(scales + g);                                         \
            const V z = zeros ? V##_load_i8(zeros + g) : V##_set1(zero);                           \
            for (; k < end; k++, out += width)                                                     \
                V##_store(out, (V##_load_i8(q + k * stride) - z) * scale);                         \
        }                                                                                          \
    }

#define PLANISH_PREPARE(INPUT, T, READ)                                                            \
    PLANISH_INLINE void planish_prepare_##INPUT(const T *a, int64_t depth, int64_t padded,         \
                                                int64_t group, int64_t part, int four,             \
                                                float *out, float *sums) {                         \
        static const float over[8] = {1.0f,      0x1p-4f,  0x1p-8f,  0x1p-12f,                     \
                                      0x1p-16f, 0x1p-20f, 0x1p-24f, 1.0f};                         \
        for (int64_t k = 0; k < depth;) {                                                          \
            const int64_t last = planish_min_i64(depth, (k / group + 1) * group);                  \
            while (k < last) {                                                                     \
                const int64_t end = planish_min_i64(last, k + part);                               \
                float lanes[8] = {0.0f};                                                           \
                for (; k + 8 <= end; k += 8)                                                       \
                    for (int i = 0; i < 8; i++) {                                                  \
                        const float x = READ(a[k + i]);                                            \
                        lanes[i] += x;                                                             \
                        out[k + i] = four ? x * over[i] : x;                                       \
                    }                                                                              \
                for (int i = 0; k < end; k++, i++) {                                               \
                    const float x = READ(a[k]);                                                    \
                    lanes[i] += x;                                                                 \
                    out[k] = four ? x * over[i] : x;                                               \
                }                                                                                  \
                *sums++ = ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) +                        \
                          ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));                         \
            }                                                                                      \
        }                                                                                          \
        for (int64_t k = depth; k < padded; k++) out[k] = 0.0f;                                    \
    }
PLANISH_PREPARE(floats, float, )
PLANISH_PREPARE(bf16, uint16_t, planish_from_bf16)

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
PLANISH_DECODE(planish_v16, f16, uint16_t)
#define planish_v16_load_f32 planish_v16_load
PLANISH_DECODE(planish_v16, f32, float)
#endif
#if defined(__AVX2__) && defined(__FMA__)
#define planish_v8_load_f32 planish_v8_load
PLANISH_DECODE(planish_v8, f32, float)
#if defined(__F16C__)
PLANISH_DECODE(planish_v8, f16, uint16_t)
#endif
#endif
#endif /* PLANISH_COMPRESSED_H */
