/* libcudart: a CUDA runtime without a card. Memory is address space (memory.c), a launch is counted and does nothing
   (kernels.c), small copies copy.

   Values that a kernel would have written stay what they were, zeros mostly. So that a script's few decisions on
   values go the usual way, one byte read back from the card is 1: that is a bool, most often of `.all()`. */
#define _GNU_SOURCE
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "device.h"

/* longer copies between host and card are not carried out: nobody decides on those values */
#define COPIED_BYTES ((size_t)1 << 20)
#define SET_BYTES ((size_t)65536)
#define OK return cudaSuccess

static _Thread_local cudaError_t last_error;
int pretended_fail(int error) { return last_error = error; }
static cudaError_t fail(cudaError_t error) { return pretended_fail(error); }

/* ---- memory ---- */

cudaError_t cudaMalloc(void **out, size_t size) {
    *out = NULL;
    if (!size) OK;
    size_t bytes = (size + GRANULE - 1) / GRANULE * GRANULE;
    if (pretended_take(pretended_current(), bytes)) return fail(cudaErrorMemoryAllocation);
    *out = pretended_map(bytes, bytes, pretended_current());
    if (*out) OK;
    pretended_give_back(pretended_current(), bytes);
    return fail(cudaErrorMemoryAllocation);
}
cudaError_t cudaFree(void *p) { return p && pretended_unmap(p) ? fail(cudaErrorInvalidValue) : cudaSuccess; }
cudaError_t cudaMallocAsync(void **out, size_t size, cudaStream_t s) { return cudaMalloc(out, size); }
cudaError_t cudaMallocFromPoolAsync(void **out, size_t size, cudaMemPool_t pool, cudaStream_t s) {
    return cudaMalloc(out, size);
}
cudaError_t cudaFreeAsync(void *p, cudaStream_t s) { return cudaFree(p); }
cudaError_t cudaHostAlloc(void **out, size_t size, unsigned flags) {
    *out = pretended_map(size, 0, HOST);
    return *out ? cudaSuccess : fail(cudaErrorMemoryAllocation);
}
/* Managed memory moves to the host where the card is full: it is not counted against the card. bitsandbytes' paged
   optimizers. */
cudaError_t cudaMallocManaged(void **out, size_t size, unsigned flags) { return cudaHostAlloc(out, size, flags); }
cudaError_t cudaMallocHost(void **out, size_t size) { return cudaHostAlloc(out, size, 0); }
cudaError_t cudaFreeHost(void *p) { return cudaFree(p); }
cudaError_t cudaHostRegister(void *p, size_t size, unsigned flags) { OK; }
cudaError_t cudaHostUnregister(void *p) { OK; }
cudaError_t cudaHostGetDevicePointer(void **out, void *host, unsigned flags) { *out = host; OK; }
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    *free_bytes = pretended_free_bytes(pretended_current()), *total_bytes = pretended_card()->total_bytes;
    OK;
}
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p) {
    memset(a, 0, sizeof *a);
    int device = pretended_find(p, NULL, NULL);
    a->type = device >= 0 ? cudaMemoryTypeDevice : device == HOST ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
    a->device = device >= 0 ? device : pretended_current();
    a->devicePointer = device == NOWHERE ? NULL : (void *)p;
    a->hostPointer = device >= 0 ? NULL : (void *)p;
    OK;
}

/* ---- copies ---- */

static unsigned long long num_values_read; /* of at most eight bytes: what `.item()` and `bool()` ask for */
unsigned long long pretended_values_read(void) { return num_values_read; }

static void copy(void *to, const void *from, size_t n, enum cudaMemcpyKind kind) {
    int on_card = kind == cudaMemcpyDeviceToDevice;
    if (n && n <= (on_card ? SET_BYTES : COPIED_BYTES)) memmove(to, from, n);
    if (kind != cudaMemcpyDeviceToHost || n > 8) return;
    __atomic_add_fetch(&num_values_read, 1, __ATOMIC_RELAXED);
    if (n == 1) *(char *)to = 1;
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t n, enum cudaMemcpyKind kind) { copy(to, from, n, kind); OK; }
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, enum cudaMemcpyKind kind, cudaStream_t s) {
    copy(to, from, n, kind);
    OK;
}
cudaError_t cudaMemcpyPeerAsync(void *to, int d, const void *from, int f, size_t n, cudaStream_t s) {
    copy(to, from, n, cudaMemcpyDeviceToDevice);
    OK;
}
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                              size_t height, enum cudaMemcpyKind kind, cudaStream_t s) {
    if (width * height <= COPIED_BYTES)
        for (size_t i = 0; i < height; i++) memmove((char *)to + i * to_pitch, (const char *)from + i * from_pitch,
            width);
    OK;
}
cudaError_t cudaMemset(void *p, int value, size_t n) { if (n <= SET_BYTES) memset(p, value, n); OK; }
cudaError_t cudaMemsetAsync(void *p, int value, size_t n, cudaStream_t s) { return cudaMemset(p, value, n); }
cudaError_t cudaMemcpyToSymbol(const void *to, const void *from, size_t n, size_t at, enum cudaMemcpyKind kind) { OK; }
cudaError_t cudaMemcpyFromSymbol(void *to, const void *from, size_t n, size_t at, enum cudaMemcpyKind kind) {
    memset(to, 0, n);
    OK;
}
cudaError_t cudaGetSymbolAddress(void **out, const void *symbol) { static char spare[1 << 16]; *out = spare; OK; }

