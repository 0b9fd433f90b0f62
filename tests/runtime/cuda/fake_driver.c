/* A CUDA driver without a GPU, for tests: device memory is host memory, kernels are C functions.

Work on a stream is done as late as the real driver might: when somebody waits for it. A missing
wait is seen as a wrong result. The default stream (0 or 1) waits for all streams but those that
were made non-blocking.

A "cubin" is a shared object; kernel k is `void k(void **parameters, unsigned blocks)`, and the int
`k_parameters` counts its parameters.
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef uint64_t Address;
enum { COPY = 1, FILL, KERNEL, RECORD, WAIT, GRAPH };
enum { INVALID = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, BAD_IMAGE = 200, NOT_READY = 600, NO_CONTEXT = 201 };

typedef struct { void (*run)(void **, unsigned); int count; void *module; } Function;
typedef struct Event { long recorded, passed; struct Stream *stream; struct Graph *graph; } Event;
typedef struct {
    int kind;
    Address target, source;
    size_t size;
    unsigned value, blocks;
    Function *function;
    uint64_t parameters[64];
    Event *event;
    long ticket;
    struct Graph *graph;
} Op;
typedef struct Graph { Op *ops[8192]; int count, references, destroyed; } Graph;
typedef struct Stream { Op *ops[8192]; int count; int non_blocking; Graph *capture; } Stream;

static __thread void *current;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Stream legacy, *streams[256];
static size_t limit = (size_t)1 << 34, used;
static long live, calls, ticket;
static int arch = 90, absent, failure;
static struct { Address at; size_t size; } blocks[65536];
static int block_count;

/* every thread has to choose the context; a call without one fails */
#define ENTER if (!current) return NO_CONTEXT; pthread_mutex_lock(&lock); calls++
#define LEAVE(status) do { int s_ = (status); pthread_mutex_unlock(&lock); return s_; } while (0)

/* -- what tests ask ------------------------------------------------------------------------- */

long fake_live(void) { return live; }
long fake_calls(void) { return calls; }
size_t fake_used(void) { return used; }
void fake_limit(size_t bytes) { limit = bytes; }
void fake_arch(int number) { arch = number; }
void fake_absent(int yes) { absent = yes; }
void fake_fail_launch(int status) { failure = status; }

/* -- running -------------------------------------------------------------------------------- */

static void drain(Stream *stream, long until);

static void run(Op *op)
{
    void *places[64];
    switch (op->kind) {
    case COPY: memcpy((void *)op->target, (void *)op->source, op->size); break;
    case FILL:
        for (size_t i = 0; i < op->size; i++) ((uint32_t *)op->target)[i] = op->value;
        break;
    case KERNEL:
        for (int i = 0; i < 64; i++) places[i] = &op->parameters[i];
        op->function->run(places, op->blocks);
        break;
    case RECORD: op->event->passed = op->ticket; break;
    case WAIT:
        if (op->event->stream && op->event->passed < op->ticket) drain(op->event->stream, op->ticket);
        break;
    case GRAPH: /* a copy of the graph at the time of its launch */
        for (int i = 0; i < op->graph->count; i++) run(op->graph->ops[i]);
        break;
    }
}

static void drop_graph(Graph *graph)
{
    if (--graph->references > 0) return;
    for (int i = 0; i < graph->count; i++) free(graph->ops[i]);
    free(graph);
}

static void drain(Stream *stream, long until)
{
    static int inside_legacy;
    int done = 0;
    if (stream != &legacy && !stream->non_blocking && !inside_legacy) {
        inside_legacy = 1;
        drain(&legacy, -1);
        inside_legacy = 0;
    }
    while (done < stream->count) {
        Op *op = stream->ops[done++];
        long mark = op->kind == RECORD ? op->ticket : -1;
        run(op);
        if (op->kind == GRAPH) drop_graph(op->graph);
        free(op);
        if (until >= 0 && mark == until) break;
    }
    memmove(stream->ops, stream->ops + done, sizeof(Op *) * (stream->count - done));
    stream->count -= done;
}

