/* Packing a matrix [K][N] that is no constant into the panels that GEMM tiles read.
 *
 * planish_v16_pack_rows_*: N is contiguous, `stride` elements from one k to the next.
 * planish_v16_pack_columns_*: K is contiguous, `stride` elements from one n to the next.
 * `count` columns are there, `width` (a multiple of the lanes) are written, the rest is zero.
 * floats: f32 to f32; widened: bf16 to f32; pairs: bf16 to [K / 2][width][2].
 */
#ifndef PLANISH_PACK_H
#define PLANISH_PACK_H

#define PLANISH_PACK_ROWS(V, L, NAME, T, LOAD)                                                     \
    PLANISH_INLINE void V##_pack_rows_##NAME(const T *b, int64_t stride, int64_t depth,            \
                                             int64_t count, int64_t width, float *out) {           \
        for (int64_t k = 0; k < depth; k++, b += stride) {                                         \
            for (int64_t n = 0; n < width; n += L, out += L) {                                     \
                const int64_t left = count - n;                                                    \
                V##_store(out, left >= L ? V##_##LOAD(b + n)                                       \
                                         : V##_##LOAD##_part(b + n, left > 0 ? (int)left : 0));    \
            }                                                                                      \
        }                                                                                          \
    }

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
PLANISH_PACK_ROWS(planish_v16, 16, floats, float, load)
PLANISH_PACK_ROWS(planish_v16, 16, widened, uint16_t, load_bf16)

/* Arrays of registers stay in registers only if their loops are unrolled; gcc -O2 does not. */
#define PLANISH_UNROLL _Pragma("GCC unroll 16")

/* Transpose 16 rows of 16 elements of 32 bits: stages of 32, 64, 128 and 256 bits. */
PLANISH_INLINE void planish_transpose16(__m512i r[16]) {
    __m512i t[16];
    PLANISH_UNROLL
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    PLANISH_UNROLL
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    PLANISH_UNROLL
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    PLANISH_UNROLL
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}
/* Up to 16 words of 32 bits from each of up to 16 rows, transposed, to out[word][row]. */
static __attribute__((noinline, unused)) void planish_transpose16_block(
    const char *b, int64_t stride, int64_t rows, int64_t words, int tail, char *out, int64_t width) {
    __m512i r[16];
    const __mmask16 mask = (__mmask16)((1u << words) - 1u);
    if (rows >= 16 && words == 16 && !tail) {
        PLANISH_UNROLL
        for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_si512(b + i * stride);
        planish_transpose16(r);
        PLANISH_UNROLL
        for (int i = 0; i < 16; i++) _mm512_storeu_si512(out + i * width * 4, r[i]);
        return;
    }
    for (int i = 0; i < 16; i++) {
        if (i >= rows) { r[i] = _mm512_setzero_si512(); continue; }
        if (tail) { /* the last word of a row is half a word */
            r[i] = _mm512_castsi256_si512(_mm256_maskz_loadu_epi16(
                (__mmask16)((1u << (2 * words - 1)) - 1u), b + i * stride));
            continue;
        }
        r[i] = _mm512_maskz_loadu_epi32(mask, b + i * stride);
    }
    planish_transpose16(r);
    for (int i = 0; i < words; i++) _mm512_storeu_si512(out + i * width * 4, r[i]);
}
PLANISH_INLINE void planish_v16_pack_columns_floats(const float *b, int64_t stride, int64_t depth,
                                                    int64_t count, int64_t width, float *out) {
    for (int64_t n = 0; n < width; n += 16)
        for (int64_t k = 0; k < depth; k += 16)
            planish_transpose16_block((const char *)(b + n * stride + k), stride * 4, count - n,
                                      planish_min_i64(16, depth - k), 0,
                                      (char *)(out + k * width + n), width);
}
PLANISH_INLINE void planish_v16_pack_columns_pairs(const uint16_t *b, int64_t stride, int64_t depth,
                                                   int64_t count, int64_t width, uint16_t *out) {
    const int64_t words = (depth + 1) / 2;
    for (int64_t n = 0; n < width; n += 16) {
        const char *row = (const char *)(b + n * stride);
        char *to = (char *)(out + 2 * n);
        int64_t k = 0;
        for (; 2 * k + 32 <= depth; k += 16)
            planish_transpose16_block(row + 4 * k, stride * 2, count - n, 16, 0, to + k * width * 4,
                                      width);
        for (; k < words; k += 8) { /* eight words, so that half a word at the end fits a mask */
            const int64_t left = planish_min_i64(8, words - k);
            const int tail = 2 * (k + left) > depth;
            planish_transpose16_block(row + 4 * k, stride * 2, count - n, left, tail,
                                      to + k * width * 4, width);
        }
    }
}
PLANISH_INLINE void planish_v16_pack_rows_pairs(const uint16_t *b, int64_t stride, int64_t depth,
                                                int64_t count, int64_t width, uint16_t *out) {
    for (int64_t k = 0; k < depth; k += 2, b += 2 * stride) {
        for (int64_t n = 0; n < width; n += 16, out += 32) {
            const int64_t left = planish_clamp_i64(count - n, 0, 16);
            const __mmask16 mask = (__mmask16)((1u << left) - 1u);
            const __mmask16 second = k + 1 < depth ? mask : 0;
            const __m512i even = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, b + n));
            const __m512i odd =
                _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(second, b + stride + n));
            _mm512_storeu_si512(out, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
        }
    }
}
#endif /* AVX-512 */

#if defined(__AVX2__) && defined(__FMA__)
PLANISH_PACK_ROWS(planish_v8, 8, floats, float, load)
PLANISH_PACK_ROWS(planish_v8, 8, widened, uint16_t, load_bf16)
#endif

#define PLANISH_PACK_COLUMNS(V, NAME, T, READ)                                                     \
    PLANISH_INLINE void V##_pack_columns_##NAME(const T *b, int64_t stride, int64_t depth,         \
                                                int64_t count, int64_t width, float *out) {        \
        for (int64_t n = 0; n < width; n++)                                                        \
            for (int64_t k = 0; k < depth; k++)                                                    \
                out[k * width + n] = n < count ? READ(b[n * stride + k]) : 0.0f;                   \
    }
PLANISH_PACK_COLUMNS(planish_v8, floats, float, )
PLANISH_PACK_COLUMNS(planish_v8, widened, uint16_t, planish_from_bf16)
PLANISH_PACK_COLUMNS(planish_v16, widened, uint16_t, planish_from_bf16)
#endif /* PLANISH_PACK_H */
