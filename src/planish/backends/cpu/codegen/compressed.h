/* Weights of four or eight bits as floats: (number - zero) * scale, a scale for each group of K.
 *
 * Layout (compressed.py): eight K steps of four bits are one word of 32 bits a column, numbers
 * 0..15, steps 0..3 in the low halves of its bytes, steps 4..7 in the high halves; eight bits are
 * signed bytes. `stride` columns lie side by side, as do the scales and zero points of a group.
 * field, last_field: the number in place `index` (of 0..6) of each word times 16^index, and the
 * eighth; place i holds step i / 2 + i % 2 * 4.
 * decode4, decode8: `count` K steps (from a multiple of eight on) of one vector of columns, to rows
 * of `width` floats.
 * prepare: one row of the other operand as the loops want it: with `four` bits each element over its
 * 16^index; and the sums of each `part` elements of a group, which zero points are multiplied by.
 * Elements behind the row are zeros.
 * digits: the same row as integers of three signed bytes, x = scale * (d[2] * 65536 + d[1] * 256 +
 * d[0]) with a scale for each part: 2^-23 of the part's largest magnitude, as float32 has. The largest
 * number is 8355000, so that rounding leaves it below 127 * 65793, where the top byte ends.
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
                    for (int i = 0; i < 8; i++, words = V##_next_field(words))                     \
                        V##_store(out + (i / 2 + i % 2 * 4) * width,                               \
                                  (V##_field(words, 0) - z) * scale);                              \
                } else {                                                                           \
                    for (int i = 0; i < 8; i++, words = V##_next_field(words))                     \
                        if (i / 2 + i % 2 * 4 < left)                                              \
                            V##_store(out + (i / 2 + i % 2 * 4) * width,                           \
                                      (V##_field(words, 0) - z) * scale);                          \
                }                                                                                  \
                out += left * width;                                                               \
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
        static const float over[8] = {1.0f,    0x1p-8f,  0x1p-16f, 0x1p-24f,                       \
                                      0x1p-4f, 0x1p-12f, 0x1p-20f, 1.0f};                          \
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
PLANISH_INLINE planish_v16i planish_v16_low_halves(__m512i words) {
    return PLANISH_V16I(_mm512_and_si512(words, _mm512_set1_epi8(15)));
}
PLANISH_INLINE planish_v16i planish_v16_high_halves(__m512i words) {
    return PLANISH_V16I(_mm512_and_si512(_mm512_srli_epi32(words, 4), _mm512_set1_epi8(15)));
}
PLANISH_INLINE planish_v16i planish_v16i_set1(int32_t x) {
    return PLANISH_V16I(_mm512_set1_epi32(x));
}
PLANISH_INLINE planish_v16i planish_v16i_load_u8(const uint8_t *p) {
    return PLANISH_V16I(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
PLANISH_INLINE planish_v16 planish_v16_joined(planish_v16i d2, planish_v16i d1, planish_v16i d0) {
    const planish_v16i low = PLANISH_V16I(_mm512_slli_epi32((__m512i)d1, 8)) + d0;
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps((__m512i)d2), _mm512_set1_ps(65536.0f),
                           _mm512_cvtepi32_ps((__m512i)low));
}
#define PLANISH_DIGITS(INPUT, T, LOAD)                                                             \
    PLANISH_INLINE void planish_digits_##INPUT(const T *a, int64_t depth, int64_t stride,          \
                                               int64_t group, int64_t part, int8_t *digits,        \
                                               float *scales, int32_t *sums) {                     \
        for (int64_t first = 0; first < depth;) {                                                  \
            const int64_t last = planish_min_i64(depth, (first / group + 1) * group);              \
            for (; first < last; first += part) {                                                  \
                const int64_t end = planish_min_i64(last, first + part);                           \
                __m512 top = _mm512_setzero_ps();                                                  \
                __mmask16 finite = 0xffff;                                                         \
                for (int64_t k = first; k < end; k += 16) {                                        \
                    const __m512 x = _mm512_abs_ps(                                                \
                        planish_v16_##LOAD##_part(a + k, (int)planish_min_i64(16, end - k)));      \
                    finite &= _mm512_cmp_ps_mask(x, _mm512_set1_ps(0x1.fffffep127f), _CMP_LE_OQ);  \
                    top = _mm512_max_ps(top, x);                                                   \
                }                                                                                  \
                const float most = _mm512_reduce_max_ps(top);                                      \
                const int some = finite == 0xffff && most > 1e-30f;                                \
                const __m512 over = _mm512_set1_ps(some ? 8355000.0f / most : 0.0f);               \
                __m512i s0 = _mm512_setzero_si512(), s1 = s0, s2 = s0;                             \
                for (int64_t k = first; k < end; k += 16) {                                        \
                    const int count = (int)planish_min_i64(16, end - k);                           \
                    const __mmask16 mask = PLANISH_MASK16((count + 7) / 8 * 8);                    \
                    const __m512 x = planish_v16_##LOAD##_part(a + k, count);                      \
                    const __m512i n = some ? _mm512_cvtps_epi32(_mm512_mul_ps(x, over))            \
                                           : _mm512_setzero_si512();                               \
                    const __m512i d0 = _mm512_srai_epi32(_mm512_slli_epi32(n, 24), 24);            \
                    const __m512i m = _mm512_srai_epi32(_mm512_sub_epi32(n, d0), 8);               \
                    const __m512i d1 = _mm512_srai_epi32(_mm512_slli_epi32(m, 24), 24);            \
                    const __m512i d2 = _mm512_srai_epi32(_mm512_sub_epi32(m, d1), 8);              \
                    _mm512_mask_cvtepi32_storeu_epi8(digits + k, mask, d0);                        \
                    _mm512_mask_cvtepi32_storeu_epi8(digits + stride + k, mask, d1);               \
                    _mm512_mask_cvtepi32_storeu_epi8(digits + 2 * stride + k, mask, d2);           \
                    s0 = _mm512_add_epi32(s0, d0);                                                 \
                    s1 = _mm512_add_epi32(s1, d1);                                                 \
                    s2 = _mm512_add_epi32(s2, d2);                                                 \
                }                                                                                  \
                *scales++ = finite != 0xffff ? __builtin_nanf("")                                  \
                            : some           ? most / 8355000.0f                                   \
                                             : 0.0f;                                               \
                *sums++ = _mm512_reduce_add_epi32(s0);                                             \
                *sums++ = _mm512_reduce_add_epi32(s1);                                             \
                *sums++ = _mm512_reduce_add_epi32(s2);                                             \
            }                                                                                      \
            first = last;                                                                          \
        }                                                                                          \
    }
PLANISH_DIGITS(floats, float, load)
PLANISH_DIGITS(bf16, uint16_t, load_bf16)
#endif
#if defined(__AVX2__) && defined(__FMA__)
PLANISH_INLINE planish_v8i planish_v8_low_halves(__m256i words) {
    return PLANISH_V8I(_mm256_and_si256(words, _mm256_set1_epi8(15)));
}
PLANISH_INLINE planish_v8i planish_v8_high_halves(__m256i words) {
    return PLANISH_V8I(_mm256_and_si256(_mm256_srli_epi32(words, 4), _mm256_set1_epi8(15)));
}
PLANISH_INLINE planish_v8i planish_v8i_set1(int32_t x) { return PLANISH_V8I(_mm256_set1_epi32(x)); }
PLANISH_INLINE planish_v8i planish_v8i_load_u8(const uint8_t *p) {
    return PLANISH_V8I(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
PLANISH_INLINE planish_v8 planish_v8_joined(planish_v8i d2, planish_v8i d1, planish_v8i d0) {
    const planish_v8i low = PLANISH_V8I(_mm256_slli_epi32((__m256i)d1, 8)) + d0;
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps((__m256i)d2), _mm256_set1_ps(65536.0f),
                           _mm256_cvtepi32_ps((__m256i)low));
}
#endif
#if !(defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__))
#define PLANISH_PLAIN_DIGITS(INPUT, T, READ)                                                       \
    PLANISH_INLINE void planish_digits_##INPUT(const T *a, int64_t depth, int64_t stride,          \
                                               int64_t group, int64_t part, int8_t *digits,        \
                                               float *scales, int32_t *sums) {                     \
        for (int64_t first = 0; first < depth;) {                                                  \
            const int64_t last = planish_min_i64(depth, (first / group + 1) * group);              \
            for (; first < last; first += part) {                                                  \
                const int64_t end = planish_min_i64(last, first + part);                           \
                float most = 0.0f;                                                                 \
                int finite = 1;                                                                    \
                for (int64_t k = first; k < end; k++) {                                            \
                    const float x = __builtin_fabsf(READ(a[k]));                                   \
                    finite &= x <= 0x1.fffffep127f;                                                \
                    most = x > most ? x : most;                                                    \
                }                                                                                  \
                const int some = finite && most > 1e-30f;                                          \
                const float over = some ? 8355000.0f / most : 0.0f;                                \
                int32_t s0 = 0, s1 = 0, s2 = 0;                                                    \
                for (int64_t k = first; k < end; k++) {                                            \
                    const int32_t n = some ? (int32_t)__builtin_rintf(READ(a[k]) * over) : 0;      \
                    const int32_t d0 = (int8_t)n, m = (n - d0) >> 8;                               \
                    const int32_t d1 = (int8_t)m, d2 = (m - d1) >> 8;                              \
                    digits[k] = (int8_t)d0;                                                        \
                    digits[stride + k] = (int8_t)d1;                                               \
                    digits[2 * stride + k] = (int8_t)d2;                                           \
                    s0 += d0;                                                                      \
                    s1 += d1;                                                                      \
                    s2 += d2;                                                                      \
                }                                                                                  \
                for (int64_t k = end; k % 8; k++)                                                  \
                    digits[k] = digits[stride + k] = digits[2 * stride + k] = 0;                   \
                *scales++ = !finite ? __builtin_nanf("") : some ? most / 8355000.0f : 0.0f;        \
                *sums++ = s0;                                                                      \
                *sums++ = s1;                                                                      \
                *sums++ = s2;                                                                      \
            }                                                                                      \
            first = last;                                                                          \
        }                                                                                          \
    }
PLANISH_PLAIN_DIGITS(floats, float, )
PLANISH_PLAIN_DIGITS(bf16, uint16_t, planish_from_bf16)
#endif

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