/* ---- the card's properties ---- */

cudaError_t cudaGetDeviceCount(int *n) { *n = pretended_count(); return *n ? cudaSuccess : fail(cudaErrorNoDevice); }
cudaError_t cudaGetDevice(int *device) { *device = pretended_current(); OK; }
cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device >= pretended_count()) return fail(cudaErrorInvalidDevice);
    pretended_set_current(device);
    OK;
}
cudaError_t cudaSetDeviceFlags(unsigned flags) { OK; }
cudaError_t cudaGetDeviceFlags(unsigned *flags) { *flags = 0; OK; }
cudaError_t cudaDeviceSynchronize(void) { OK; }
cudaError_t cudaDeviceReset(void) { OK; }
cudaError_t cudaDeviceGetPCIBusId(char *out, int n, int device) { snprintf(out, n, "0000:%02x:00.0", device + 1); OK; }
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    OK;
}
cudaError_t cudaDeviceCanAccessPeer(int *out, int a, int b) { *out = a != b; OK; }
cudaError_t cudaDeviceEnablePeerAccess(int device, unsigned flags) { OK; }
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *pool, int device) {
    *pool = (cudaMemPool_t)(uintptr_t)(16 + device);
    OK;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr a, void *value) { OK; }
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr a, void *value) {
    *(uint64_t *)value = pretended_card()->total_bytes - pretended_free_bytes(pretended_current());
    OK;
}
cudaError_t cudaMemPoolSetAccess(cudaMemPool_t pool, const struct cudaMemAccessDesc *d, size_t n) { OK; }
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t n) { OK; }
cudaError_t cudaDriverGetVersion(int *version) { *version = CUDART_VERSION; OK; }
cudaError_t cudaRuntimeGetVersion(int *version) { *version = CUDART_VERSION; OK; }

int pretended_attribute(int attribute, int device) {
    const Card *c = pretended_card();
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: case cudaDevAttrMaxBlockDimX: case cudaDevAttrMaxBlockDimY: return 1024;
    case cudaDevAttrMaxBlockDimZ: return 64;
    case cudaDevAttrMaxGridDimX: case cudaDevAttrMaxPitch: return 2147483647;
    case cudaDevAttrMaxGridDimY: case cudaDevAttrMaxGridDimZ: return 65535;
    case cudaDevAttrMaxSharedMemoryPerBlock: return 49152;
    case cudaDevAttrTotalConstantMemory: case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor: return 65536;
    case cudaDevAttrWarpSize: return 32;
    case cudaDevAttrTextureAlignment: return 512;
    case cudaDevAttrTexturePitchAlignment: return 32;
    case cudaDevAttrClockRate: case cudaDevAttrMemoryClockRate: return 1000000;
    case cudaDevAttrGlobalMemoryBusWidth: return 256;
    case cudaDevAttrMultiProcessorCount: return c->multiprocessors;
    case cudaDevAttrL2CacheSize: return c->l2_bytes;
    case cudaDevAttrMaxThreadsPerMultiProcessor: return c->threads_per_multiprocessor;
    case cudaDevAttrMaxBlocksPerMultiprocessor: return c->blocks_per_multiprocessor;
    case cudaDevAttrComputeCapabilityMajor: return c->major;
    case cudaDevAttrComputeCapabilityMinor: return c->minor;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: return c->shared_per_multiprocessor;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: return c->shared_per_block;
    case cudaDevAttrReservedSharedMemoryPerBlock: return 1024;
    case cudaDevAttrUnifiedAddressing: case cudaDevAttrConcurrentKernels: case cudaDevAttrCooperativeLaunch:
    case cudaDevAttrMemoryPoolsSupported: case cudaDevAttrManagedMemory: case cudaDevAttrConcurrentManagedAccess:
    case cudaDevAttrCanMapHostMemory: case cudaDevAttrStreamPrioritiesSupported:
    case cudaDevAttrComputePreemptionSupported:
    case cudaDevAttrGlobalL1CacheSupported: case cudaDevAttrLocalL1CacheSupported: return 1;
    case cudaDevAttrAsyncEngineCount: return 3;
    case cudaDevAttrPciBusId: return device + 1;
    default: return 0;
    }
}
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
    *value = pretended_attribute(attribute, device);
    OK;
}
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
    const Card *c = pretended_card();
    if (device < 0 || device >= pretended_count()) return fail(cudaErrorInvalidDevice);
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "%s", c->name);
    memcpy(p->uuid.bytes, "pretended-card", 14);
    p->uuid.bytes[15] = (char)(device + 1);
    p->totalGlobalMem = c->total_bytes, p->major = c->major, p->minor = c->minor, p->multiProcessorCount =
        c->multiprocessors;
    p->sharedMemPerBlock = 49152, p->sharedMemPerBlockOptin = c->shared_per_block, p->reservedSharedMemPerBlock = 1024;
    p->sharedMemPerMultiprocessor = c->shared_per_multiprocessor;
    p->regsPerBlock = p->regsPerMultiprocessor = 65536, p->warpSize = 32, p->memPitch = 2147483647;
    p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024, p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 2147483647, p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->maxThreadsPerMultiProcessor = c->threads_per_multiprocessor;
    p->maxBlocksPerMultiProcessor = c->blocks_per_multiprocessor;
    p->totalConstMem = 65536, p->textureAlignment = 512, p->texturePitchAlignment = 32;
    p->memoryBusWidth = 256, p->l2CacheSize = c->l2_bytes, p->persistingL2CacheMaxSize = c->l2_bytes / 2;
    p->unifiedAddressing = p->concurrentKernels = p->canMapHostMemory = p->managedMemory = p->concurrentManagedAccess =
        1;
    p->streamPrioritiesSupported = p->globalL1CacheSupported = p->localL1CacheSupported = 1;
    p->cooperativeLaunch = p->computePreemptionSupported = p->memoryPoolsSupported = 1;
    p->pciBusID = device + 1, p->asyncEngineCount = 3;
    OK;
}

