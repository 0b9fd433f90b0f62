/* Histogram of the magnitudes of an array; the reference is FineHistogram.add in
 * quantize/histogram.py, whose state `planish_observed` mirrors.
 *
 * One pass over memory: blocks small enough for the first-level cache are read three times, for the
 * extremes, for the places (vectorised, a power of two times the magnitude is exact), and to count.
 * Counting is what bounds it. Values in a row are often equal (zeros after a ReLU), and adding to
 * one counter again and again waits for each store; so the lowest bin is not counted at all (it is
 * what the others leave), by compacting the places before counting.
 */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define FINE 32768
#define BLOCK 2048

typedef struct {
  int64_t count, not_finite, nan, exponent;
  float minimum, maximum;
} planish_observed;

static void widen(uint64_t *bins, planish_observed *state, float largest) {
  int needed;
  if (largest == 0.0f) return;
  float mantissa = frexpf(largest, &needed);
  needed -= mantissa == 0.5f; /* the smallest with largest <= 2^needed */
  int64_t steps = needed - state->exponent;
  if (steps <= 0) return;
  steps = steps < 62 ? steps : 62;
  for (int64_t i = 1; i <= FINE; i++) {
    uint64_t moved = bins[i];
    bins[i] = 0;
    bins[i >> steps] += moved;
  }
  state->exponent = needed;
}

/* Copy the finite numbers of a block to `kept` and return how many they are. */
static int64_t finite_part(const float *x, int64_t n, float *kept, planish_observed *state) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; i++) {
    uint32_t bits;
    memcpy(&bits, x + i, 4);
    bits &= 0x7fffffffu;
    kept[count] = x[i];
    count += bits < 0x7f800000u;
    state->nan += bits > 0x7f800000u;
  }
  state->not_finite += n - count;
  return count;
}

/* Write the bins of n numbers without those in bin 0; return how many there are. */
static int64_t places_of(const float *x, int64_t n, float scale, int32_t *places) {
  int64_t count = 0, i = 0;
#ifdef __AVX512F__
  __m512 by = _mm512_set1_ps(scale);
  for (; i + 16 <= n; i += 16) {
    __m512i found = _mm512_cvttps_epi32(_mm512_mul_ps(_mm512_abs_ps(_mm512_loadu_ps(x + i)), by));
    __mmask16 kept = _mm512_test_epi32_mask(found, found);
    _mm512_storeu_si512(places + count, _mm512_maskz_compress_epi32(kept, found));
    count += __builtin_popcount(kept);
  }
#endif
  for (; i < n; i++) {
    places[count] = (int32_t)(fabsf(x[i]) * scale);
    count += places[count] != 0;
  }
  return count;
}

static void observe_block(const float *x, int64_t n, uint64_t *bins, planish_observed *state) {
  float low = state->minimum, high = state->maximum, largest = 0.0f;
#pragma omp simd reduction(min : low) reduction(max : high)
  for (int64_t i = 0; i < n; i++) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
  }
  state->minimum = low;
  state->maximum = high;
  largest = -low > high ? -low : high;
  widen(bins, state, largest);
  float scale = ldexpf(1.0f, 15 - (int)state->exponent);
  int32_t places[BLOCK + 16];
  int64_t count = places_of(x, n, scale, places);
  for (int64_t i = 0; i < count; i++) bins[places[i]]++;
  bins[0] += n - count;
}

__attribute__((visibility("default"))) void planish_observe(const float *x, int64_t n,
                                                            uint64_t *bins,
                                                            planish_observed *state) {
  float kept[BLOCK];
  for (int64_t start = 0; start < n; start += BLOCK) {
    int64_t size = n - start < BLOCK ? n - start : BLOCK;
    const float *block = x + start;
    uint32_t top = 0;
#pragma omp simd reduction(max : top)
    for (int64_t i = 0; i < size; i++) {
      uint32_t bits;
      memcpy(&bits, block + i, 4);
      bits &= 0x7fffffffu;
      top = bits > top ? bits : top;
    }
    state->count += size;
    if (top >= 0x7f800000u) {
      size = finite_part(block, size, kept, state);
      block = kept;
    }
    if (size > 0) observe_block(block, size, bins, state);
  }
}