static void drain_blocking(void)
{
    for (int i = 0; i < 256; i++)
        if (streams[i] && !streams[i]->non_blocking) drain(streams[i], -1);
    drain(&legacy, -1);
}

static int is_legacy(void *handle) { return (uintptr_t)handle <= 1; }
static Stream *stream_of(void *handle) { return is_legacy(handle) ? &legacy : handle; }

static Op *put(void *handle, int kind)
{
    Stream *stream = stream_of(handle);
    if (stream == &legacy) drain_blocking();
    Op *op = calloc(1, sizeof *op);
    op->kind = kind;
    if (stream->capture) {
        stream->capture->ops[stream->capture->count++] = op;
    } else {
        if (stream->count == 8192) drain(stream, -1);
        stream->ops[stream->count++] = op;
    }
    return op;
}

/* -- the driver's calls --------------------------------------------------------------------- */

int cuInit(unsigned flags) { (void)flags; return absent ? NO_DEVICE : 0; }
int cuGetErrorName(int status, const char **text) { (void)status; *text = "CUDA_ERROR_FAKE"; return 0; }
int cuGetErrorString(int status, const char **text) { (void)status; *text = "made for a test"; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal ? 101 : 0; }
int cuDeviceGetName(char *name, int size, int device) { (void)device; snprintf(name, size, "Fake GPU"); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    (void)device;
    *value = attribute == 16 ? 132 : attribute == 38 ? 50 << 20 : attribute == 75 ? arch / 10 : arch % 10;
    return 0;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { (void)device; *context = &legacy; return 0; }
int cuCtxSetCurrent(void *context) { current = context; return context == &legacy ? 0 : INVALID; }
int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) { *free_bytes = limit - used; *total = limit; return 0; }

int cuMemAlloc_v2(Address *address, size_t size)
{
    ENTER;
    if (used + size > limit) LEAVE(OUT_OF_MEMORY);
    void *found;
    if (posix_memalign(&found, 256, size)) LEAVE(OUT_OF_MEMORY);
    memset(found, 0xA5, size);
    used += size; live++;
    blocks[block_count].at = *address = (Address)found;
    blocks[block_count++].size = size;
    LEAVE(0);
}
int cuMemFree_v2(Address address)
{
    ENTER;
    for (int i = 0; i < 256; i++) if (streams[i]) drain(streams[i], -1);
    drain(&legacy, -1);
    for (int i = 0; i < block_count; i++) {
        if (blocks[i].at != address) continue;
        used -= blocks[i].size; live--;
        memset((void *)address, 0xDD, blocks[i].size);
        free((void *)address);
        blocks[i] = blocks[--block_count];
        LEAVE(0);
    }
    LEAVE(INVALID);
}
int cuMemHostAlloc(void **address, size_t size, unsigned flags)
{
    (void)flags; ENTER;
    *address = malloc(size); live++;
    LEAVE(0);
}
int cuMemFreeHost(void *address) { ENTER; free(address); live--; LEAVE(0); }

static int copy_now(Address target, Address source, size_t size)
{
    ENTER;
    drain_blocking();
    memcpy((void *)target, (void *)source, size);
    LEAVE(0);
}
int cuMemcpyHtoD_v2(Address target, void *source, size_t size) { return copy_now(target, (Address)source, size); }
int cuMemcpyDtoH_v2(void *target, Address source, size_t size) { return copy_now((Address)target, source, size); }
int cuMemcpyDtoD_v2(Address target, Address source, size_t size) { return copy_now(target, source, size); }
int cuMemsetD8_v2(Address target, unsigned char value, size_t size)
{
    ENTER;
    drain_blocking();
    memset((void *)target, value, size);
    LEAVE(0);
}

