/* libcudart: memory as address space. Every card's lies in one region of addresses, each piece at the lowest place
   that is free. Pieces are kept in the order of their addresses. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "device.h"

#define REGION_BYTES ((size_t)16 << 40)
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

typedef struct { char *base; size_t size, counted_bytes; int device; } Piece;
static char *region;
static Piece *pieces;
static size_t num_pieces, room_for_pieces;
static size_t used_bytes[MOST_CARDS];

static size_t pieces_up_to(const char *address) {
    size_t low = 0, high = num_pieces;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (pieces[middle].base <= address) low = middle + 1; else high = middle;
    }
    return low;
}
static Piece *piece_at(const void *address) {
    size_t n = pieces_up_to(address);
    return n && (const char *)address < pieces[n - 1].base + pieces[n - 1].size ? pieces + n - 1 : NULL;
}
static int in_region(const char *address) { return region && address >= region && address < region + REGION_BYTES; }
static char *lowest_free(size_t size) {
    if (!region) {
        char *whole = mmap(NULL, REGION_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (whole == MAP_FAILED) return NULL;
        region = (char *)round_up((size_t)whole, GRANULE);
    }
    char *at = region;
    for (size_t i = pieces_up_to(region - 1); i < num_pieces && in_region(pieces[i].base); i++) {
        if (at + size <= pieces[i].base) break;
        at = pieces[i].base + pieces[i].size;
    }
    return at + size <= region + REGION_BYTES - GRANULE ? at : NULL;
}
void *pretended_map(size_t size, size_t counted_bytes, int device) {
    size = round_up(size ? size : 1, device == HOST ? 4096 : GRANULE);
    pthread_mutex_lock(&lock);
    char *place = device == HOST ? NULL : lowest_free(size);
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (place ? MAP_FIXED : 0);
    char *base = device == HOST || place ? mmap(place, size, PROT_READ | PROT_WRITE, flags, -1, 0) : MAP_FAILED;
    if (base != MAP_FAILED) {
        madvise(base, size, MADV_NOHUGEPAGE); /* a byte that is touched costs 4 KiB, not 2 MiB */
        if (num_pieces == room_for_pieces) {
            room_for_pieces = room_for_pieces ? 2 * room_for_pieces : 1024;
            pieces = realloc(pieces, room_for_pieces * sizeof *pieces);
        }
        size_t at = pieces_up_to(base);
        memmove(pieces + at + 1, pieces + at, (num_pieces++ - at) * sizeof *pieces);
        pieces[at] = (Piece){base, size, counted_bytes, device};
    }
    pthread_mutex_unlock(&lock);
    return base == MAP_FAILED ? NULL : base;
}
int pretended_unmap(void *address) {
    pthread_mutex_lock(&lock);
    Piece *piece = piece_at(address), old = {0};
    int missing = !piece || piece->base != address;
    if (!missing) {
        old = *piece;
        if (old.device == HOST) munmap(old.base, old.size);
        else mmap(old.base, old.size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        memmove(piece, piece + 1, (char *)(pieces + num_pieces--) - (char *)(piece + 1));
    }
    pthread_mutex_unlock(&lock);
    if (old.counted_bytes) pretended_give_back(old.device, old.counted_bytes);
    return missing;
}
int pretended_find(const void *address, void **base, size_t *size) {
    pthread_mutex_lock(&lock);
    Piece *piece = piece_at(address);
    int device = piece ? piece->device : NOWHERE;
    if (piece && base) *base = piece->base;
    if (piece && size) *size = piece->size;
    pthread_mutex_unlock(&lock);
    return device;
}
int pretended_take(int device, size_t bytes) {
    pthread_mutex_lock(&lock);
    int full = used_bytes[device] + bytes + pretended_card()->context_bytes > pretended_card()->total_bytes;
    if (!full) used_bytes[device] += bytes;
    pthread_mutex_unlock(&lock);
    return full;
}
void pretended_give_back(int device, size_t bytes) {
    pthread_mutex_lock(&lock);
    used_bytes[device] -= bytes;
    pthread_mutex_unlock(&lock);
}
size_t pretended_free_bytes(int device) {
    pthread_mutex_lock(&lock);
    size_t taken = used_bytes[device] + pretended_card()->context_bytes;
    pthread_mutex_unlock(&lock);
    return taken < pretended_card()->total_bytes ? pretended_card()->total_bytes - taken : 0;
}
