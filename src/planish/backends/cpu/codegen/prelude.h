/* Planish prelude: what generated kernels may use.
 *
 * Every function on floats is branch-free straight-line code, so a loop that calls it is
 * vectorised by gcc and clang at -O3 (flags that matter: -fno-math-errno -fno-trapping-math
 * -fopenmp-simd, and never -ffast-math: the rounding below relies on the order written).
 * Accuracy is given in units in the last place (ulp) of a float against the exact value.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* libm, for functions that no hot loop uses; declared here so that no header is needed */
extern double exp(double), log(double), log1p(double), tanh(double), erf(double), pow(double, double);
extern double sin(double), cos(double), tan(double), asin(double), acos(double), atan(double);
extern double sinh(double), cosh(double), asinh(double), acosh(double), atanh(double);
extern double fmod(double, double);

#define PLANISH_INLINE static inline __attribute__((always_inline, unused))

/* ---- bits ------------------------------------------------------------------------------------ */

PLANISH_INLINE uint32_t planish_bits(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }
PLANISH_INLINE float planish_float(uint32_t u) { float x; memcpy(&x, &u, 4); return x; }
PLANISH_INLINE uint64_t planish_bits_f64(double x) { uint64_t u; memcpy(&u, &x, 8); return u; }
PLANISH_INLINE double planish_float_f64(uint64_t u) { double x; memcpy(&x, &u, 8); return x; }

/* ---- bf16 and f16 ---------------------------------------------------------------------------- */

PLANISH_INLINE float planish_from_bf16(uint16_t h) { return planish_float((uint32_t)h << 16); }

/* Round to nearest even; NaN stays NaN. */
PLANISH_INLINE uint16_t planish_to_bf16(float x) {
    const uint32_t u = planish_bits(x);
    const uint32_t rounded = u + 0x7fffu + ((u >> 16) & 1u);
    return (uint16_t)((x == x ? rounded : (u | 0x400000u)) >> 16);
}

/* Convert n floats, from a buffer of at least n rounded up to 16. Loops that end in bf16 collect a
 * strip of floats and call this: the compiler cannot use the conversion instruction by itself. */
PLANISH_INLINE void planish_narrow_bf16(uint16_t *to, const float *from, int64_t n) {
#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        _mm256_storeu_si256((__m256i *)(to + i), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from + i)));
    if (i < n)
        _mm256_mask_storeu_epi16(to + i, (__mmask16)((1u << (n - i)) - 1u),
                                 (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from + i)));
#else
    for (int64_t i = 0; i < n; ++i) to[i] = planish_to_bf16(from[i]);
#endif
}
PLANISH_INLINE uint16_t planish_to_f16(float x);
PLANISH_INLINE void planish_narrow_f16(uint16_t *to, const float *from, int64_t n) {
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        _mm256_storeu_si256((__m256i *)(to + i), _mm512_cvtps_ph(_mm512_loadu_ps(from + i), 0));
    if (i < n)
        _mm256_mask_storeu_epi16(to + i, (__mmask16)((1u << (n - i)) - 1u),
                                 _mm512_cvtps_ph(_mm512_loadu_ps(from + i), 0));
#else
    for (int64_t i = 0; i < n; ++i) to[i] = planish_to_f16(from[i]);
#endif
}

/* Shift the exponent into place and let two float operations handle infinities and subnormals
 * (after M. Dukhan's FP16 library). */
PLANISH_INLINE float planish_from_f16(uint16_t h) {
    const uint32_t w = (uint32_t)h << 16, sign = w & 0x80000000u, two_w = w + w;
    const float normal = planish_float((two_w >> 4) + (0xE0u << 23)) * 0x1.0p-112f;
    const float subnormal = planish_float((two_w >> 17) | (126u << 23)) - 0.5f;
    const uint32_t magnitude =
        two_w < (1u << 27) ? planish_bits(subnormal) : planish_bits(normal);
    return planish_float(sign | magnitude);
}

PLANISH_INLINE uint16_t planish_to_f16(float x) {
    const uint32_t w = planish_bits(x), sign = w & 0x80000000u, shifted = w + w;
    const float magnitude = planish_float(w & 0x7fffffffu);
    const float base = (magnitude * 0x1.0p+112f) * 0x1.0p-110f;
    const uint32_t raw = shifted & 0xFF000000u;
    const uint32_t bias = raw < 0x71000000u ? 0x71000000u : raw;
    const uint32_t bits = planish_bits(planish_float((bias >> 1) + 0x07800000u) + base);
    const uint32_t value = ((bits >> 13) & 0x7C00u) + (bits & 0x0FFFu);
    return (uint16_t)((sign >> 16) | (shifted > 0xFF000000u ? 0x7E00u : value));
}

/* ---- integers -------------------------------------------------------------------------------- */

