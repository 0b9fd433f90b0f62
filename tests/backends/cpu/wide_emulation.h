/* 16-lane vectors without AVX-512, so that kernels of AMX run on machines that have neither.
 *
 * Goes in front of the prelude: the functions of vector.h and integer.h that epilogues use, written
 * lane by lane, with PLANISH_WIDE telling the prelude that they are there.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#ifndef __AVX512F__
#define PLANISH_WIDE 1
#define WIDE static __attribute__((noinline, unused)) /* inlined, they take gcc minutes */
#define EACH_LANE for (int i = 0; i < 16; i++)
typedef float planish_v16 __attribute__((vector_size(64)));
typedef int32_t planish_v16i __attribute__((vector_size(64)));

WIDE planish_v16 planish_v16_set1(float x) { planish_v16 r; EACH_LANE r[i] = x; return r; }
WIDE planish_v16 planish_v16_zero(void) { return planish_v16_set1(0.0f); }
WIDE planish_v16 planish_v16_load(const float *p) { planish_v16 r; memcpy(&r, p, 64); return r; }
WIDE void planish_v16_store(float *p, planish_v16 x) { memcpy(p, &x, 64); }
WIDE planish_v16i planish_v16i_load(const int32_t *p) { planish_v16i r; memcpy(&r, p, 64); return r; }
WIDE void planish_v16i_store(int32_t *p, planish_v16i x) { memcpy(p, &x, 64); }
WIDE planish_v16i planish_v16i_zero(void) { return (planish_v16i){0}; }
WIDE planish_v16 planish_v16_from_i32(planish_v16i x) {
    return __builtin_convertvector(x, planish_v16);
}
WIDE planish_v16 planish_v16_fma(planish_v16 a, planish_v16 b, planish_v16 c) {
    planish_v16 r;
    EACH_LANE r[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return r;
}
/* NaN in the second operand stays NaN. */
WIDE planish_v16 planish_v16_max(planish_v16 a, planish_v16 b) {
    EACH_LANE a[i] = a[i] > b[i] ? a[i] : b[i];
    return a;
}
WIDE planish_v16 planish_v16_min(planish_v16 a, planish_v16 b) {
    EACH_LANE a[i] = a[i] < b[i] ? a[i] : b[i];
    return a;
}
WIDE planish_v16 planish_v16_sqrt(planish_v16 x) { EACH_LANE x[i] = sqrtf(x[i]); return x; }
WIDE planish_v16 planish_v16_round(planish_v16 x) { EACH_LANE x[i] = rintf(x[i]); return x; }
WIDE planish_v16 planish_v16_scale(planish_v16 x, planish_v16 n) {
    EACH_LANE x[i] = ldexpf(x[i], (int)n[i]);
    return x;
}
WIDE planish_v16 planish_v16_if_negative(planish_v16 x, planish_v16 a, planish_v16 b) {
    EACH_LANE b[i] = x[i] < 0.0f ? a[i] : b[i];
    return b;
}

/* "_part" of loads and stores; loads of 16 and 8 bits; stores of bf16 */
WIDE float wide_from_f32(float x) { return x; }
WIDE float wide_from_i8(int8_t x) { return x; }
WIDE float wide_from_u8(uint8_t x) { return x; }
WIDE float wide_from_bf16(uint16_t h) {
    const uint32_t u = (uint32_t)h << 16;
    float x;
    memcpy(&x, &u, 4);
    return x;
}
#define WIDE_LOAD(suffix, T, name)                                                                 \
    WIDE planish_v16 planish_v16_load##suffix##_part(const T *p, int n) {                          \
        planish_v16 r = planish_v16_zero();                                                        \
        for (int i = 0; i < n; i++) r[i] = wide_from_##name(p[i]);                                 \
        return r;                                                                                  \
    }
#define WIDE_LOAD_ALL(suffix, T, name)                                                             \
    WIDE_LOAD(suffix, T, name)                                                                     \
    WIDE planish_v16 planish_v16_load##suffix(const T *p) {                                        \
        return planish_v16_load##suffix##_part(p, 16);                                             \
    }
