/* Planish driver, second half: the thread pool and the loop over steps.
 *
 * The pool is one per process, shared by all engines whose PLANISH_ABI is equal. A job is cut
 * into chunks that threads claim one by one; a thread that sleeps or lost its core claims
 * nothing, so nobody waits for it. The caller takes part and waits only for claimed chunks.
 *
 * `ticket` packs (sequence number | workers allowed | chunks | chunks taken) into one word, and a
 * claim is a compare-and-swap of that word: it succeeds only for the job that was looked at. From
 * a successful claim until the thread adds it to `finished` that job cannot end, so what `job`
 * and `argument` hold is stable.
 *
 * Every thread has chunks of its own, the same part of every step: what a step reads is then mostly
 * in the cache of the thread that wrote it. Chunks of others are taken when none of these is left.
 */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PLANISH_EXPORT __attribute__((visibility("default")))
#define PLANISH_MAX_WORKERS 1023
#define PLANISH_SPIN_NS 50000   /* an idle worker looks for work this long before it sleeps */

typedef struct planish_worker {
    _Alignas(128) uint32_t sleeping;
    int32_t index;
    struct planish_pool *pool;
} planish_worker;

typedef struct planish_pool {
    _Alignas(128) uint64_t ticket;
    _Alignas(128) uint64_t finished;
    _Alignas(128) int32_t owned;        /* an inference has the workers */
    _Alignas(128) int32_t active;       /* inferences under way, with or without workers */
    int32_t broken;                     /* a fork left this copy without threads */
    int32_t cores;
    int32_t workers;
    void (*job)(void *argument, int64_t chunk, int64_t chunks, int64_t thread);
    void *argument;
    planish_worker *worker[PLANISH_MAX_WORKERS];
} planish_pool;

#define PLANISH_TICKET(sequence, allowed, chunks) \
    ((uint64_t)(sequence) << 40 | (uint64_t)(allowed) << 28 | (uint64_t)(chunks) << 14)
#define PLANISH_SEQUENCE(t) ((t) >> 40)
#define PLANISH_ALLOWED(t) ((int64_t)((t) >> 28 & 0xfff))
#define PLANISH_CHUNKS(t) ((int64_t)((t) >> 14 & 0x3fff))
#define PLANISH_TAKEN(t) ((int64_t)((t) & 0x3fff))
#define PLANISH_MASKED 14   /* up to so many chunks, one bit each says which are taken */

static inline void planish_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static inline uint64_t planish_nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline uint64_t planish_ticks(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    return planish_nanoseconds() * 3;
#endif
}

/* AMX tiles are off for a process until it asks (arch_prctl ARCH_REQ_XCOMP_PERM, XTILEDATA). */
static int planish_permit(void)
{
#if defined(__AMX_TILE__)
    return syscall(SYS_arch_prctl, 0x1023, 18) == 0;
#else
    return 1;
#endif
}

/* ---- pool ------------------------------------------------------------------------------------ */

/* Return a chunk for `thread`, its own ones first, or -1 when there is none. Chunks are numbered
 * round by round: chunk c belongs to thread c modulo the threads. Many chunks are handed out in
 * this order, `taken` being how many were. */
static int64_t planish_pick(uint64_t ticket, int64_t thread)
{
    const int64_t chunks = PLANISH_CHUNKS(ticket), taken = PLANISH_TAKEN(ticket);
    const int64_t threads = PLANISH_ALLOWED(ticket) + 1;
    if (thread >= threads) return -1;
    if (chunks > PLANISH_MASKED) return taken < chunks ? taken : -1;
    const uint32_t left = ~(uint32_t)taken & ((1u << chunks) - 1u);
    for (int64_t own = thread; own < chunks; own += threads)
        if (left >> own & 1u) return own;
    return left ? 31 - __builtin_clz(left) : -1;
}

static uint64_t planish_claimed(uint64_t ticket, int64_t chunk)
{
    return PLANISH_CHUNKS(ticket) > PLANISH_MASKED ? ticket + 1 : ticket | 1ull << chunk;
}