PLANISH_INLINE int64_t planish_min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
PLANISH_INLINE int64_t planish_max_i64(int64_t a, int64_t b) { return a > b ? a : b; }
PLANISH_INLINE int64_t planish_clamp_i64(int64_t x, int64_t low, int64_t high) {
    return x < low ? low : x > high ? high : x;
}
/* Division rounded towards zero; division by zero gives 0 instead of a trap. */
PLANISH_INLINE int64_t planish_div_i64(int64_t a, int64_t b) {
    return b == 0 ? 0 : b == -1 ? (int64_t)(0 - (uint64_t)a) : a / b;
}
PLANISH_INLINE uint64_t planish_div_u64(uint64_t a, uint64_t b) { return b == 0 ? 0 : a / b; }
PLANISH_INLINE int32_t planish_div_i32(int32_t a, int32_t b) {
    return b == 0 ? 0 : b == -1 ? (int32_t)(0 - (uint32_t)a) : a / b;
}
/* Remainder with the sign of the dividend (C, fmod) and of the divisor (Python, mod). */
PLANISH_INLINE int64_t planish_rem_i64(int64_t a, int64_t b) { return b == 0 || b == -1 ? 0 : a % b; }
PLANISH_INLINE uint64_t planish_rem_u64(uint64_t a, uint64_t b) { return b == 0 ? 0 : a % b; }
PLANISH_INLINE int64_t planish_mod_i64(int64_t a, int64_t b) {
    const int64_t r = planish_rem_i64(a, b);
    return r != 0 && ((r < 0) != (b < 0)) ? r + b : r;
}
PLANISH_INLINE int64_t planish_floordiv_i64(int64_t a, int64_t b) {
    const int64_t q = planish_div_i64(a, b);
    return q * b != a && ((a < 0) != (b < 0)) ? q - 1 : q;
}
PLANISH_INLINE int64_t planish_ipow_i64(int64_t base, int64_t exponent) {
    if (exponent < 0) return base == 1 ? 1 : base == -1 ? (exponent & 1 ? -1 : 1) : 0;
    uint64_t result = 1, factor = (uint64_t)base;
    for (uint64_t e = (uint64_t)exponent; e; e >>= 1) {
        if (e & 1) result *= factor;
        factor *= factor;
    }
    return (int64_t)result;
}
PLANISH_INLINE uint64_t planish_shl_u64(uint64_t a, uint64_t b) { return b > 63 ? 0 : a << b; }
PLANISH_INLINE uint64_t planish_shr_u64(uint64_t a, uint64_t b) { return b > 63 ? 0 : a >> b; }

/* ---- simple float functions ------------------------------------------------------------------ */

/* Maximum and minimum propagate NaN from either side, as numpy.maximum and ONNX do. */
PLANISH_INLINE float planish_max(float a, float b) { return a > b ? a : a != a ? a : b; }
PLANISH_INLINE float planish_min(float a, float b) { return a < b ? a : a != a ? a : b; }
PLANISH_INLINE double planish_max_f64(double a, double b) { return a > b ? a : a != a ? a : b; }
PLANISH_INLINE double planish_min_f64(double a, double b) { return a < b ? a : a != a ? a : b; }
/* One instruction each; the result for NaN is the second operand. */
PLANISH_INLINE float planish_fast_max(float a, float b) { return a > b ? a : b; }
PLANISH_INLINE float planish_fast_min(float a, float b) { return a < b ? a : b; }
PLANISH_INLINE float planish_relu(float x) { return 0.0f > x ? 0.0f : x; }
PLANISH_INLINE double planish_relu_f64(double x) { return 0.0 > x ? 0.0 : x; }
PLANISH_INLINE float planish_clip(float x, float low, float high) {
    const float raised = low > x ? low : x;
    return high < raised ? high : raised;
}
PLANISH_INLINE double planish_clip_f64(double x, double low, double high) {
    const double raised = low > x ? low : x;
    return high < raised ? high : raised;
}
PLANISH_INLINE float planish_abs(float x) { return __builtin_fabsf(x); }
PLANISH_INLINE double planish_abs_f64(double x) { return __builtin_fabs(x); }
PLANISH_INLINE float planish_sqrt(float x) { return __builtin_sqrtf(x); }
PLANISH_INLINE double planish_sqrt_f64(double x) { return __builtin_sqrt(x); }
PLANISH_INLINE float planish_floor(float x) { return __builtin_floorf(x); }
PLANISH_INLINE double planish_floor_f64(double x) { return __builtin_floor(x); }
PLANISH_INLINE float planish_ceil(float x) { return __builtin_ceilf(x); }
PLANISH_INLINE double planish_ceil_f64(double x) { return __builtin_ceil(x); }
PLANISH_INLINE float planish_trunc(float x) { return __builtin_truncf(x); }
PLANISH_INLINE double planish_trunc_f64(double x) { return __builtin_trunc(x); }
/* Half to even. */
PLANISH_INLINE float planish_round(float x) { return __builtin_rintf(x); }
PLANISH_INLINE double planish_round_f64(double x) { return __builtin_rint(x); }
PLANISH_INLINE float planish_sign(float x) { return x > 0 ? 1.0f : x < 0 ? -1.0f : x; }
PLANISH_INLINE double planish_sign_f64(double x) { return x > 0 ? 1.0 : x < 0 ? -1.0 : x; }
PLANISH_INLINE int planish_isinf(float x, int positive, int negative) {
    return (positive && x == __builtin_inff()) | (negative && x == -__builtin_inff());
}
PLANISH_INLINE int planish_isinf_f64(double x, int positive, int negative) {
    return (positive && x == __builtin_inf()) | (negative && x == -__builtin_inf());
}

/* ---- exponential family ---------------------------------------------------------------------- */

