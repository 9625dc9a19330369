/* libcudart: kernels, registered by name as a library is loaded, counted as they are launched. */
#define _GNU_SOURCE
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "device.h"

#define OK return cudaSuccess
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* A module holds the same kernels compiled for several architectures. `image` is the one that this card would run,
   ten times its compute capability: 0 for none, which the driver refuses. It is looked up when a kernel of the module
   is first used. */
typedef struct { const char *fat_binary; int image; } Module;
enum { NOT_LOOKED_UP = -1 };
typedef struct { const void *function; const char *name; unsigned long long launches; Module *module; } Kernel;
static Kernel *kernels; /* an open hash table by the function's address */
static size_t num_kernels, room_for_kernels;
static unsigned long long num_launches, num_library_calls;

static Kernel *slot_of(const void *function) {
    size_t i = (((uintptr_t)function >> 4) * 0x9E3779B97F4A7C15ull >> 20) % room_for_kernels;
    while (kernels[i].function && kernels[i].function != function) i = (i + 1) % room_for_kernels;
    return kernels + i;
}
static Kernel *kernel_of(const void *function, const char *name) { /* under the lock */
    if (2 * num_kernels >= room_for_kernels) {
        Kernel *old = kernels;
        size_t room = room_for_kernels;
        room_for_kernels = room ? 2 * room : 1 << 17;
        kernels = calloc(room_for_kernels, sizeof *kernels);
        for (size_t i = 0; i < room; i++)
            if (old[i].function) *slot_of(old[i].function) = old[i];
        free(old);
    }
    Kernel *kernel = slot_of(function);
    if (!kernel->function) kernel->function = function, kernel->name = name, num_kernels++;
    return kernel;
}
/* CUDA's fat binary: a header, and after it each image with one of its own. */
typedef struct { uint32_t magic; uint16_t version, header_bytes; uint64_t bytes; } FatHeader;
typedef struct { uint16_t kind, version; uint32_t header_bytes; uint64_t bytes; uint32_t skipped[3], architecture; }
                ImageHeader;
enum { FAT_MAGIC = 0xBA55ED50, PTX = 1, CUBIN = 2 };

/* A cubin runs on cards of its major version from its own on; PTX is compiled for any card from its version on. */
static int image_of(Module *module) { /* under the lock */
    if (!module) return 10 * pretended_card()->major + pretended_card()->minor;
    if (module->image != NOT_LOOKED_UP) return module->image;
    const FatHeader *fat = (const FatHeader *)module->fat_binary;
    int capability = 10 * pretended_card()->major + pretended_card()->minor, cubin = 0, ptx = 0;
    const char *at = module->fat_binary + fat->header_bytes, *end = at + fat->bytes;
    while (at < end) {
        const ImageHeader *image = (const ImageHeader *)at;
        int architecture = (int)image->architecture;
        if (architecture <= capability) {
            if (image->kind == CUBIN && architecture / 10 == capability / 10 && architecture > cubin)
                cubin = architecture;
            if (image->kind == PTX && architecture > ptx) ptx = architecture;
        }
        at += image->header_bytes + image->bytes;
    }
    return module->image = cubin ? cubin : ptx;
}
static int launched(const void *function, const char *name) {
    pthread_mutex_lock(&lock);
    Kernel *kernel = kernel_of(function, name);
    int runs = image_of(kernel->module) != 0;
    kernel->launches += runs, num_launches += runs;
    pthread_mutex_unlock(&lock);
    return runs;
}
void pretended_launched(const void *function, const char *name) { launched(function, name); }
void pretended_called(const char *library, const char *function, int computes) {
    static int tells = -1;
    if (tells < 0) { const char *text = getenv("LORA_PROFILER_STUBS"); tells = text && *text == '1'; }
    pthread_mutex_lock(&lock);
    Kernel *kernel = kernel_of(function, function); /* the name itself is what a library's function is known by */
    int first = !kernel->launches++;
    num_library_calls += computes;
    if (!computes) kernel->launches = 1;
    pthread_mutex_unlock(&lock);
    if (tells && first) fprintf(stderr, "stub: %s %s\n", library, function);
}
unsigned long long pretended_launches(void) { return num_launches; }
unsigned long long pretended_library_calls(void) { return num_library_calls; }
void pretended_forget_launches(void) {
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < room_for_kernels; i++) kernels[i].launches = 0;
    num_launches = num_library_calls = 0;
    pthread_mutex_unlock(&lock);
}
int pretended_write_launches(const char *path) {
    FILE *out = fopen(path, "w");
    if (!out) return 1;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < room_for_kernels; i++)
        if (kernels[i].launches) fprintf(out, "%llu\t%s\n", kernels[i].launches, kernels[i].name);
    pthread_mutex_unlock(&lock);
    return fclose(out);
}