WIDE_LOAD(, float, f32)
WIDE_LOAD_ALL(_i8, int8_t, i8)
WIDE_LOAD_ALL(_u8, uint8_t, u8)
WIDE_LOAD_ALL(_bf16, uint16_t, bf16)
WIDE void planish_v16_store_part(float *p, planish_v16 x, int n) { memcpy(p, &x, (size_t)n * 4); }
WIDE void planish_v16_store_bf16_part(uint16_t *p, planish_v16 x, int n) {
    for (int i = 0; i < n; i++) {
        uint32_t u;
        const float f = x[i];
        memcpy(&u, &f, 4);
        p[i] = (uint16_t)((f != f ? u | 0x400000u : u + 0x7fffu + (u >> 16 & 1u)) >> 16);
    }
}
WIDE void planish_v16_store_bf16(uint16_t *p, planish_v16 x) {
    planish_v16_store_bf16_part(p, x, 16);
}

/* bytes: saturate(round(x) + zero) */
WIDE int wide_step(float x, int zero, int low, int high) {
    const int64_t q = (int64_t)rintf(x) + zero;
    return (int)(q < low ? low : q > high ? high : q);
}
#define WIDE_BYTES(NAME, T, LOW, HIGH)                                                             \
    WIDE void planish_v16_quantize_##NAME##_part(T *p, planish_v16 x, int zero, int n) {           \
        for (int i = 0; i < n; i++) p[i] = (T)wide_step(x[i], zero, LOW, HIGH);                    \
    }                                                                                              \
    WIDE void planish_v16_quantize_##NAME(T *p, planish_v16 x, int zero) {                         \
        planish_v16_quantize_##NAME##_part(p, x, zero, 16);                                        \
    }                                                                                              \
    WIDE void planish_v16_quantize_4x1_##NAME(T *p, planish_v16 a, planish_v16 b, planish_v16 c,   \
                                              planish_v16 d, int zero, int n) {                    \
        const planish_v16 x[4] = {a, b, c, d};                                                     \
        for (int i = 0; i < n; i++) p[i] = (T)wide_step(x[i / 16][i % 16], zero, LOW, HIGH);       \
    }                                                                                              \
    WIDE void planish_v16_quantize_2x2_##NAME(T *p, T *q, planish_v16 a, planish_v16 b,            \
                                              planish_v16 c, planish_v16 d, int zero, int n) {     \
        planish_v16_quantize_4x1_##NAME(p, a, b, a, b, zero, n);                                   \
        planish_v16_quantize_4x1_##NAME(q, c, d, c, d, zero, n);                                   \
    }                                                                                              \
    WIDE void planish_v16_quantize_1x4_##NAME(T *p, T *q, T *r, T *s, planish_v16 a,               \
                                              planish_v16 b, planish_v16 c, planish_v16 d,         \
                                              int zero, int n) {                                   \
        planish_v16_quantize_2x2_##NAME(p, q, a, a, b, b, zero, n);                                \
        planish_v16_quantize_2x2_##NAME(r, s, c, c, d, d, zero, n);                                \
    }                                                                                              \
    WIDE void planish_v16_look_up_##NAME##_part(void *p, const uint8_t *t, planish_v16 x,          \
                                                int zero, int n) {                                 \
        for (int i = 0; i < n; i++)                                                                \
            ((uint8_t *)p)[i] = t[(uint8_t)wide_step(x[i], zero, LOW, HIGH)];                      \
    }                                                                                              \
    WIDE void planish_v16_look_up_##NAME(void *p, const uint8_t *t, planish_v16 x, int zero) {     \
        planish_v16_look_up_##NAME##_part(p, t, x, zero, 16);                                      \
    }
WIDE_BYTES(i8, int8_t, -128, 127)
WIDE_BYTES(u8, uint8_t, 0, 255)
#endif /* not AVX-512 */