/* exp(x) = 2^n * exp(r), |r| <= ln2/2, by two-constant Cody-Waite reduction and a polynomial of
 * degree 5 (after XNNPACK). Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the
 * low bits, so that 2^n is an addition to the exponent. Results below 2^-126 are 0. 1.5 ulp. */
PLANISH_INLINE float planish_exp_reduced(float x) {
    const float shifted = __builtin_fmaf(x, 0x1.715476p+0f, 0x1.8p+23f);
    const float n = shifted - 0x1.8p+23f;
    const float r = __builtin_fmaf(n, 0x1.05C610p-29f, __builtin_fmaf(n, -0x1.62E430p-1f, x));
    float p = 0x1.0F9F9Cp-7f;
    p = __builtin_fmaf(p, r, 0x1.573A1Ap-5f);
    p = __builtin_fmaf(p, r, 0x1.555A80p-3f);
    p = __builtin_fmaf(p, r, 0x1.FFFDC6p-2f);
    p = __builtin_fmaf(p, r, 0x1.FFFFF6p-1f);
    const float y = __builtin_fmaf(p, r, 1.0f);
    return planish_float(planish_bits(y) + (planish_bits(shifted) << 23));
}
PLANISH_INLINE float planish_exp(float x) {
    const float y = planish_exp_reduced(x);
    const float above = x < -87.3365402f ? 0.0f : y;
    return x > 88.722839f ? __builtin_inff() : above;
}
/* exp(x) for x <= 0 (softmax). */
PLANISH_INLINE float planish_exp_nonpositive(float x) {
    const float y = planish_exp_reduced(x);
    return x < -87.3365402f ? 0.0f : y;
}

/* log(x): mantissa in [sqrt(1/2), sqrt(2)), Cephes polynomial; 0 gives -inf, below NaN. 1 ulp. */
PLANISH_INLINE float planish_log(float x) {
    const int tiny = x < 1.17549435e-38f;
    const float scaled = tiny ? x * 8388608.0f : x;
    const uint32_t u = planish_bits(scaled), shifted = u - 0x3F3504F3u;
    const float e = (float)((int32_t)shifted >> 23) - (tiny ? 23.0f : 0.0f);
    const float t = planish_float((shifted & 0x007FFFFFu) + 0x3F3504F3u) - 1.0f, z = t * t;
    float p = 7.0376836292e-2f;
    p = __builtin_fmaf(p, t, -1.1514610310e-1f);
    p = __builtin_fmaf(p, t, 1.1676998740e-1f);
    p = __builtin_fmaf(p, t, -1.2420140846e-1f);
    p = __builtin_fmaf(p, t, 1.4249322787e-1f);
    p = __builtin_fmaf(p, t, -1.6668057665e-1f);
    p = __builtin_fmaf(p, t, 2.0000714765e-1f);
    p = __builtin_fmaf(p, t, -2.4999993993e-1f);
    p = __builtin_fmaf(p, t, 3.3333331174e-1f);
    float y = __builtin_fmaf(e, -2.12194440e-4f, p * t * z);
    y = __builtin_fmaf(z, -0.5f, y);
    const float result = __builtin_fmaf(e, 0.693359375f, t + y);
    const float positive = x == __builtin_inff() ? x : result;
    return x > 0 ? positive : x == 0 ? -__builtin_inff() : __builtin_nanf("");
}

/* log(1 + x) for x in [0, 1], without cancellation (softplus, mish). 2 ulp. */
PLANISH_INLINE float planish_log1p_unit(float x) {
    const float u = 1.0f + x, difference = u - 1.0f;
    return difference == 0.0f ? x : planish_log(u) * (x / difference);
}

PLANISH_INLINE float planish_sigmoid(float x) { return 1.0f / (1.0f + planish_exp(-x)); }

/* |x| clamped to the non-negative float whose bits are `limit`: one integer minimum, where two
 * float comparisons would become masks and blends. NaN becomes the limit. */
PLANISH_INLINE float planish_clamped_magnitude(float x, uint32_t limit) {
    const uint32_t u = planish_bits(x) & 0x7fffffffu;
    return planish_float(u < limit ? u : limit);
}
PLANISH_INLINE float planish_with_sign(float magnitude, float sign) {
    return planish_float(planish_bits(magnitude) | (planish_bits(sign) & 0x80000000u));
}

/* tanh(x) = x P(x^2) / Q(x^2) on [-7.9, 7.9] (coefficients of Eigen). 4 ulp; NaN gives +-1 in the
 * bounded form. */
PLANISH_INLINE float planish_tanh_bounded(float x) {
    const float c = planish_clamped_magnitude(x, 0x40FCF84Fu), s = c * c; /* 7.90531 */
    float p = -2.76076847742355e-16f;
    p = __builtin_fmaf(p, s, 2.00018790482477e-13f);
    p = __builtin_fmaf(p, s, -8.60467152213735e-11f);
    p = __builtin_fmaf(p, s, 5.12229709037114e-08f);
    p = __builtin_fmaf(p, s, 1.48572235717979e-05f);
    p = __builtin_fmaf(p, s, 6.37261928875436e-04f);
    p = __builtin_fmaf(p, s, 4.89352455891786e-03f);
    float q = 1.19825839466702e-06f;
    q = __builtin_fmaf(q, s, 1.18534705686654e-04f);
    q = __builtin_fmaf(q, s, 2.26843463243900e-03f);
    q = __builtin_fmaf(q, s, 4.89352518554385e-03f);
    return planish_with_sign(c * p / q, x);
}
PLANISH_INLINE float planish_tanh(float x) { return x != x ? x : planish_tanh_bounded(x); }

