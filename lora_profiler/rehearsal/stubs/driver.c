/* libcuda: the driver's calls that torch, Triton and bitsandbytes make. Expandable segments map memory through it. */
#include <cuda.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "device.h"

#define OK return CUDA_SUCCESS
#undef cuDeviceGetUuid
#undef cuCtxGetDevice
#undef cuCtxSynchronize

CUresult cuInit(unsigned flags) { return pretended_count() ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE; }
CUresult cuDriverGetVersion(int *version) { *version = CUDA_VERSION; OK; }
CUresult cuDeviceGet(CUdevice *device, int n) { *device = n; OK; }
CUresult cuDeviceGetCount(int *n) { *n = pretended_count(); OK; }
CUresult cuDeviceGetName(char *out, int n, CUdevice device) { snprintf(out, n, "%s", pretended_card()->name); OK; }
CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice device) {
    memcpy(uuid->bytes, "pretended-card\0", 16);
    uuid->bytes[15] = (char)(device + 1);
    OK;
}
CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device) { return cuDeviceGetUuid(uuid, device); }
CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) { *bytes = pretended_card()->total_bytes; OK; }
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
    int mapping = attribute == CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED;
    *value = mapping ? 1 : pretended_attribute((int)attribute, device);
    OK;
}

/* A context is its card's number and one. */
#define CONTEXT(device) ((CUcontext)(uintptr_t)((device) + 1))
CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active) { *flags = 0, *active = 1; OK; }
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) { *context = CONTEXT(device); OK; }
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) { OK; }
CUresult cuCtxGetCurrent(CUcontext *context) { *context = CONTEXT(pretended_current()); OK; }
CUresult cuCtxSetCurrent(CUcontext context) {
    if (context) pretended_set_current((int)(uintptr_t)context - 1);
    OK;
}
CUresult cuCtxPushCurrent_v2(CUcontext context) { return cuCtxSetCurrent(context); }
CUresult cuCtxPopCurrent_v2(CUcontext *context) { return cuCtxGetCurrent(context); }
CUresult cuCtxGetDevice(CUdevice *device) { *device = pretended_current(); OK; }
CUresult cuCtxSynchronize(void) { OK; }
CUresult cuCtxSetLimit(CUlimit limit, size_t value) { OK; }
CUresult cuCtxGetLimit(size_t *value, CUlimit limit) { *value = 8 << 20; OK; }
CUresult cuGetErrorString(CUresult error, const char **text) {
    *text = error == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory" : error ? "an error of a pretended card" : "no error";
    OK;
}
CUresult cuGetErrorName(CUresult error, const char **text) {
    *text = error == CUDA_ERROR_OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : error ? "CUDA_ERROR" : "CUDA_SUCCESS";
    OK;
}

