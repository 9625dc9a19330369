/* libcudnn: enough of the backend interface that its frontend finds one engine and one plan for every graph, which needs no
   workspace. Which graphs cuDNN supports and what its plans need is not known here. */
#include <stdint.h>
#include <stdlib.h>
#include "device.h"

size_t cudnnGetVersion(void) { return CUDNN_PINNED; }
size_t cudnnGetCudartVersion(void) { return CUDA_MAJOR * 1000; }
int cudnnGetProperty(int which, int *value) {
    *value = which == 0 ? CUDNN_PINNED / 10000 : which == 1 ? CUDNN_PINNED / 100 % 100 : CUDNN_PINNED % 100;
    return 0;
}
int cudnnCreate(void **handle) { *handle = calloc(1, 256); return 0; }
int cudnnDestroy(void *handle) { free(handle); return 0; }
int cudnnGetStream(void *handle, void **stream) { *stream = NULL; return 0; }
const char *cudnnGetErrorString(int status) { return status ? "an error of a pretended card" : "CUDNN_STATUS_SUCCESS"; }
void cudnnGetLastErrorString(char *out, size_t n) { if (n) *out = 0; }
int cudnnBackendCreateDescriptor(int type, void **out) { *out = calloc(1, 256); return 0; }
int cudnnBackendDestroyDescriptor(void *descriptor) { free(descriptor); return 0; }
int cudnnBackendExecute(void *handle, void *plan, void *variants) {
    pretended_called("libcudnn", "cudnnBackendExecute", 1);
    return 0;
}

/* Of cudnnBackendAttributeName_t: what the frontend reads. */
enum { HEURISTIC_RESULTS = 202, CONFIG_ENGINE = 300, CONFIG_WORKSPACE = 303, CONFIG_SHARED_MEMORY = 304, PLAN_WORKSPACE = 402,
       GRAPH_ENGINE_COUNT = 802, ENGINE_INDEX = 1301 };
int cudnnBackendGetAttribute(void *descriptor, int name, int type, int64_t most, int64_t *count, void *out) {
    int64_t value = 0, num_values = 1;
    switch (name) {
    case HEURISTIC_RESULTS: case CONFIG_ENGINE: out = NULL; break; /* descriptors, which the caller has made */
    case CONFIG_WORKSPACE: case PLAN_WORKSPACE: break;
    case GRAPH_ENGINE_COUNT: case ENGINE_INDEX: value = 1; break;
    case CONFIG_SHARED_MEMORY: if (out && most > 0) *(int32_t *)out = 1024; out = NULL; break;
    default: num_values = 0, out = NULL;
    }
    if (count) *count = num_values;
    if (out && most > 0) *(int64_t *)out = value;
    return 0;
}
