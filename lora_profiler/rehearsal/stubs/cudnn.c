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
const char *cudnnGetErrorString(int status) { return status ? "CUDNN_STATUS_NOT_SUPPORTED" : "CUDNN_STATUS_SUCCESS"; }
void cudnnGetLastErrorString(char *out, size_t n) { if (n) *out = 0; }

/* Attention and convolutions are run by the same function. A graph of attention has a product of matrices, or is one operation
   of its own; that is passed from its operations on to the graph, the heuristics, the configuration and the plan. */
typedef struct { int attends; char room[252]; } Descriptor;
/* Of cudnnBackendDescriptorType_t and cudnnBackendAttributeType_t. */
enum { OPERATION_MATMUL = 19, OPERATION_SDPA_FORWARD = 41, OPERATION_SDPA_BACKWARD = 43, BACKEND_DESCRIPTOR = 15 };
int cudnnBackendCreateDescriptor(int type, void **out) {
    Descriptor *made = calloc(1, sizeof *made);
    made->attends = type == OPERATION_MATMUL || type == OPERATION_SDPA_FORWARD || type == OPERATION_SDPA_BACKWARD;
    *out = made;
    return 0;
}
int cudnnBackendDestroyDescriptor(void *descriptor) { free(descriptor); return 0; }
int cudnnBackendSetAttribute(Descriptor *descriptor, int name, int type, int64_t count, Descriptor *const *parts) {
    for (int64_t i = 0; type == BACKEND_DESCRIPTOR && i < count; i++)
        if (parts[i] && parts[i]->attends) descriptor->attends = 1;
    return 0;
}
int cudnnBackendExecute(void *handle, Descriptor *plan, void *variants) {
    pretended_called("libcudnn", plan->attends ? "cudnnBackendExecute attention" : "cudnnBackendExecute", 1);
    return 0;
}

/* Of cudnnBackendAttributeName_t: what the frontend reads. */
enum { HEURISTIC_RESULTS = 202, CONFIG_ENGINE = 300, CONFIG_WORKSPACE = 303, CONFIG_SHARED_MEMORY = 304, PLAN_WORKSPACE = 402,
       GRAPH_ENGINE_COUNT = 802, ENGINE_INDEX = 1301 };
int cudnnBackendGetAttribute(Descriptor *descriptor, int name, int type, int64_t most, int64_t *count, void *out) {
    int64_t value = 0, num_values = 1;
    switch (name) {
    case HEURISTIC_RESULTS: case CONFIG_ENGINE: /* descriptors, which the caller has made */
        if (out && most > 0 && *(Descriptor **)out) (*(Descriptor **)out)->attends = descriptor->attends;
        out = NULL;
        break;
    case CONFIG_WORKSPACE: case PLAN_WORKSPACE: break;
    case GRAPH_ENGINE_COUNT: case ENGINE_INDEX: value = 1; break;
    case CONFIG_SHARED_MEMORY: if (out && most > 0) *(int32_t *)out = 1024; out = NULL; break;
    default: num_values = 0, out = NULL;
    }
    if (count) *count = num_values;
    if (out && most > 0) *(int64_t *)out = value;
    return 0;
}

/* Sizes that torch reads and allocates: what batch norm and dropout need is not known and counts as 0. Weights and reserve of
   recurrent layers are large, so those are refused. */
typedef void *P;
int cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize(P h, int mode, int ops, P x, P z, P y, P b, P a, size_t *size) {
    *size = 0;
    return 0;
}
int cudnnGetBatchNormalizationBackwardExWorkspaceSize(
    P h, int mode, int ops, P x, P y, P dy, P dz, P dx, P b, P a, size_t *size) {
    *size = 0;
    return 0;
}
int cudnnGetBatchNormalizationTrainingExReserveSpaceSize(P h, int mode, int ops, P a, P x, size_t *size) {
    *size = 0;
    return 0;
}
int cudnnDropoutGetStatesSize(P h, size_t *size) { *size = 0; return 0; }
enum { NOT_SUPPORTED = 3000 };
int cudnnGetRNNTempSpaceSizes(void) { return NOT_SUPPORTED; }
int cudnnGetRNNWeightSpaceSize(void) { return NOT_SUPPORTED; }
int cudnnGetCTCLossWorkspaceSize(void) { return NOT_SUPPORTED; }
