/* Planish driver, first half: what wrappers of steps use. Follows the prelude.
 *
 * The structures here are read and written by planish/runtime/native.py: change both, and
 * PLANISH_ABI, together.
 */
#define PLANISH_ABI 2

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

/* A place in one of the four memories. */
enum { PLANISH_INPUT, PLANISH_OUTPUT, PLANISH_ARENA, PLANISH_WEIGHTS };

typedef struct planish_pointer {
    int32_t space, index;
    int64_t offset;             /* bytes */
} planish_pointer;

/* Memory around a value that is zeroed before the step that first writes the value. Axes in
 * memory order, outermost first; the last one has a halo (the printer folds those without one
 * into `unit`, the bytes of an innermost element). */
typedef struct planish_fill {
    planish_pointer start;      /* of the allocation, halo included */
    int64_t rank, unit;
    const int64_t *sizes;       /* halo included */
    const int64_t (*halo)[2];   /* elements before and after */
} planish_fill;

typedef struct planish_step {
    /* NULL: an external step, which Python runs */
    void (*kernel)(char *const *p, const int64_t *d, int64_t begin, int64_t end, char *scratch);
    const planish_pointer *pointers;
    const planish_fill *fills;
    int32_t pointer_count, fill_count;
    int64_t items;
    /* where something depends on symbols: NULL otherwise */
    int64_t (*count)(const int64_t *d);
    void (*move)(const int64_t *d, int64_t *offsets);       /* gives the pointers' offsets */
    void (*fill)(const struct planish_call *c);
    int (*guard)(const struct planish_call *c);             /* NULL: always runs */
} planish_step;

typedef struct planish_loop {
    int64_t first, last;
    int64_t (*count)(const planish_call *c);
    int (*going)(const planish_call *c);                    /* NULL: always */
    int64_t *(*counter)(const planish_call *c);             /* NULL: nobody reads the number */
    int64_t symbol;
    int64_t parent;
} planish_loop;

static inline char *planish_at(const planish_call *c, planish_pointer pointer)
{
    switch (pointer.space) {
    case PLANISH_INPUT: return c->inputs[pointer.index] + pointer.offset;
    case PLANISH_OUTPUT: return c->outputs[pointer.index] + pointer.offset;
    case PLANISH_ARENA: return c->arena + pointer.offset;
    default: return c->weights + pointer.offset;
    }
}

static void planish_zero_axis(char *base, int64_t rank, const int64_t *sizes,
                              const int64_t (*halo)[2], int64_t unit)
{
    int64_t bytes = unit;
    for (int64_t axis = 1; axis < rank; axis++) bytes *= sizes[axis];
    const int64_t before = halo[0][0], after = halo[0][1], inside = sizes[0] - before - after;
    memset(base, 0, (size_t)(before * bytes));
    memset(base + (before + inside) * bytes, 0, (size_t)(after * bytes));
    if (rank == 1) return;
    if (rank == 2 && halo[1][0] == 0 && halo[1][1] * unit <= 8) {
        /* padded channels of an image: a few bytes of every pixel */
        char *const end = base + (before + inside) * bytes, *p = base + (before + 1) * bytes;
        for (const int64_t width = halo[1][1] * unit; p <= end; p += bytes)
            for (int64_t i = 1; i <= width; i++) p[-i] = 0;
        return;
    }
    for (int64_t i = 0; i < inside; i++)
        planish_zero_axis(base + (before + i) * bytes, rank - 1, sizes + 1, halo + 1, unit);
}

static void planish_zero_halo(const planish_call *c, const planish_fill *fill)
{
    planish_zero_axis(planish_at(c, fill->start), fill->rank, fill->sizes, fill->halo, fill->unit);
}
