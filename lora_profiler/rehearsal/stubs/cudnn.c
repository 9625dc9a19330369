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

/* Sizes that torch reads and allocates: what batch norm and dropout need is not known and counts as 0. */
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
int cudnnGetCTCLossWorkspaceSize(void) { return NOT_SUPPORTED; }

/* Recurrent layers. Their weights are one buffer: of each layer and direction the matrices of its gates, those for the input
   before those for the state, and after all of them the biases in the same order. */
enum { RELU, TANH, LSTM, GRU }; /* cudnnRNNMode_t */
typedef struct { int cell, biased, directions, type, input, hidden, projected, layers; } Recurrent;
typedef struct { int type, num_dims, dims[3]; } Tensor;
typedef struct { int steps, batch; } Sequences;
static size_t size_of(int type) { return type == 1 ? 8 : type == 2 || type == 9 ? 2 : 4; } /* cudnnDataType_t */
static int gates_of(const Recurrent *r) { return r->cell == LSTM ? 4 : r->cell == GRU ? 3 : 1; }
static int input_of(const Recurrent *r, int layer) { return layer < r->directions ? r->input : r->projected * r->directions; }
static size_t elements_of(const Recurrent *r, int layer) {
    size_t projection = r->projected < r->hidden ? (size_t)r->projected * r->hidden : 0;
    return (size_t)gates_of(r) * r->hidden * (input_of(r, layer) + r->projected) + projection;
}
static size_t elements_before(const Recurrent *r, int layer) {
    size_t total = 0;
    for (int i = 0; i < layer; i++) total += elements_of(r, i);
    return total;
}

int cudnnSetRNNDescriptor_v8(Recurrent *r, int algorithm, int cell, int bias, int bidirectional, int input_mode, int type,
    int precision, int math, int input, int hidden, int projected, int layers, P dropout, uint32_t flags) {
    *r = (Recurrent){cell, bias != 0, 1 + (bidirectional != 0), type, input, hidden, projected, layers};
    return 0;
}
int cudnnGetRNNWeightSpaceSize(P h, const Recurrent *r, size_t *size) {
    int layers = r->layers * r->directions;
    *size = (elements_before(r, layers) + (size_t)r->biased * layers * 2 * gates_of(r) * r->hidden) * size_of(r->type);
    return 0;
}
/* `number`: of a gate, for the input below gates_of, for the state from there on; the last one projects. Asked for the matrix,
   the bias or both. */
int cudnnGetRNNWeightParams(P h, const Recurrent *r, int layer, size_t size, char *space, int number, Tensor *matrix,
    char **matrix_at, Tensor *bias, char **bias_at) {
    int gates = gates_of(r), of_state = number >= gates, projects = number == 2 * gates, input = input_of(r, layer);
    int columns = projects ? r->hidden : of_state ? r->projected : input;
    size_t before = elements_before(r, layer), one = (size_t)r->hidden * (of_state ? r->projected : input);
    before += of_state ? (size_t)gates * r->hidden * input + (number - gates) * one : number * one;
    size_t biases = elements_before(r, r->layers * r->directions) + ((size_t)layer * 2 * gates + number) * r->hidden;
    int has_bias = r->biased && !projects;
    if (matrix) *matrix = (Tensor){r->type, 3, {1, projects ? r->projected : r->hidden, columns}};
    if (matrix_at) *matrix_at = space + before * size_of(r->type);
    if (bias) *bias = has_bias ? (Tensor){r->type, 3, {1, r->hidden, 1}} : (Tensor){0};
    if (bias_at) *bias_at = has_bias ? space + biases * size_of(r->type) : NULL;
    return 0;
}
int cudnnGetTensorNdDescriptor(const Tensor *tensor, int most, int *type, int *num_dims, int *dims, int *strides) {
    *type = tensor->type, *num_dims = tensor->num_dims;
    for (int i = tensor->num_dims - 1, stride = 1; i >= 0; stride *= tensor->dims[i--])
        if (i < most) dims[i] = tensor->dims[i], strides[i] = stride;
    return 0;
}
int cudnnSetRNNDataDescriptor(Sequences *data, int type, int layout, int steps, int batch, int width, const int *lengths, P fill) {
    *data = (Sequences){steps, batch};
    return 0;
}
/* What is kept for the backward pass, in states of all time steps: of an LSTM its gates and cell state, of a GRU six, and what
   a layer hands to the next. cuDNN documents no size. These two are those of pytorch/pytorch#2895, where four layers of 320
   kept 736,000,000 bytes as an LSTM and 864,000,000 as a GRU, of 25,000 steps times samples; the workspace counts as 0. */
int cudnnGetRNNTempSpaceSizes(P h, const Recurrent *r, int trains, const Sequences *data, size_t *workspace, size_t *reserve) {
    size_t states = r->cell == LSTM ? 5 : r->cell == GRU ? 6 : 1;
    size_t one = (size_t)data->steps * data->batch * r->hidden * r->directions * size_of(r->type);
    if (workspace) *workspace = 0;
    if (reserve) *reserve = trains ? one * (states * r->layers + r->layers - 1) : 0;
    return 0;
}
int cudnnRNNForward(void) { pretended_called("libcudnn", "cudnnRNNForward", 1); return 0; }
int cudnnRNNBackwardData_v8(void) { pretended_called("libcudnn", "cudnnRNNBackwardData_v8", 1); return 0; }
int cudnnRNNBackwardWeights_v8(void) { pretended_called("libcudnn", "cudnnRNNBackwardWeights_v8", 1); return 0; }