static int copy_later(Address target, Address source, size_t size, void *stream)
{
    ENTER;
    Op *op = put(stream, COPY);
    op->target = target; op->source = source; op->size = size;
    LEAVE(0);
}
int cuMemcpyHtoDAsync_v2(Address target, void *source, size_t size, void *stream) { return copy_later(target, (Address)source, size, stream); }
int cuMemcpyDtoHAsync_v2(void *target, Address source, size_t size, void *stream) { return copy_later((Address)target, source, size, stream); }
int cuMemcpyDtoDAsync_v2(Address target, Address source, size_t size, void *stream) { return copy_later(target, source, size, stream); }
int cuMemsetD32Async(Address target, unsigned value, size_t count, void *stream)
{
    ENTER;
    Op *op = put(stream, FILL);
    op->target = target; op->value = value; op->size = count;
    LEAVE(0);
}

int cuPointerGetAttribute(int *ordinal, int attribute, Address address)
{
    (void)attribute; ENTER;
    for (int i = 0; i < block_count; i++)
        if (blocks[i].at <= address && address < blocks[i].at + blocks[i].size) { *ordinal = 0; LEAVE(0); }
    LEAVE(INVALID);
}

int cuStreamCreate(void **handle, unsigned flags)
{
    ENTER;
    Stream *stream = calloc(1, sizeof *stream);
    stream->non_blocking = flags & 1;
    for (int i = 0; i < 256; i++)
        if (!streams[i]) { streams[i] = stream; break; }
    *handle = stream; live++;
    LEAVE(0);
}
int cuStreamDestroy_v2(void *handle)
{
    ENTER;
    drain(handle, -1);
    for (int i = 0; i < 256; i++) if (streams[i] == handle) streams[i] = NULL;
    free(handle); live--;
    LEAVE(0);
}
int cuStreamSynchronize(void *handle)
{
    ENTER;
    if (is_legacy(handle)) drain_blocking(); else { if (!((Stream *)handle)->non_blocking) drain(&legacy, -1); drain(handle, -1); }
    LEAVE(0);
}
int cuStreamWaitEvent(void *handle, Event *event, unsigned flags)
{
    (void)flags; ENTER;
    if (event->graph) { /* the stream joins the recording; operations are in order already */
        stream_of(handle)->capture = event->graph;
        LEAVE(0);
    }
    Op *op = put(handle, WAIT);
    op->event = event; op->ticket = event->recorded;
    LEAVE(0);
}
int cuStreamBeginCapture_v2(Stream *stream, int mode)
{
    (void)mode; ENTER;
    stream->capture = calloc(1, sizeof *stream->capture);
    stream->capture->references = 1; live++;
    LEAVE(0);
}
int cuStreamEndCapture(Stream *stream, void **graph)
{
    ENTER;
    *graph = stream->capture;
    for (int i = 0; i < 256; i++)
        if (streams[i] && streams[i]->capture == *graph) streams[i]->capture = NULL;
    LEAVE(0);
}
int cuStreamGetCaptureInfo_v2(Stream *stream, int *status, uint64_t *id, void **graph, void ***nodes, size_t *count)
{
    ENTER;
    Graph *found = stream->capture;
    *status = found != NULL; *id = 1; *graph = found;
    *nodes = (void **)&found->ops[found->count - 1]; *count = found->count > 0;
    LEAVE(0);
}

int cuEventCreate(void **handle, unsigned flags) { (void)flags; ENTER; *handle = calloc(1, sizeof(Event)); live++; LEAVE(0); }
int cuEventDestroy_v2(Event *event)
{
    ENTER;
    for (int i = 0; i < 256; i++) if (streams[i]) drain(streams[i], -1);
    drain(&legacy, -1);
    free(event); live--;
    LEAVE(0);
}
int cuEventRecord(Event *event, void *handle)
{
    ENTER;
    event->graph = stream_of(handle)->capture;
    if (event->graph) LEAVE(0);
    Op *op = put(handle, RECORD);
    op->event = event; op->ticket = event->recorded = ++ticket;
    event->stream = stream_of(handle);
    LEAVE(0);
}
int cuEventQuery(Event *event) { ENTER; LEAVE(event->passed == event->recorded ? 0 : NOT_READY); }
int cuEventSynchronize(Event *event)
{
    ENTER;
    if (event->stream && event->passed < event->recorded) drain(event->stream, event->recorded);
    LEAVE(0);
}
int cuEventElapsedTime(float *elapsed, Event *first, Event *second) { (void)first; (void)second; *elapsed = 0.001f; return 0; }