/* erf(x) = x P(x^2) / Q(x^2) on [-4, 4] (coefficients of Eigen). 6 ulp. */
PLANISH_INLINE float planish_erf_bounded(float x) {
    const float c = planish_clamped_magnitude(x, 0x40800000u), s = c * c;
    float p = -2.72614225801306e-10f;
    p = __builtin_fmaf(p, s, 2.77068142495902e-08f);
    p = __builtin_fmaf(p, s, -2.10102402082508e-06f);
    p = __builtin_fmaf(p, s, -5.69250639462346e-05f);
    p = __builtin_fmaf(p, s, -7.34990630326855e-04f);
    p = __builtin_fmaf(p, s, -2.95459980854025e-03f);
    p = __builtin_fmaf(p, s, -1.60960333262415e-02f);
    float q = -1.45660718464996e-05f;
    q = __builtin_fmaf(q, s, -2.13374055278905e-04f);
    q = __builtin_fmaf(q, s, -1.68282697438203e-03f);
    q = __builtin_fmaf(q, s, -7.37332916720468e-03f);
    q = __builtin_fmaf(q, s, -1.42647390514189e-02f);
    return planish_with_sign(c * p / q, x);
}
PLANISH_INLINE float planish_erf(float x) { return x != x ? x : planish_erf_bounded(x); }

PLANISH_INLINE float planish_gelu(float x) {
    const float half = 0.5f * x;
    return __builtin_fmaf(half, planish_erf_bounded(x * 0.70710678118f), half);
}
PLANISH_INLINE float planish_gelu_tanh(float x) {
    const float inner = 0.7978845608f * __builtin_fmaf(0.044715f * x * x, x, x);
    const float half = 0.5f * x;
    return __builtin_fmaf(half, planish_tanh_bounded(inner), half);
}
PLANISH_INLINE float planish_softplus(float x) {
    return planish_relu(x) + planish_log1p_unit(planish_exp_nonpositive(-planish_abs(x)));
}
/* expm1(x), without cancellation near 0 (Elu, Selu, Celu). */
PLANISH_INLINE float planish_expm1(float x) {
    const float series =
        x * (1.0f + x * (0.5f + x * (0.166666667f + x * (0.0416666667f + x * 0.00833333333f))));
    return planish_abs(x) < 0.15f ? series : planish_exp(x) - 1.0f;
}

/* ---- trigonometry ---------------------------------------------------------------------------- */

/* sin(x + quarter * pi/2). The reduction runs in double, good to |x| of about 1e8. 1 ulp. */
PLANISH_INLINE float planish_sin_quarter(float x, int32_t quarter) {
    const double wide = (double)x, shifted = wide * 0.63661977236758134 + 6755399441055744.0;
    const double n = shifted - 6755399441055744.0;
    const float r = (float)(wide - n * 1.5707963267948966 - n * 6.123233995736766e-17);
    const int32_t k = (int32_t)(uint32_t)planish_bits_f64(shifted) + quarter;
    const float s = r * r;
    float sine = -1.9515295891e-4f;
    sine = __builtin_fmaf(sine, s, 8.3321608736e-3f);
    sine = __builtin_fmaf(sine, s, -1.6666654611e-1f);
    sine = __builtin_fmaf(sine * s, r, r);
    float cosine = 2.443315711809948e-5f;
    cosine = __builtin_fmaf(cosine, s, -1.388731625493765e-3f);
    cosine = __builtin_fmaf(cosine, s, 4.166664568298827e-2f);
    cosine = __builtin_fmaf(cosine * s, s, __builtin_fmaf(s, -0.5f, 1.0f));
    const float value = k & 1 ? cosine : sine;
    return k & 2 ? -value : value;
}
PLANISH_INLINE float planish_sin(float x) { return planish_sin_quarter(x, 0); }
PLANISH_INLINE float planish_cos(float x) { return planish_sin_quarter(x, 1); }

/* ---- power ----------------------------------------------------------------------------------- */

/* pow(x, y) = exp(y log|x|) in double (a float logarithm would lose digits), with the signs and
 * special values of C's pow. 1 ulp. */
