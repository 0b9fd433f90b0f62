/* AMX tile instructions in plain C, to run kernels on machines without them.
 *
 * Goes in front of the prelude: the macros replace the intrinsics, the kernel's source stays as it
 * is. State is per thread, rows and bytes of every register are honoured exactly, and what the
 * hardware would answer with an exception is counted in planish_amx_faults: an unconfigured or
 * oversized tile, operands that do not fit each other. Tile loads and stores must lie inside the
 * ranges given to planish_amx_allow (if any was given), so reads past an operand are found even
 * where their result is dropped.
 */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define EMULATED __attribute__((visibility("default"), noinline, unused))
#define EMULATED_RANGES 32

static __thread struct {
    uint8_t data[8][16][64];
    uint16_t bytes[8];
    uint8_t rows[8];
    int configured;
} emulated;
static struct { uintptr_t low, high; } emulated_range[EMULATED_RANGES];
static int emulated_ranges, emulated_faults;

EMULATED int planish_amx_faults(void) { return emulated_faults; }
EMULATED int planish_amx_configured(void) { return emulated.configured; }
EMULATED void planish_amx_forget(void) { emulated_ranges = emulated_faults = 0; }
EMULATED void planish_amx_allow(const void *base, int64_t size) {
    if (emulated_ranges == EMULATED_RANGES) { emulated_faults++; return; }
    emulated_range[emulated_ranges].low = (uintptr_t)base;
    emulated_range[emulated_ranges++].high = (uintptr_t)base + (uintptr_t)size;
}

static void emulated_touch(const char *address, int bytes) {
    if (emulated_ranges == 0) return;
    for (int i = 0; i < emulated_ranges; i++)
        if ((uintptr_t)address >= emulated_range[i].low
            && (uintptr_t)address + (uintptr_t)bytes <= emulated_range[i].high) return;
    emulated_faults++;
}

static int emulated_valid(int t) {
    const int valid = emulated.configured && t >= 0 && t < 8 && emulated.rows[t] && emulated.bytes[t];
    if (!valid) emulated_faults++;
    return valid;
}

EMULATED void emulated_loadconfig(const void *from) {
    struct { uint8_t palette, start, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; } c;
    memcpy(&c, from, 64);
    if (c.palette != 1 || c.start != 0) emulated_faults++;
    for (int i = 0; i < 14; i++) if (c.reserved[i]) emulated_faults++;
    for (int i = 0; i < 16; i++) {
        if (c.bytes[i] > 64 || c.rows[i] > 16 || !c.bytes[i] != !c.rows[i]) emulated_faults++;
        if (i >= 8 && (c.bytes[i] || c.rows[i])) emulated_faults++;
    }
    memset(&emulated, 0, sizeof emulated);
    memcpy(emulated.bytes, c.bytes, sizeof emulated.bytes);
    memcpy(emulated.rows, c.rows, sizeof emulated.rows);
    emulated.configured = 1;
}

EMULATED void emulated_release(void) { memset(&emulated, 0, sizeof emulated); }

EMULATED void emulated_zero(int t) {
    if (emulated_valid(t)) memset(emulated.data[t], 0, sizeof emulated.data[t]);
}

EMULATED void emulated_load(int t, const void *base, int64_t stride) {
    if (!emulated_valid(t)) return;
    memset(emulated.data[t], 0, sizeof emulated.data[t]);
    for (int r = 0; r < emulated.rows[t]; r++) {
        emulated_touch((const char *)base + r * stride, emulated.bytes[t]);
        memcpy(emulated.data[t][r], (const char *)base + r * stride, emulated.bytes[t]);
    }
}

EMULATED void emulated_store(int t, void *base, int64_t stride) {
    if (!emulated_valid(t)) return;
    for (int r = 0; r < emulated.rows[t]; r++) {
        emulated_touch((char *)base + r * stride, emulated.bytes[t]);
        memcpy((char *)base + r * stride, emulated.data[t][r], emulated.bytes[t]);
    }
}