/* ---- streams and events: everything has been done already ---- */

static void *new_handle(void) {
    static uintptr_t last = 0x1000;
    return (void *)__atomic_add_fetch(&last, 16, __ATOMIC_RELAXED);
}
cudaError_t cudaStreamCreate(cudaStream_t *s) { *s = new_handle(); OK; }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags) { *s = new_handle(); OK; }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int priority) { *s = new_handle(); OK; }
cudaError_t cudaStreamDestroy(cudaStream_t s) { OK; }
cudaError_t cudaStreamQuery(cudaStream_t s) { OK; }
cudaError_t cudaStreamSynchronize(cudaStream_t s) { OK; }
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags) { OK; }
cudaError_t cudaStreamGetPriority(cudaStream_t s, int *priority) { *priority = 0; OK; }
cudaError_t cudaStreamGetFlags(cudaStream_t s, unsigned *flags) { *flags = 1; OK; }
cudaError_t cudaStreamGetDevice(cudaStream_t s, int *device) { *device = pretended_current(); OK; }
cudaError_t cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus *status) {
    *status = cudaStreamCaptureStatusNone;
    OK;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode) { OK; }
cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode) {
    return fail(cudaErrorNotSupported);
}
cudaError_t cudaStreamBeginCaptureToGraph(cudaStream_t s, cudaGraph_t g, const cudaGraphNode_t *nodes,
                                          const cudaGraphEdgeData *edges, size_t n, enum cudaStreamCaptureMode mode) {
    return fail(cudaErrorNotSupported);
}
cudaError_t cudaEventCreate(cudaEvent_t *e) { *e = new_handle(); OK; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags) { *e = new_handle(); OK; }
cudaError_t cudaEventDestroy(cudaEvent_t e) { OK; }
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) { OK; }
cudaError_t cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s, unsigned flags) { OK; }
cudaError_t cudaEventQuery(cudaEvent_t e) { OK; }
cudaError_t cudaEventSynchronize(cudaEvent_t e) { OK; }
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b) { *ms = 1.0f; OK; }

/* ---- errors ---- */

cudaError_t cudaGetLastError(void) { cudaError_t error = last_error; last_error = cudaSuccess; return error; }
cudaError_t cudaPeekAtLastError(void) { return last_error; }
static const struct { cudaError_t error; const char *name, *text; } errors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice",
     "no kernel image is available for execution on the device"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
};
#define NUM_ERRORS (sizeof errors / sizeof *errors)
const char *cudaGetErrorString(cudaError_t error) {
    for (size_t i = 0; i < NUM_ERRORS; i++)
        if (errors[i].error == error) return errors[i].text;
    return "an error of a pretended card";
}
const char *cudaGetErrorName(cudaError_t error) {
    for (size_t i = 0; i < NUM_ERRORS; i++)
        if (errors[i].error == error) return errors[i].name;
    return "cudaErrorUnknown";
}

/* ---- the driver's functions by name: those of driver.c, and for every other one that says it cannot ---- */

static int driver_cannot(void) { return 801; /* CUDA_ERROR_NOT_SUPPORTED */ }
cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version,
                                             unsigned long long flags, enum cudaDriverEntryPointQueryResult *result) {
    char second[128];
    snprintf(second, sizeof second, "%s_v2", name);
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
    *function = library ? dlsym(library, second) : NULL;
    if (library && !*function) *function = dlsym(library, name);
    if (!*function) *function = (void *)driver_cannot;
    if (result) *result = cudaDriverEntryPointSuccess;
    OK;
}
cudaError_t cudaGetDriverEntryPoint(const char *name, void **function, unsigned long long flags,
                                    enum cudaDriverEntryPointQueryResult *result) {
    return cudaGetDriverEntryPointByVersion(name, function, CUDART_VERSION, flags, result);
}