PLANISH_INLINE float planish_pow(float x, float y) {
    const float magnitude = planish_abs(x);
    const double wide = (double)magnitude;
    const uint64_t shifted = planish_bits_f64(wide) - 0x3FE6A09E667F3BCDull;
    const double e = (double)(int32_t)((int64_t)shifted >> 52);
    const double m = planish_float_f64((shifted & 0x000FFFFFFFFFFFFFull) + 0x3FE6A09E667F3BCDull);
    const double t = (m - 1.0) / (m + 1.0), s = t * t;
    double p = 1.0 / 15;
    p = p * s + 1.0 / 13;
    p = p * s + 1.0 / 11;
    p = p * s + 1.0 / 9;
    p = p * s + 1.0 / 7;
    p = p * s + 1.0 / 5;
    p = p * s + 1.0 / 3;
    const double finite = 2.0 * t * (p * s + 1.0) + e * 0.69314718055994531;
    const double logarithm =
        magnitude == 0 ? -1e4 : magnitude == __builtin_inff() ? 1e4 : finite;
    const double z = (double)y * logarithm;
    const double capped = z > 200.0 ? 200.0 : z, c = capped < -200.0 ? -200.0 : capped;
    const double moved = c * 1.4426950408889634 + 6755399441055744.0;
    const double n = moved - 6755399441055744.0, r = c - n * 0.69314718055994531;
    double q = 1.0 / 362880;
    q = q * r + 1.0 / 40320;
    q = q * r + 1.0 / 5040;
    q = q * r + 1.0 / 720;
    q = q * r + 1.0 / 120;
    q = q * r + 1.0 / 24;
    q = q * r + 1.0 / 6;
    q = q * r + 0.5;
    q = q * r + 1.0;
    q = q * r + 1.0;
    const float size =
        (float)(q * planish_float_f64((planish_bits_f64(moved) + 1023ull) << 52));
    const float half = y * 0.5f;
    const int integral = __builtin_rintf(y) == y;
    const int odd = integral & (__builtin_rintf(half) != half);
    const float signed_size = odd & (planish_bits(x) >> 31) ? -size : size;
    const float value = (x < 0) & !integral & (x != -__builtin_inff()) ? __builtin_nanf("") : signed_size;
    return (x == 1.0f) | (y == 0.0f) ? 1.0f : value;
}

/* ---- double precision and rare functions, by libm -------------------------------------------- */

PLANISH_INLINE double planish_exp_f64(double x) { return exp(x); }
PLANISH_INLINE double planish_log_f64(double x) { return log(x); }
PLANISH_INLINE double planish_tanh_f64(double x) { return tanh(x); }
PLANISH_INLINE double planish_erf_f64(double x) { return erf(x); }
PLANISH_INLINE double planish_pow_f64(double x, double y) { return pow(x, y); }
PLANISH_INLINE double planish_sin_f64(double x) { return sin(x); }
PLANISH_INLINE double planish_cos_f64(double x) { return cos(x); }
PLANISH_INLINE double planish_expm1_f64(double x) { return exp(x) - 1.0; }
PLANISH_INLINE double planish_sigmoid_f64(double x) { return 1.0 / (1.0 + exp(-x)); }
PLANISH_INLINE double planish_softplus_f64(double x) {
    return planish_relu_f64(x) + log1p(exp(-planish_abs_f64(x)));
}
PLANISH_INLINE double planish_gelu_f64(double x) { return 0.5 * x * (1.0 + erf(x * 0.7071067811865476)); }
PLANISH_INLINE double planish_gelu_tanh_f64(double x) {
    return 0.5 * x * (1.0 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
}
PLANISH_INLINE float planish_fmod(float x, float y) { return (float)fmod(x, y); }
PLANISH_INLINE double planish_fmod_f64(double x, double y) { return fmod(x, y); }
/* Remainder with the sign of the divisor (numpy.mod). */
PLANISH_INLINE float planish_floormod(float x, float y) {
    const float r = (float)fmod(x, y);
    return r != 0 && ((r < 0) != (y < 0)) ? r + y : r;
}
PLANISH_INLINE double planish_floormod_f64(double x, double y) {
    const double r = fmod(x, y);
    return r != 0 && ((r < 0) != (y < 0)) ? r + y : r;
}
#define PLANISH_BY_LIBM(name)                                                          \
    PLANISH_INLINE float planish_##name(float x) { return (float)name((double)x); }    \
    PLANISH_INLINE double planish_##name##_f64(double x) { return name(x); }
PLANISH_BY_LIBM(tan)
PLANISH_BY_LIBM(asin)
PLANISH_BY_LIBM(acos)
PLANISH_BY_LIBM(atan)
PLANISH_BY_LIBM(sinh)
PLANISH_BY_LIBM(cosh)
PLANISH_BY_LIBM(asinh)
PLANISH_BY_LIBM(acosh)
PLANISH_BY_LIBM(atanh)
#undef PLANISH_BY_LIBM

/* ---- quantization ---------------------------------------------------------------------------- */

/* round(x / scale) + zero, clamped; the division is the one ONNX specifies. */
PLANISH_INLINE int32_t planish_quantize(float x, float scale, int32_t zero, int32_t low, int32_t high) {
    const float q = __builtin_rintf(x / scale) + (float)zero;
    return (int32_t)planish_clip(q, (float)low, (float)high);
}

/* ---- transposition --------------------------------------------------------------------------- */

/* dst[c * dst_pitch + r] = src[r * src_pitch + c] for r < rows, c < cols; pitches in elements.
 * Square blocks are transposed in registers, so that both sides move whole cache lines. */

#define PLANISH_TRANSPOSE_SCALAR(name, T)                                                     \
    PLANISH_INLINE void name(const T *src, int64_t src_pitch, T *dst, int64_t dst_pitch,      \
                             int64_t rows, int64_t cols) {                                    \
        for (int64_t c = 0; c < cols; ++c)                                                    \
            for (int64_t r = 0; r < rows; ++r) dst[c * dst_pitch + r] = src[r * src_pitch + c]; \
    }
PLANISH_TRANSPOSE_SCALAR(planish_transpose_u8, uint8_t)
PLANISH_TRANSPOSE_SCALAR(planish_transpose_edge_u16, uint16_t)
PLANISH_TRANSPOSE_SCALAR(planish_transpose_edge_u32, uint32_t)
PLANISH_TRANSPOSE_SCALAR(planish_transpose_u64, uint64_t)
#undef PLANISH_TRANSPOSE_SCALAR

#if defined(__AVX512F__)
#define PLANISH_TRANSPOSE_BLOCK_U32 16
PLANISH_INLINE void planish_transpose_block_u32(const uint32_t *src, int64_t sp, uint32_t *dst,
                                                int64_t dp) {
    __m512i r[16], t[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_si512(src + i * sp);
#pragma GCC unroll 16
    for (int i = 0; i < 8; ++i) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 4; ++i) {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 4; ++i) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
        t[4 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
        t[8 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
        t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 4; ++i) {
        _mm512_storeu_si512(dst + i * dp, _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88));
        _mm512_storeu_si512(dst + (4 + i) * dp, _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88));
        _mm512_storeu_si512(dst + (8 + i) * dp, _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd));
        _mm512_storeu_si512(dst + (12 + i) * dp, _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd));
    }
}
#elif defined(__AVX2__)
#define PLANISH_TRANSPOSE_BLOCK_U32 8
PLANISH_INLINE void planish_transpose_block_u32(const uint32_t *src, int64_t sp, uint32_t *dst,
                                                int64_t dp) {
    __m256i r[8], t[8];
#pragma GCC unroll 16
    for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_si256((const __m256i *)(src + i * sp));
#pragma GCC unroll 16
    for (int i = 0; i < 4; ++i) {
        t[2 * i] = _mm256_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 2; ++i) {
        r[4 * i] = _mm256_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm256_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm256_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm256_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 4; ++i) {
        _mm256_storeu_si256((__m256i *)(dst + i * dp), _mm256_permute2x128_si256(r[i], r[4 + i], 0x20));
        _mm256_storeu_si256((__m256i *)(dst + (4 + i) * dp), _mm256_permute2x128_si256(r[i], r[4 + i], 0x31));
    }
}
#endif

