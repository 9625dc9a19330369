/* libnccl: collectives end at once and move nothing, but for small broadcasts and gathers: with those ranks tell each other
   sizes, orders and counts, and the bytes that they ask for depend on them. Such a message is a file in this run's folder. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "device.h"

#define MESSAGE_BYTES ((size_t)65536)
#define PATIENCE_MS 60000 /* then the rank goes on with what it has */

typedef struct { int rank, ranks; unsigned long long id, num_messages; } Communicator;
typedef struct { char bytes[128]; } Id;

static size_t size_of(int type) { /* ncclDataType_t */
    static const size_t sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
    return type >= 0 && type < (int)(sizeof sizes / sizeof *sizes) ? sizes[type] : 1;
}
static void message_path(char *out, size_t n, const Communicator *c, int rank) {
    snprintf(out, n, "%s/nccl-%llx-%llu-%d", getenv("LORA_PROFILER_RUN"), c->id, c->num_messages, rank);
}
static int tells(const Communicator *c, size_t bytes) {
    return c->ranks > 1 && bytes && bytes <= MESSAGE_BYTES && getenv("LORA_PROFILER_RUN");
}
static void leave(const Communicator *c, const void *from, size_t bytes) {
    char path[4096], partial[4112];
    message_path(path, sizeof path, c, c->rank);
    snprintf(partial, sizeof partial, "%s.tmp", path);
    FILE *file = fopen(partial, "wb");
    if (!file) return;
    fwrite(from, 1, bytes, file);
    if (!fclose(file)) rename(partial, path);
}
static void take(const Communicator *c, int rank, void *to, size_t bytes) {
    char path[4096];
    message_path(path, sizeof path, c, rank);
    const struct timespec millisecond = {0, 1000000};
    FILE *file = NULL;
    for (int waited = 0; waited < PATIENCE_MS && !(file = fopen(path, "rb")); waited++) nanosleep(&millisecond, NULL);
    if (!file) return;
    if (fread(to, 1, bytes, file) != bytes) fprintf(stderr, "pretended NCCL: rank %d sent less than was expected\n", rank);
    fclose(file);
}
static int done(Communicator *c, const char *function) {
    c->num_messages++;
    pretended_called("libnccl", function, 1);
    return 0;
}

int ncclBroadcast(const void *from, void *to, size_t n, int type, int root, Communicator *c, void *stream) {
    size_t bytes = n * size_of(type);
    if (tells(c, bytes)) {
        if (c->rank == root) leave(c, from, bytes); else take(c, root, to, bytes);
    }
    if (c->rank == root && from != to && bytes <= MESSAGE_BYTES) memmove(to, from, bytes);
    return done(c, "ncclBroadcast");
}
int ncclBcast(void *data, size_t n, int type, int root, Communicator *c, void *s) {
    return ncclBroadcast(data, data, n, type, root, c, s);
}
int ncclAllGather(const void *from, void *to, size_t n, int type, Communicator *c, void *stream) {
    size_t bytes = n * size_of(type);
    if (bytes <= MESSAGE_BYTES) memmove((char *)to + c->rank * bytes, from, bytes);
    if (tells(c, bytes)) {
        leave(c, (char *)to + c->rank * bytes, bytes);
        for (int rank = 0; rank < c->ranks; rank++)
            if (rank != c->rank) take(c, rank, (char *)to + rank * bytes, bytes);
    }
    return done(c, "ncclAllGather");
}

static int make(Communicator **out, int ranks, int rank, unsigned long long id) {
    *out = calloc(1, 256);
    **out = (Communicator){rank, ranks, id, 0};
    return 0;
}
static unsigned long long number_of(const Id *id) {
    unsigned long long number;
    memcpy(&number, id->bytes, sizeof number);
    return number;
}
int ncclGetVersion(int *version) { *version = NCCL_PINNED; return 0; }
int ncclGetUniqueId(Id *id) {
    memset(id, 0, sizeof *id);
    int file = open("/dev/urandom", O_RDONLY);
    ssize_t n = read(file, id->bytes, 8);
    close(file);
    return n == 8 ? 0 : 2;
}
int ncclCommInitRank(Communicator **out, int ranks, Id id, int rank) { return make(out, ranks, rank, number_of(&id)); }
int ncclCommInitRankConfig(Communicator **out, int ranks, Id id, int rank, void *config) {
    return make(out, ranks, rank, number_of(&id));
}
int ncclCommInitRankScalable(Communicator **out, int ranks, int rank, int num_ids, Id *ids, void *config) {
    return make(out, ranks, rank, number_of(ids));
}
/* All ranks call this together: each tells its color and key, and those of one color are a communicator, in the order of keys. */
int ncclCommSplit(Communicator *c, int color, int key, Communicator **out, void *config) {
    int (*members)[2] = calloc(c->ranks, sizeof *members), ranks = 0, rank = 0;
    members[c->rank][0] = color, members[c->rank][1] = key;
    if (tells(c, sizeof *members)) {
        leave(c, members[c->rank], sizeof *members);
        for (int other = 0; other < c->ranks; other++)
            if (other != c->rank) take(c, other, members[other], sizeof *members);
    }
    for (int other = 0; other < c->ranks; other++) {
        if (members[other][0] != color) continue;
        ranks++;
        rank += members[other][1] < key || (members[other][1] == key && other < c->rank);
    }
    free(members);
    c->num_messages++;
    *out = NULL;
    if (color < 0) return 0; /* NCCL_SPLIT_NOCOLOR */
    return make(out, ranks, rank, (c->id ^ c->num_messages) * 0x9E3779B97F4A7C15ull + (unsigned)color);
}
int ncclCommDestroy(Communicator *c) { return 0; }
int ncclCommAbort(Communicator *c) { return 0; }
int ncclCommCount(Communicator *c, int *n) { *n = c->ranks; return 0; }
int ncclCommUserRank(Communicator *c, int *rank) { *rank = c->rank; return 0; }
int ncclCommCuDevice(Communicator *c, int *device) { *device = pretended_current(); return 0; }
int ncclCommGetAsyncError(Communicator *c, int *error) { *error = 0; return 0; }
const char *ncclGetErrorString(int error) { return error ? "an error of a pretended card" : "no error"; }
const char *ncclGetLastError(Communicator *c) { return ""; }
int ncclCommRegister(Communicator *c, void *p, size_t n, void **handle) { *handle = p; return 0; }
