/* libcublas, where a caller reads what comes back. Products are generated stubs, which are counted. */
#include <stdlib.h>

int cublasCreate_v2(void **handle) { *handle = calloc(1, 256); return 0; }
int cublasDestroy_v2(void *handle) { free(handle); return 0; }
int cublasGetVersion_v2(void *handle, int *version) { *version = CUDA_MAJOR * 10000 + 100; return 0; }
int cublasGetProperty(int which, int *value) { *value = which == 0 ? CUDA_MAJOR : which == 1 ? 1 : 0; return 0; }
int cublasGetMathMode(void *handle, int *mode) { *mode = 0; return 0; }
int cublasGetPointerMode_v2(void *handle, int *mode) { *mode = 0; return 0; }
int cublasGetSmCountTarget(void *handle, int *n) { *n = 0; return 0; }
int cublasGetEmulationStrategy(void *handle, int *strategy) { *strategy = 0; return 0; }
int cublasGetStream_v2(void *handle, void **stream) { *stream = NULL; return 0; }
const char *cublasGetStatusString(int status) {
    return status ? "an error of a pretended card" : "CUBLAS_STATUS_SUCCESS";
}
const char *cublasGetStatusName(int status) { return cublasGetStatusString(status); }