#if defined(__AVX2__)
#define PLANISH_TRANSPOSE_BLOCK_U16 16
PLANISH_INLINE void planish_transpose_block_u16(const uint16_t *src, int64_t sp, uint16_t *dst,
                                                int64_t dp) {
    /* Rows i and i + 8 share a register after the loads, so the last stage is not needed. */
    __m256i r[16], t[16];
#pragma GCC unroll 16
    for (int i = 0; i < 8; ++i) {
        const __m256i a = _mm256_loadu_si256((const __m256i *)(src + i * sp));
        const __m256i b = _mm256_loadu_si256((const __m256i *)(src + (i + 8) * sp));
        r[i] = _mm256_permute2x128_si256(a, b, 0x20);
        r[8 + i] = _mm256_permute2x128_si256(a, b, 0x31);
    }
#pragma GCC unroll 16
    for (int h = 0; h < 16; h += 8) {
#pragma GCC unroll 16
        for (int i = 0; i < 4; ++i) {
            t[h + 2 * i] = _mm256_unpacklo_epi16(r[h + 2 * i], r[h + 2 * i + 1]);
            t[h + 2 * i + 1] = _mm256_unpackhi_epi16(r[h + 2 * i], r[h + 2 * i + 1]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < 2; ++i) {
            r[h + 4 * i] = _mm256_unpacklo_epi32(t[h + 4 * i], t[h + 4 * i + 2]);
            r[h + 4 * i + 1] = _mm256_unpackhi_epi32(t[h + 4 * i], t[h + 4 * i + 2]);
            r[h + 4 * i + 2] = _mm256_unpacklo_epi32(t[h + 4 * i + 1], t[h + 4 * i + 3]);
            r[h + 4 * i + 3] = _mm256_unpackhi_epi32(t[h + 4 * i + 1], t[h + 4 * i + 3]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < 4; ++i) {
            const __m256i low = _mm256_unpacklo_epi64(r[h + i], r[h + 4 + i]);
            const __m256i high = _mm256_unpackhi_epi64(r[h + i], r[h + 4 + i]);
            _mm256_storeu_si256((__m256i *)(dst + (h + 2 * i) * dp), low);
            _mm256_storeu_si256((__m256i *)(dst + (h + 2 * i + 1) * dp), high);
        }
    }
}
#endif

/* A part of a block at an edge: through a whole block on the stack. */
#define PLANISH_TRANSPOSE_PART(bits, BLOCK)                                                     \
    PLANISH_INLINE void planish_transpose_part_u##bits(const uint##bits##_t *src, int64_t sp,   \
                                                       uint##bits##_t *dst, int64_t dp,         \
                                                       int64_t rows, int64_t cols) {            \
        uint##bits##_t from[BLOCK * BLOCK], to[BLOCK * BLOCK];                                  \
        for (int64_t r = 0; r < rows; ++r) PLANISH_COPY_PART(bits, from + r * BLOCK, src + r * sp, cols); \
        planish_transpose_block_u##bits(from, BLOCK, to, BLOCK);                                \
        for (int64_t c = 0; c < cols; ++c) PLANISH_COPY_PART(bits, dst + c * dp, to + c * BLOCK, rows); \
    }
#if defined(__AVX512BW__) && defined(__AVX512VL__)
#define PLANISH_COPY_PART(bits, to, from, n) planish_copy_part_u##bits(to, from, n)
PLANISH_INLINE void planish_copy_part_u32(uint32_t *to, const uint32_t *from, int64_t n) {
    const __mmask16 mask = (__mmask16)((1u << n) - 1u);
    _mm512_mask_storeu_epi32(to, mask, _mm512_maskz_loadu_epi32(mask, from));
}
PLANISH_INLINE void planish_copy_part_u16(uint16_t *to, const uint16_t *from, int64_t n) {
    const __mmask16 mask = (__mmask16)((1u << n) - 1u);
    _mm256_mask_storeu_epi16(to, mask, _mm256_maskz_loadu_epi16(mask, from));
}
#else
#define PLANISH_COPY_PART(bits, to, from, n) memcpy(to, from, (size_t)(n) * (bits / 8))
#endif

#define PLANISH_TRANSPOSE(bits, BLOCK)                                                          \
    static __attribute__((unused, noinline)) void planish_transpose_u##bits(                    \
        const uint##bits##_t *src, int64_t sp, uint##bits##_t *dst, int64_t dp, int64_t rows,   \
        int64_t cols) {                                                                         \
        const int64_t whole_rows = rows - rows % BLOCK, whole_cols = cols - cols % BLOCK;       \
        for (int64_t r = 0; r < whole_rows; r += BLOCK)                                         \
            for (int64_t c = 0; c < whole_cols; c += BLOCK)                                     \
                planish_transpose_block_u##bits(src + r * sp + c, sp, dst + c * dp + r, dp);    \
        for (int64_t c = 0; whole_rows < rows && c < cols; c += BLOCK)                          \
            planish_transpose_part_u##bits(src + whole_rows * sp + c, sp,                       \
                                           dst + c * dp + whole_rows, dp, rows - whole_rows,    \
                                           planish_min_i64(BLOCK, cols - c));                   \
        for (int64_t r = 0; whole_cols < cols && r < whole_rows; r += BLOCK)                    \
            planish_transpose_part_u##bits(src + r * sp + whole_cols, sp,                       \
                                           dst + whole_cols * dp + r, dp, BLOCK,                \
                                           cols - whole_cols);                                  \
    }
