"""AMX tile instructions in plain C, so that kernels that use them run on any CPU."""

from __future__ import annotations

from dataclasses import replace

from planish.tactics.tactic import Kernel

EMULATION = """
#ifndef AMX_EMULATION
#define AMX_EMULATION
#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
static struct { uint16_t bytes[16]; uint8_t rows[16]; char data[8][16][64]; } amx;
static void amx_configure(const void *config) {
    memcpy(amx.bytes, (const char *)config + 16, 32);
    memcpy(amx.rows, (const char *)config + 48, 16);
    memset(amx.data, 0, sizeof amx.data);
}
static void amx_load(int t, const void *p, int64_t stride) {
    memset(amx.data[t], 0, sizeof amx.data[t]);
    for (int r = 0; r < amx.rows[t]; r++)
        memcpy(amx.data[t][r], (const char *)p + r * stride, amx.bytes[t]);
}
static void amx_store(int t, void *p, int64_t stride) {
    for (int r = 0; r < amx.rows[t]; r++)
        memcpy((char *)p + r * stride, amx.data[t][r], amx.bytes[t]);
}
static void amx_product(int c, int a, int b) {
    if (amx.bytes[a] / 4 != amx.rows[b] || amx.rows[a] != amx.rows[c]) __builtin_trap();
    for (int m = 0; m < amx.rows[c]; m++)
        for (int n = 0; n < amx.bytes[c] / 4; n++) {
            float sum;
            memcpy(&sum, amx.data[c][m] + 4 * n, 4);
            for (int k = 0; k < amx.bytes[a] / 2; k++) {
                uint16_t x, y;
                memcpy(&x, amx.data[a][m] + 2 * k, 2);
                memcpy(&y, amx.data[b][k / 2] + 4 * n + 2 * (k % 2), 2);
                sum += planish_from_bf16(x) * planish_from_bf16(y);
            }
            memcpy(amx.data[c][m] + 4 * n, &sum, 4);
        }
}
#define _tile_loadconfig(config) amx_configure(config)
#define _tile_release() ((void)0)
#define _tile_zero(t) memset(amx.data[t], 0, sizeof amx.data[t])
#define _tile_loadd(t, p, stride) amx_load(t, p, stride)
#define _tile_stored(t, p, stride) amx_store(t, p, stride)
#define _tile_dpbf16ps(c, a, b) amx_product(c, a, b)
#endif
"""


def emulated(kernel: Kernel) -> Kernel:
    """Return `kernel` with its tile instructions emulated."""
    return replace(kernel, source=EMULATION + kernel.source)