/* Whether a product's operands fit each other (otherwise the instruction is undefined). */
static int emulated_fits(int c, int a, int b) {
    if (!emulated_valid(c) || !emulated_valid(a) || !emulated_valid(b)) return 0;
    const int fits = c != a && c != b && a != b && emulated.rows[a] == emulated.rows[c]
        && emulated.bytes[b] == emulated.bytes[c] && emulated.bytes[a] % 4 == 0
        && emulated.bytes[b] % 4 == 0 && emulated.rows[b] == emulated.bytes[a] / 4;
    if (!fits) emulated_faults++;
    return fits;
}

/* bf16 to float; subnormals count as zero */
static inline float emulated_widen(uint16_t h) {
    const uint32_t u = (h & 0x7f80u) ? (uint32_t)h << 16 : (uint32_t)(h & 0x8000u) << 16;
    float x;
    memcpy(&x, &u, 4);
    return x;
}

EMULATED void emulated_dpbf16ps(int c, int a, int b) {
    if (!emulated_fits(c, a, b)) return;
    const int groups = emulated.rows[b], columns = emulated.bytes[c] / 4;
    for (int m = 0; m < emulated.rows[c]; m++) {
        float sums[16];
        uint16_t left[32];
        memcpy(sums, emulated.data[c][m], 64);
        memcpy(left, emulated.data[a][m], 64);
        for (int k = 0; k < groups; k++) {
            uint16_t right[32];
            memcpy(right, emulated.data[b][k], 64);
            for (int n = 0; n < columns; n++)
                sums[n] += emulated_widen(left[2 * k]) * emulated_widen(right[2 * n])
                    + emulated_widen(left[2 * k + 1]) * emulated_widen(right[2 * n + 1]);
        }
        memcpy(emulated.data[c][m], sums, (size_t)columns * 4);
    }
}

#define EMULATED_INTEGER_PRODUCT(name, left_type, right_type)                                      \
    EMULATED void name(int c, int a, int b) {                                                      \
        if (!emulated_fits(c, a, b)) return;                                                       \
        for (int m = 0; m < emulated.rows[c]; m++) {                                               \
            int32_t sums[16];                                                                      \
            memcpy(sums, emulated.data[c][m], 64);                                                 \
            for (int k = 0; k < emulated.rows[b]; k++)                                             \
                for (int n = 0; n < emulated.bytes[c] / 4; n++)                                    \
                    for (int i = 0; i < 4; i++)                                                    \
                        sums[n] += (int32_t)(left_type)emulated.data[a][m][4 * k + i]              \
                            * (right_type)emulated.data[b][k][4 * n + i];                          \
            memcpy(emulated.data[c][m], sums, (size_t)emulated.bytes[c]);                          \
        }                                                                                          \
    }
EMULATED_INTEGER_PRODUCT(emulated_dpbssd, int8_t, int8_t)
EMULATED_INTEGER_PRODUCT(emulated_dpbusd, uint8_t, int8_t)

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stream_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#undef _tile_dpbssd
#undef _tile_dpbusd
#define _tile_loadconfig(from) emulated_loadconfig(from)
#define _tile_release() emulated_release()
#define _tile_zero(t) emulated_zero(t)
#define _tile_loadd(t, base, stride) emulated_load(t, base, (int64_t)(stride))
#define _tile_stream_loadd(t, base, stride) emulated_load(t, base, (int64_t)(stride))
#define _tile_stored(t, base, stride) emulated_store(t, base, (int64_t)(stride))
#define _tile_dpbf16ps(c, a, b) emulated_dpbf16ps(c, a, b)
#define _tile_dpbssd(c, a, b) emulated_dpbssd(c, a, b)
#define _tile_dpbusd(c, a, b) emulated_dpbusd(c, a, b)
#ifndef __AMX_TILE__
#define __AMX_TILE__ 1
#endif