#if defined(PLANISH_TRANSPOSE_BLOCK_U32)
PLANISH_TRANSPOSE_PART(32, PLANISH_TRANSPOSE_BLOCK_U32)
PLANISH_TRANSPOSE(32, PLANISH_TRANSPOSE_BLOCK_U32)
#else
#define planish_transpose_u32 planish_transpose_edge_u32
#endif
#if defined(PLANISH_TRANSPOSE_BLOCK_U16)
PLANISH_TRANSPOSE_PART(16, PLANISH_TRANSPOSE_BLOCK_U16)
PLANISH_TRANSPOSE(16, PLANISH_TRANSPOSE_BLOCK_U16)
#else
#define planish_transpose_u16 planish_transpose_edge_u16
#endif
#undef PLANISH_TRANSPOSE
#undef PLANISH_TRANSPOSE_PART

/* ---- indices read from data ------------------------------------------------------------------ */

/* Return x, which the compiler may not know to be a constant. */
PLANISH_INLINE int64_t planish_hidden(int64_t x) {
    __asm__("" : "+r"(x));
    return x;
}

/* An index into an axis of n elements; negative ones count from the end. Out of range is clamped:
 * the result is then unspecified, but no memory outside the operand is touched. */
PLANISH_INLINE int64_t planish_index(int64_t i, int64_t n) {
    return planish_clamp_i64(i < 0 ? i + n : i, 0, n - 1);
}
/* Mirror an index into [0, n) without repeating the edge (numpy's "reflect"). */
PLANISH_INLINE int64_t planish_reflect_i64(int64_t i, int64_t n) {
    const int64_t period = 2 * (n - 1);
    const int64_t at = period > 0 ? planish_mod_i64(i, period) : 0;
    return at < n ? at : period - at;
}

/* ---- windows --------------------------------------------------------------------------------- */

/* Taps of a window lie at start + k * dilation for k < taps: the first k at or after `low`, and
 * the first k at or after `high` (at most taps). */
PLANISH_INLINE int64_t planish_first_tap(int64_t start, int64_t dilation, int64_t taps, int64_t low) {
    return start >= low ? 0 : planish_min_i64(taps, (low - start + dilation - 1) / dilation);
}
PLANISH_INLINE int64_t planish_last_tap(int64_t start, int64_t dilation, int64_t taps, int64_t high) {
    return start >= high ? 0 : planish_min_i64(taps, (high - start + dilation - 1) / dilation);
}

/* ---- small matrix products ------------------------------------------------------------------- */

/* y[r][c] += sum over k of x[r][k] * w[k][c], w packed in panels of 64 columns: [n / 64][k][64].
 * A panel streams through once for up to four rows, whose sums stay in registers; n is a multiple
 * of 64. For recurrent layers, where rows are few and w comes from L2. */
typedef float planish_f32x16 __attribute__((vector_size(64), aligned(4), may_alias));
#define PLANISH_PANEL 64

#define PLANISH_LOAD16(p) (*(const planish_f32x16 *)(p))
#define PLANISH_STORE16(p, v) (*(planish_f32x16 *)(p) = (v))
#define PLANISH_STEP4(a0, a1, a2, a3, s, w)                                            \
    a0 += (s) * PLANISH_LOAD16(w), a1 += (s) * PLANISH_LOAD16((w) + 16),               \
    a2 += (s) * PLANISH_LOAD16((w) + 32), a3 += (s) * PLANISH_LOAD16((w) + 48)

