/* Planish driver, first half: what wrappers of steps use. Follows the prelude.
 *
 * The structures here are read and written by planish/runtime/native.py: change both, and
 * PLANISH_ABI, together.
 */
#define PLANISH_ABI 1

struct planish_pool;

/* How long a step took together and alone, in clock ticks; see planish_choose. */
typedef struct planish_habit {
    uint32_t runs, together, alone, decided;
} planish_habit;

/* One inference, or one segment of it. */
typedef struct planish_call {
    char *const *inputs;
    char *const *outputs;
    char *arena;
    char *weights;
    char *scratch;              /* threads * planish_scratch_stride bytes, 64-byte aligned */
    int64_t *dims;              /* values of the plan's symbols; loops write theirs */
    struct planish_pool *pool;  /* NULL: the caller's thread alone */
    planish_habit *habits;      /* one a step, zero at first; NULL: always run together */
    uint64_t *times;            /* nanoseconds, added up, one a step; NULL: not measured */
    int64_t threads;
    int64_t first, last;        /* steps [first, last) */
    int64_t loop;               /* the innermost loop that the caller itself runs, or -1 */
} planish_call;

typedef struct planish_step {
    void (*run)(const planish_call *c, int64_t begin, int64_t end, char *scratch);
    int64_t (*count)(const int64_t *d);     /* NULL: `items` is constant */
    int (*guard)(const planish_call *c);    /* NULL: always runs; run == NULL: external step */
    int64_t items;
} planish_step;

typedef struct planish_loop {
    int64_t first, last;
    int64_t (*count)(const int64_t *d);
    int64_t symbol;
    int64_t parent;
} planish_loop;

/* Zero the elements around a value. Axes in memory order, outermost first; the last axis has a
 * halo (the printer folds those without one into `unit`, the bytes of an innermost element). */
static inline void planish_zero_halo(char *base, int rank, const int64_t *sizes,
                                     const int64_t (*halo)[2], int64_t unit)
{
    int64_t bytes = unit;
    for (int axis = 1; axis < rank; axis++) bytes *= sizes[axis];
    const int64_t before = halo[0][0], after = halo[0][1], inside = sizes[0] - before - after;
    memset(base, 0, (size_t)(before * bytes));
    memset(base + (before + inside) * bytes, 0, (size_t)(after * bytes));
    if (rank == 1) return;
    for (int64_t i = 0; i < inside; i++)
        planish_zero_halo(base + (before + i) * bytes, rank - 1, sizes + 1, halo + 1, unit);
}