int cuModuleLoadData(void **module, const void *image)
{
    ENTER;
    const Elf64_Ehdr *header = image;
    if (memcmp(header->e_ident, ELFMAG, SELFMAG)) LEAVE(BAD_IMAGE);
    size_t size = header->e_shoff + (size_t)header->e_shentsize * header->e_shnum;
    char path[] = "/tmp/fake-kernel-XXXXXX"; /* dlopen takes equal names for one library */
    int descriptor = mkstemp(path);
    if (write(descriptor, image, size) != (ssize_t)size) LEAVE(INVALID);
    *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    close(descriptor);
    unlink(path);
    if (!*module) LEAVE(BAD_IMAGE);
    live++;
    LEAVE(0);
}
int cuModuleUnload(void *module) { ENTER; dlclose(module); live--; LEAVE(0); }
int cuModuleGetFunction(void **function, void *module, const char *name)
{
    char count[128];
    snprintf(count, sizeof count, "%s_parameters", name);
    void *run_ = dlsym(module, name), *count_ = dlsym(module, count);
    if (!run_ || !count_) return 500;
    Function *found = calloc(1, sizeof *found); /* as long as the process */
    memcpy(&found->run, &run_, sizeof run_);
    found->count = *(int *)count_;
    *function = found;
    return 0;
}
int cuFuncSetAttribute(void *function, int attribute, int value) { (void)function; (void)attribute; (void)value; return 0; }

typedef struct { unsigned grid[3], block[3], shared; void *stream; void *attributes; unsigned count; } Config;
typedef struct { Function *function; unsigned grid[3], block[3], shared; void **parameters; void **extra; } Node;

static void take(Op *op, Function *function, const unsigned *grid, void **parameters)
{
    op->function = function;
    op->blocks = grid[0] * grid[1] * grid[2];
    for (int i = 0; i < function->count; i++) memcpy(&op->parameters[i], parameters[i], 8);
}
int cuLaunchKernelEx(const Config *config, Function *function, void **parameters, void **extra)
{
    (void)extra; ENTER;
    take(put(config->stream, KERNEL), function, config->grid, parameters);
    LEAVE(0);
}

static Graph *copy_of(const Graph *graph)
{
    Graph *copy = calloc(1, sizeof *copy);
    copy->references = 1; copy->count = graph->count;
    for (int i = 0; i < graph->count; i++) {
        copy->ops[i] = malloc(sizeof(Op));
        *copy->ops[i] = *graph->ops[i];
    }
    return copy;
}
typedef struct { Graph *own, *source; } Executable;

int cuGraphInstantiateWithFlags(void **handle, Graph *graph, unsigned long long flags)
{
    (void)flags; ENTER;
    Executable *made = calloc(1, sizeof *made);
    made->own = copy_of(graph);
    made->source = graph; graph->references++;
    *handle = made; live++;
    LEAVE(0);
}
int cuGraphDestroy(Graph *graph) { ENTER; graph->destroyed = 1; drop_graph(graph); live--; LEAVE(0); }
int cuGraphExecDestroy(Executable *graph)
{
    ENTER;
    drop_graph(graph->own); drop_graph(graph->source); free(graph); live--;
    LEAVE(0);
}
int cuGraphExecKernelNodeSetParams(Executable *graph, Op *node, const Node *parameters)
{
    ENTER;
    if (graph->source->destroyed) LEAVE(INVALID); /* the node is gone */
    for (int i = 0; i < graph->own->count; i++) {
        if (graph->source->ops[i] != node) continue;
        take(graph->own->ops[i], parameters->function, parameters->grid, parameters->parameters);
        LEAVE(0);
    }
    LEAVE(INVALID);
}
int cuGraphLaunch(Executable *graph, void *stream)
{
    ENTER;
    if (failure) { int status = failure; failure = 0; LEAVE(status); }
    Op *op = put(stream, GRAPH);
    op->graph = copy_of(graph->own);
    LEAVE(0);
}