PLANISH_INLINE void planish_panel_row(const float *x, const float *w, int64_t depth, float *y) {
    planish_f32x16 a0 = PLANISH_LOAD16(y), a1 = PLANISH_LOAD16(y + 16);
    planish_f32x16 a2 = PLANISH_LOAD16(y + 32), a3 = PLANISH_LOAD16(y + 48);
    planish_f32x16 b0 = {0}, b1 = {0}, b2 = {0}, b3 = {0};
    int64_t k = 0;
    for (; k + 2 <= depth; k += 2) {
        PLANISH_STEP4(a0, a1, a2, a3, x[k], w + k * 64);
        PLANISH_STEP4(b0, b1, b2, b3, x[k + 1], w + k * 64 + 64);
    }
    if (k < depth) PLANISH_STEP4(a0, a1, a2, a3, x[k], w + k * 64);
    PLANISH_STORE16(y, a0 + b0);
    PLANISH_STORE16(y + 16, a1 + b1);
    PLANISH_STORE16(y + 32, a2 + b2);
    PLANISH_STORE16(y + 48, a3 + b3);
}

#define PLANISH_ROW(r)                                                                          \
    planish_f32x16 a##r = PLANISH_LOAD16(y + r * yp), b##r = PLANISH_LOAD16(y + r * yp + 16),   \
                   c##r = PLANISH_LOAD16(y + r * yp + 32), e##r = PLANISH_LOAD16(y + r * yp + 48)
#define PLANISH_ROW_STEP(r)                                                                     \
    a##r += x[r * xp + k] * w0, b##r += x[r * xp + k] * w1, c##r += x[r * xp + k] * w2,         \
    e##r += x[r * xp + k] * w3
#define PLANISH_ROW_END(r)                                                                      \
    PLANISH_STORE16(y + r * yp, a##r), PLANISH_STORE16(y + r * yp + 16, b##r),                  \
    PLANISH_STORE16(y + r * yp + 32, c##r), PLANISH_STORE16(y + r * yp + 48, e##r)

PLANISH_INLINE void planish_panel_four_rows(const float *x, int64_t xp, const float *w,
                                            int64_t depth, float *y, int64_t yp) {
    PLANISH_ROW(0); PLANISH_ROW(1); PLANISH_ROW(2); PLANISH_ROW(3);
    for (int64_t k = 0; k < depth; ++k) {
        const planish_f32x16 w0 = PLANISH_LOAD16(w + k * 64), w1 = PLANISH_LOAD16(w + k * 64 + 16);
        const planish_f32x16 w2 = PLANISH_LOAD16(w + k * 64 + 32);
        const planish_f32x16 w3 = PLANISH_LOAD16(w + k * 64 + 48);
        PLANISH_ROW_STEP(0); PLANISH_ROW_STEP(1); PLANISH_ROW_STEP(2); PLANISH_ROW_STEP(3);
    }
    PLANISH_ROW_END(0); PLANISH_ROW_END(1); PLANISH_ROW_END(2); PLANISH_ROW_END(3);
}

static __attribute__((unused, noinline)) void planish_rows_times_panels(
    const float *restrict x, int64_t xp, const float *restrict w, int64_t depth, int64_t n,
    float *restrict y, int64_t yp, int64_t rows) {
    for (int64_t c = 0; c < n; c += PLANISH_PANEL) {
        const float *panel = w + c * depth;
        int64_t r = 0;
        for (; r + 4 <= rows; r += 4)
            planish_panel_four_rows(x + r * xp, xp, panel, depth, y + r * yp + c, yp);
        for (; r < rows; ++r) planish_panel_row(x + r * xp, panel, depth, y + r * yp + c);
    }
}

/* ---- sampling -------------------------------------------------------------------------------- */

/* Mirror x at low and high until it lies between them; x itself where it does already. */
PLANISH_INLINE float planish_reflect(float x, float low, float high) {
    const float span = high - low, period = 2.0f * span;
    const float distance = planish_abs(x - low);
    const float rest = distance - period * planish_floor(distance / period);
    const float mirrored = low + (rest > span ? period - rest : rest);
    const float moved = span > 0 ? mirrored : low;
    return (x < low) | (x > high) ? moved : x;
}
/* A position as an integer in [-1, n], NaN as -1. */
PLANISH_INLINE int32_t planish_position(float x, int32_t n) {
    const float known = x == x ? planish_round(x) : -1.0f;
    return (int32_t)planish_clip(known, -1.0f, (float)n);
}
PLANISH_INLINE int32_t planish_clamp_i32(int32_t x, int32_t low, int32_t high) {
    return x < low ? low : x > high ? high : x;
}
/* The cubic convolution kernel (Keys 1981) with coefficient a at distance d. */
PLANISH_INLINE float planish_cubic(float d, float a) {
    const float q = planish_abs(d);
    const float near = ((a + 2.0f) * q - (a + 3.0f)) * q * q + 1.0f;
    const float far = ((a * q - 5.0f * a) * q + 8.0f * a) * q - 4.0f * a;
    const float outer = q < 2.0f ? far : 0.0f;
    return q <= 1.0f ? near : outer;
}