/* Memory that is mapped: addresses and storage apart, and the card counts the storage. */
typedef struct { size_t size; int device; } Storage;
CUresult cuMemGetAllocationGranularity(size_t *n, const CUmemAllocationProp *p, CUmemAllocationGranularity_flags f) {
    *n = 2 << 20;
    OK;
}
CUresult cuMemAddressReserve(CUdeviceptr *out, size_t size, size_t alignment, CUdeviceptr at, unsigned long long flags) {
    *out = (CUdeviceptr)pretended_map(size, 0, pretended_current());
    return *out ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
CUresult cuMemAddressFree(CUdeviceptr p, size_t size) {
    return pretended_unmap((void *)p) ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}
CUresult cuMemCreate(CUmemGenericAllocationHandle *out, size_t size, const CUmemAllocationProp *p, unsigned long long flags) {
    int on_card = p && p->location.type == CU_MEM_LOCATION_TYPE_DEVICE;
    Storage storage = {size, on_card ? p->location.id : pretended_current()};
    if (pretended_take(storage.device, size)) return CUDA_ERROR_OUT_OF_MEMORY;
    Storage *made = malloc(sizeof *made);
    *made = storage;
    *out = (CUmemGenericAllocationHandle)(uintptr_t)made;
    OK;
}
CUresult cuMemRelease(CUmemGenericAllocationHandle handle) { /* torch unmaps before it releases */
    Storage *storage = (Storage *)(uintptr_t)handle;
    pretended_give_back(storage->device, storage->size);
    free(storage);
    OK;
}
CUresult cuMemMap(CUdeviceptr p, size_t n, size_t at, CUmemGenericAllocationHandle handle, unsigned long long flags) {
    OK;
}
CUresult cuMemUnmap(CUdeviceptr p, size_t n) { OK; }
CUresult cuMemSetAccess(CUdeviceptr p, size_t n, const CUmemAccessDesc *access, size_t count) { OK; }
CUresult cuMemGetAddressRange_v2(CUdeviceptr *base, size_t *size, CUdeviceptr p) {
    void *found;
    if (pretended_find((void *)p, &found, size) < 0) return CUDA_ERROR_NOT_FOUND;
    *base = (CUdeviceptr)found;
    OK;
}
CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes) {
    *free_bytes = pretended_free_bytes(pretended_current()), *total_bytes = pretended_card()->total_bytes;
    OK;
}
CUresult cuMemsetD32Async(CUdeviceptr p, unsigned value, size_t n, CUstream s) { OK; }
CUresult cuStreamWriteValue32_v2(CUstream s, CUdeviceptr p, cuuint32_t value, unsigned flags) { OK; }
CUresult cuPointerGetAttribute(void *value, CUpointer_attribute attribute, CUdeviceptr p) {
    int device = pretended_find((void *)p, NULL, NULL);
    if (device == NOWHERE) return CUDA_ERROR_INVALID_VALUE;
    switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT: *(CUcontext *)value = CONTEXT(device < 0 ? 0 : device); OK;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE: *(unsigned *)value = device < 0 ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE; OK;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: *(int *)value = device; OK;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER: *(CUdeviceptr *)value = p; OK;
    default: *(unsigned *)value = 0; OK;
    }
}

/* Modules and launches: a function is a copy of its name. */
CUresult cuModuleLoad(CUmodule *module, const char *file) { *module = malloc(16); OK; }
CUresult cuModuleLoadData(CUmodule *module, const void *image) { *module = malloc(16); OK; }
CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned n, CUjit_option *o, void **v) {
    *module = malloc(16);
    OK;
}
CUresult cuModuleUnload(CUmodule module) { free(module); OK; }
CUresult cuModuleGetFunction(CUfunction *f, CUmodule module, const char *name) { *f = (CUfunction)strdup(name); OK; }
CUresult cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction f) {
    *value = attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : 0;
    OK;
}
CUresult cuFuncSetAttribute(CUfunction f, CUfunction_attribute attribute, int value) { OK; }
CUresult cuFuncSetCacheConfig(CUfunction f, CUfunc_cache config) { OK; }
static CUresult launch(CUfunction f) { pretended_launched(f, (const char *)f); OK; }
CUresult cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                        CUstream s, void **arguments, void **extra) {
    return launch(f);
}
CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction f, void **arguments, void **extra) {
    return launch(f);
}
CUresult cuLaunchCooperativeKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                                   unsigned shared, CUstream s, void **arguments) {
    return launch(f);
}
CUresult cuLinkCreate_v2(unsigned n, CUjit_option *o, void **v, CUlinkState *state) { *state = malloc(16); OK; }
CUresult cuLinkAddData_v2(CUlinkState s, CUjitInputType type, void *data, size_t size, const char *name, unsigned n, CUjit_option *o,
                          void **v) {
    OK;
}
CUresult cuLinkComplete(CUlinkState s, void **image, size_t *size) {
    static char none[16];
    *image = none, *size = sizeof none;
    OK;
}
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *n, CUfunction f, int threads, size_t shared) { *n = 2; OK; }
CUresult cuOccupancyMaxActiveClusters(int *n, CUfunction f, const CUlaunchConfig *config) { *n = 1; OK; }
CUresult cuTensorMapEncodeTiled(CUtensorMap *m, CUtensorMapDataType type, cuuint32_t rank, void *a, const cuuint64_t *dim,
                                const cuuint64_t *stride, const cuuint32_t *box, const cuuint32_t *step, CUtensorMapInterleave i,
                                CUtensorMapSwizzle w, CUtensorMapL2promotion p, CUtensorMapFloatOOBfill fill) {
    OK;
}
