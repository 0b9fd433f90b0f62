/* AMX: configuring the tile registers.
 *
 * A product of tiles is acc[m][n] += sum_k a[m][k] * b[k / group][n][k % group]: `a` has `rows` rows
 * of `depth` bytes, `b` has depth / 4 rows of 64 bytes, `acc` has `rows` rows of 16 32-bit lanes.
 * Compilers treat tile instructions as opaque statements that read memory they know nothing of:
 * whatever a kernel itself writes before a tile load needs PLANISH_AMX_FENCE in between.
 */
#ifndef PLANISH_AMX_H
#define PLANISH_AMX_H
#if defined(__AMX_TILE__)

#define PLANISH_AMX_FENCE() __asm__ volatile("" ::: "memory")

typedef struct planish_amx_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16]; /* of a row, by register */
    uint8_t rows[16];
} planish_amx_config;

/* Registers 0 .. acc-1 are accumulators, then `left` registers for a, then `right` ones for b. */
PLANISH_INLINE void planish_amx_begin(int acc, int left, int right, int rows, int depth) {
    planish_amx_config config __attribute__((aligned(64)));
    memset(&config, 0, sizeof config);
    config.palette = 1;
    for (int i = 0; i < acc + left + right; i++) {
        const int is_left = i >= acc && i < acc + left, is_right = i >= acc + left;
        config.bytes[i] = (uint16_t)(is_left ? depth : 64);
        config.rows[i] = (uint8_t)(is_right ? depth / 4 : rows);
    }
    /* gcc believes that loading a configuration reads its first 8 bytes only */
    __asm__ volatile("" ::"r"(&config) : "memory");
    _tile_loadconfig(&config);
}

PLANISH_INLINE void planish_amx_end(void) { _tile_release(); }

#endif /* __AMX_TILE__ */
#endif /* PLANISH_AMX_H */
