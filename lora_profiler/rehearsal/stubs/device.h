/* What the stub libraries share. libcudart holds the state; the others link to it.

   The card comes from the environment, as lora_profiler/rehearsal/cards.py writes it:
   LORA_PROFILER_CARD    "name=NVIDIA A100|major=8|minor=0|...", see card.c: read_card; without it there is no card
   LORA_PROFILER_CARDS   how many such cards (1)
   LORA_PROFILER_RUN     a folder of this run, where ranks leave what they tell each other
   LORA_PROFILER_STUBS   1: every generated stub, when first called, on stderr                                        */
#ifndef PRETENDED_DEVICE_H
#define PRETENDED_DEVICE_H
#include <stddef.h>
#include <stdint.h>

typedef struct {
    char name[96];
    int major, minor, multiprocessors;
    int shared_per_multiprocessor, shared_per_block, threads_per_multiprocessor, blocks_per_multiprocessor;
    int l2_bytes;
    size_t total_bytes, context_bytes;
} Card;

#define MOST_CARDS 64
#define GRANULE ((size_t)2 << 20) /* what the driver gives memory in */
#define HOST (-1)    /* pinned memory of the host */
#define NOWHERE (-2) /* an address that no call here gave */

const Card *pretended_card(void);
int pretended_count(void);
int pretended_current(void);
void pretended_set_current(int device);

/* Address space without storage until it is touched; `counted_bytes` of it are what the card has given for it. */
void *pretended_map(size_t size, size_t counted_bytes, int device);
int pretended_unmap(void *address);                              /* 0, or 1 where no such piece begins */
int pretended_find(const void *address, void **base, size_t *size); /* the piece's device, HOST or NOWHERE */
int pretended_take(int device, size_t bytes);                    /* 0, or 1 where the card has no such room */
void pretended_give_back(int device, size_t bytes);
size_t pretended_free_bytes(int device);

int pretended_fail(int error); /* remembers a cudaError_t for cudaGetLastError, and returns it */
int pretended_attribute(int attribute, int device);              /* cudaDeviceAttr and CUdevice_attribute agree */
void pretended_launched(const void *function, const char *name); /* `name` where the function was not registered */
void pretended_called(const char *library, const char *function, int computes); /* by a generated stub */
#endif