/* Run chunks of the current job until none is left; return how many. */
static int64_t planish_work(planish_pool *pool, int64_t thread)
{
    int64_t done = 0, chunk;
    uint64_t ticket = __atomic_load_n(&pool->ticket, __ATOMIC_ACQUIRE);
    while ((chunk = planish_pick(ticket, thread)) >= 0) {
        if (!__atomic_compare_exchange_n(&pool->ticket, &ticket, planish_claimed(ticket, chunk), 0,
                                         __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
            continue;
        pool->job(pool->argument, chunk, PLANISH_CHUNKS(ticket), thread);
        done++;
        ticket = __atomic_load_n(&pool->ticket, __ATOMIC_ACQUIRE);
    }
    return done;
}

static int planish_has_work(planish_pool *pool, int64_t thread)
{
    return planish_pick(__atomic_load_n(&pool->ticket, __ATOMIC_SEQ_CST), thread) >= 0;
}

static void planish_sleep(planish_worker *worker)
{
    __atomic_store_n(&worker->sleeping, 1, __ATOMIC_SEQ_CST);
    /* a job published before the line above is seen here; one published after it wakes us */
    while (!planish_has_work(worker->pool, worker->index) &&
           __atomic_load_n(&worker->sleeping, __ATOMIC_SEQ_CST))
        syscall(SYS_futex, &worker->sleeping, FUTEX_WAIT_PRIVATE, 1, NULL, NULL, 0);
    __atomic_store_n(&worker->sleeping, 0, __ATOMIC_SEQ_CST);
}

/* Return when there may be work: look for it for a while, then sleep until woken. */
static void planish_wait(planish_worker *worker)
{
    const uint64_t since = planish_nanoseconds();
    for (uint32_t looks = 1; !planish_has_work(worker->pool, worker->index); looks++) {
        planish_pause();
        if (looks % 64 == 0 && planish_nanoseconds() - since > PLANISH_SPIN_NS) {
            planish_sleep(worker);
            return;
        }
    }
}

static void *planish_worker_main(void *argument)
{
    planish_worker *worker = argument;
    planish_permit();
    for (;;) {
        const int64_t done = planish_work(worker->pool, worker->index);
        if (done) __atomic_fetch_add(&worker->pool->finished, (uint64_t)done, __ATOMIC_RELEASE);
        planish_wait(worker);
    }
    return NULL;
}

/* Have at least `wanted` workers where the system allows it; only the owner of the pool calls. */
static void planish_grow(planish_pool *pool, int64_t wanted)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the application's threads */
    while (pool->workers < wanted && pool->workers < PLANISH_MAX_WORKERS) {
        planish_worker *worker = NULL;
        pthread_t thread;
        if (posix_memalign((void **)&worker, 128, sizeof *worker)) break;
        worker->sleeping = 0;
        worker->index = pool->workers + 1; /* 0 is the caller */
        worker->pool = pool;
        if (pthread_create(&thread, NULL, planish_worker_main, worker)) {
            free(worker);
            break;
        }
        pthread_detach(thread);
        pool->worker[pool->workers++] = worker;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void planish_parallel(planish_pool *pool, int64_t threads, int64_t chunks,
                             void (*job)(void *, int64_t, int64_t, int64_t), void *argument)
{
    const int64_t allowed = planish_min_i64(threads - 1, pool->workers);
    const uint64_t sequence = PLANISH_SEQUENCE(pool->ticket) + 1;
    pool->job = job;
    pool->argument = argument;
    __atomic_store_n(&pool->finished, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&pool->ticket, PLANISH_TICKET(sequence, allowed, chunks), __ATOMIC_SEQ_CST);
    const int64_t wanted = planish_min_i64(allowed, chunks - 1);
    for (int64_t i = 0; i < wanted; i++) {
        if (!__atomic_load_n(&pool->worker[i]->sleeping, __ATOMIC_SEQ_CST)) continue;
        __atomic_store_n(&pool->worker[i]->sleeping, 0, __ATOMIC_SEQ_CST);
        syscall(SYS_futex, &pool->worker[i]->sleeping, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    }
    const uint64_t others = (uint64_t)(chunks - planish_work(pool, 0));
    for (int64_t spins = 0; __atomic_load_n(&pool->finished, __ATOMIC_ACQUIRE) != others; spins++) {
        if (spins < 4000) planish_pause();
        else sched_yield(); /* a worker lost its core in the middle of a chunk */
    }
}

static planish_pool *planish_made_here;

static void planish_after_fork(void)
{
    planish_made_here->broken = 1; /* the child has no workers: run alone until given a new pool */
}

/* Return a pool without workers; they are made when an inference asks for threads. */
PLANISH_EXPORT planish_pool *planish_pool_create(int64_t cores)
{
    planish_pool *pool = NULL;
    if (posix_memalign((void **)&pool, 128, sizeof *pool)) return NULL;
    memset(pool, 0, sizeof *pool);
    pool->cores = (int32_t)cores;
    if (!planish_made_here && pthread_atfork(NULL, NULL, planish_after_fork)) {
        free(pool);
        return NULL;
    }
    planish_made_here = pool;
    return pool;
}

/* ---- steps ----------------------------------------------------------------------------------- */

/* Do items [begin, end) of a step. Whoever has item 0 zeroes halos: no item of the same step reads
 * them. */
static void planish_do(const planish_call *c, const planish_step *step, int64_t begin, int64_t end,
                       char *scratch)
{
    char *p[planish_max_pointers];
    int64_t offsets[planish_max_pointers];
    if (step->move) step->move(c->dims, offsets);
    for (int32_t i = 0; i < step->pointer_count; i++) {
        planish_pointer pointer = step->pointers[i];
        if (step->move) pointer.offset = offsets[i];
        p[i] = planish_at(c, pointer);
    }
    if (begin == 0) {
        for (int32_t i = 0; i < step->fill_count; i++) planish_zero_halo(c, &step->fills[i]);
        if (step->fill) step->fill(c);
    }
    if (begin < end) step->kernel(p, c->dims, begin, end, scratch);
}

typedef struct planish_work_item {
    const planish_call *call;
    const planish_step *step;
    int64_t items, threads;
} planish_work_item;

/* A thread's own items are an even share of all, one after the other. Few items: one a chunk. Many:
 * three chunks a thread with 5/8, 2/8 and 1/8 of its share, so that chunks are few and large and
 * the last ones still even out the threads' speeds. */
static int64_t planish_chunks(int64_t items, int64_t threads)
{
    const int64_t rounds = (items + threads - 1) / threads;
    return threads * planish_min_i64(rounds, 3);
}

/* Return the first item of part `part` of the share of `thread`; of part 3 (2 with few items) its
 * end. */
static int64_t planish_part_start(int64_t part, int64_t thread, int64_t items, int64_t threads)
{
    static const int64_t before[4] = {0, 5, 7, 8};
    const int64_t low = items * thread / threads, size = items * (thread + 1) / threads - low;
    if (items <= 2 * threads) return low + planish_min_i64(part, size);
    return low + size * before[part] / 8;
}

static void planish_run_chunk(void *argument, int64_t chunk, int64_t chunks, int64_t thread)
{
    const planish_work_item *work = argument;
    const int64_t part = chunk / work->threads, share = chunk % work->threads;
    const int64_t begin = planish_part_start(part, share, work->items, work->threads);
    const int64_t end = planish_part_start(part + 1, share, work->items, work->threads);
    (void)chunks;
    if (begin < end)
        planish_do(work->call, work->step, begin, end,
                   work->call->scratch + thread * planish_scratch_stride);
}

static void planish_run_together(const planish_call *c, const planish_step *step, int64_t items)
{
    planish_work_item work = {c, step, items, c->threads};
    planish_parallel(c->pool, c->threads, planish_chunks(items, c->threads), planish_run_chunk,
                     &work);
}

/* A step of a microsecond or two can be faster on the caller's thread. Whether it is, is measured
 * in the first inferences of a context: once to warm up, three times together, three times alone
 * where together was short. */
#define PLANISH_SHORT_TICKS 15000

static int planish_choose(const planish_habit *habit)
{
    if (habit->runs >= 7) return habit->decided;
    return habit->runs >= 4 && habit->together < PLANISH_SHORT_TICKS;
}

static void planish_learn(planish_habit *habit, uint64_t ticks)
{
    const uint32_t time = ticks > UINT32_MAX ? UINT32_MAX : (uint32_t)ticks;
    const uint32_t run = habit->runs++;
    if (run == 0) return;
    uint32_t *best = run < 4 ? &habit->together : &habit->alone;
    if (run == 1 || run == 4 || time < *best) *best = time;
    if (run == 6) habit->decided = habit->together < PLANISH_SHORT_TICKS && habit->alone <= habit->together;
}

static void planish_run_shared(const planish_call *c, int64_t index, int64_t items)
{
    const planish_step *step = &planish_steps[index];
    planish_habit *habit = c->habits ? &c->habits[index] : NULL;
    const int crowded = c->pool->cores - __atomic_load_n(&c->pool->active, __ATOMIC_RELAXED) < 1;
    if (crowded || (habit && habit->runs >= 7 && habit->decided)) {
        planish_do(c, step, 0, items, c->scratch);
        return;
    }
    if (!habit || habit->runs >= 7) {
        planish_run_together(c, step, items);
        return;
    }
    const uint64_t start = planish_ticks();
    if (planish_choose(habit)) planish_do(c, step, 0, items, c->scratch);
    else planish_run_together(c, step, items);
    planish_learn(habit, planish_ticks() - start);
}

static void planish_run_step(const planish_call *c, int64_t index)
{
    const planish_step *step = &planish_steps[index];
    if (step->kernel == NULL || (step->guard && !step->guard(c))) return;
    const int64_t items = step->count ? step->count(c->dims) : step->items;
    const uint64_t start = c->times ? planish_nanoseconds() : 0;
    if (c->pool && items > 1) planish_run_shared(c, index, items);
    else planish_do(c, step, 0, items, c->scratch);
    if (c->times) c->times[index] += planish_nanoseconds() - start;
}

static void planish_run_range(const planish_call *c, int64_t first, int64_t last, int64_t parent);

/* Run the loop that starts at step `first` inside `parent`, if there is one; return its end. */
static int64_t planish_run_loop(const planish_call *c, int64_t first, int64_t last, int64_t parent)
{
    for (int64_t i = 0; i < planish_loop_count; i++) {
        const planish_loop *loop = &planish_loops[i];
        if (loop->first != first || loop->last > last || loop->parent != parent) continue;
        const int64_t count = loop->count(c);
        for (int64_t iteration = 0; iteration < count; iteration++) {
            if (loop->going && !loop->going(c)) break;
            c->dims[loop->symbol] = iteration;
            if (loop->counter) *loop->counter(c) = iteration;
            planish_run_range(c, loop->first, loop->last, i);
        }
        c->dims[loop->symbol] = 0;
        return loop->last;
    }
    return -1;
}

static void planish_run_range(const planish_call *c, int64_t first, int64_t last, int64_t parent)
{
    int64_t index = first;
    while (index < last) {
        const int64_t end =
            planish_loop_count ? planish_run_loop(c, index, last, parent) : -1;
        if (end > index) index = end;
        else planish_run_step(c, index++);
    }
}

PLANISH_EXPORT int64_t planish_abi(void) { return PLANISH_ABI; }
PLANISH_EXPORT int64_t planish_step_count(void) { return planish_steps_count; }
PLANISH_EXPORT int64_t planish_scratch_bytes(void) { return planish_scratch_stride; }

/* Prepare this process for the engine's instructions; 0 when the system refuses. */
PLANISH_EXPORT int64_t planish_prepare(void) { return planish_permit(); }

PLANISH_EXPORT void planish_run(const planish_call *call)
{
    planish_pool *pool = call->pool;
    planish_call mine = *call;
    if (!pool || pool->broken || call->threads <= 1) {
        mine.pool = NULL;
        planish_run_range(&mine, mine.first, mine.last, mine.loop);
        return;
    }
    __atomic_fetch_add(&pool->active, 1, __ATOMIC_RELAXED);
    int32_t free_pool = 0;
    const int owner = __atomic_compare_exchange_n(&pool->owned, &free_pool, 1, 0, __ATOMIC_ACQUIRE,
                                                  __ATOMIC_RELAXED);
    if (owner && pool->workers < mine.threads - 1) planish_grow(pool, mine.threads - 1);
    if (!owner) mine.pool = NULL; /* another inference has the workers: do not wait for it */
    planish_run_range(&mine, mine.first, mine.last, mine.loop);
    if (owner) __atomic_store_n(&pool->owned, 0, __ATOMIC_RELEASE);
    __atomic_fetch_sub(&pool->active, 1, __ATOMIC_RELAXED);
}