void **__cudaRegisterFatBinary(void *wrapper) {
    const char *binary = ((const char **)wrapper)[1]; /* after its magic number and version */
    int known = binary && ((const FatHeader *)binary)->magic == FAT_MAGIC;
    Module *module = calloc(1, sizeof *module);
    *module = (Module){binary, NOT_LOOKED_UP};
    if (!known) module->image = 10 * pretended_card()->major + pretended_card()->minor;
    return (void **)module;
}
void __cudaRegisterFatBinaryEnd(void **handle) {}
void __cudaUnregisterFatBinary(void **handle) {}
char __cudaInitModule(void **handle) { return 1; }
void __cudaRegisterFunction(void **handle, const char *function, char *device_function, const char *name, int threads,
                            void *t, void *b, void *block, void *grid, int *warp) {
    pthread_mutex_lock(&lock);
    kernel_of(function, name)->module = (Module *)handle;
    pthread_mutex_unlock(&lock);
}
void __cudaRegisterVar(void **handle, char *host, char *device, const char *name, int ext, size_t size, int constant,
                       int global) {}
void __cudaRegisterManagedVar(void **h, void **host, char *device, const char *name, int ext, size_t size, int constant,
                              int global) {}
static _Thread_local struct { dim3 grid, block; size_t shared; cudaStream_t stream; } pushed;
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, struct CUstream_st *stream) {
    pushed.grid = grid, pushed.block = block, pushed.shared = shared, pushed.stream = stream;
    return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
    *grid = pushed.grid, *block = pushed.block, *shared = pushed.shared, *(cudaStream_t *)stream = pushed.stream;
    OK;
}
static cudaError_t launch(const void *function) {
    return launched(function, "?") ? cudaSuccess : pretended_fail(cudaErrorNoKernelImageForDevice);
}
cudaError_t __cudaGetKernel(cudaKernel_t *out, const void *f) { *out = (cudaKernel_t)f; OK; }
cudaError_t __cudaLaunchKernel(cudaKernel_t k, dim3 g, dim3 b, void **a, size_t n, cudaStream_t s) { return launch(k); }
cudaError_t __cudaLaunchKernel_ptsz(cudaKernel_t k, dim3 g, dim3 b, void **a, size_t n, cudaStream_t s) {
    return launch(k);
}
cudaError_t cudaLaunchKernel(const void *f, dim3 g, dim3 b, void **a, size_t n, cudaStream_t s) { return launch(f); }
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *c, const void *f, void **a) { return launch(f); }
cudaError_t cudaLaunchCooperativeKernel(const void *f, dim3 g, dim3 b, void **a, size_t n, cudaStream_t s) {
    return launch(f);
}
cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t f, void *data) { f(data); OK; }
cudaError_t cudaStreamAddCallback(cudaStream_t s, cudaStreamCallback_t f, void *data, unsigned flags) {
    f(s, cudaSuccess, data);
    OK;
}
cudaError_t cudaGetKernel(cudaKernel_t *out, const void *f) { *out = (cudaKernel_t)f; OK; }
cudaError_t cudaGetFuncBySymbol(cudaFunction_t *out, const void *f) { *out = (cudaFunction_t)f; OK; }
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *f) {
    memset(a, 0, sizeof *a);
    a->maxThreadsPerBlock = 1024, a->numRegs = 32;
    pthread_mutex_lock(&lock);
    /* by which CUB chooses among its policies */
    a->ptxVersion = a->binaryVersion = image_of(kernel_of(f, "?")->module);
    pthread_mutex_unlock(&lock);
    if (!a->ptxVersion) return pretended_fail(cudaErrorNoKernelImageForDevice);
    a->maxDynamicSharedSizeBytes = pretended_card()->shared_per_block;
    OK;
}
cudaError_t cudaFuncSetAttribute(const void *f, enum cudaFuncAttribute a, int value) { OK; }
cudaError_t cudaFuncSetCacheConfig(const void *f, enum cudaFuncCache c) { OK; }
cudaError_t cudaKernelSetAttributeForDevice(cudaKernel_t k, enum cudaFuncAttribute a, int value, int device) { OK; }
/* By threads and shared memory; the registers that a kernel takes are not known here. */
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *out, const void *f, int threads, size_t shared) {
    int n = pretended_card()->threads_per_multiprocessor / (threads > 0 ? threads : 1);
    if (n > pretended_card()->blocks_per_multiprocessor) n = pretended_card()->blocks_per_multiprocessor;
    if (shared && (size_t)n > pretended_card()->shared_per_multiprocessor / shared)
        n = (int)(pretended_card()->shared_per_multiprocessor / shared);
    *out = n > 0 ? n : 1;
    OK;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *out, const void *f, int threads, size_t shared,
                                                                   unsigned flags) {
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(out, f, threads, shared);
}
cudaError_t cudaLibraryLoadData(cudaLibrary_t *library, const void *code, enum cudaJitOption *o, void **v, unsigned n,
                                enum cudaLibraryOption *lo, void **lv, unsigned ln) {
    *library = malloc(16);
    OK;
}
cudaError_t cudaLibraryUnload(cudaLibrary_t library) { free(library); OK; }
cudaError_t cudaLibraryGetKernel(cudaKernel_t *k, cudaLibrary_t library, const char *name) {
    *k = (cudaKernel_t)strdup(name);
    pthread_mutex_lock(&lock);
    kernel_of(*k, (const char *)*k);
    pthread_mutex_unlock(&lock);
    OK;
}
