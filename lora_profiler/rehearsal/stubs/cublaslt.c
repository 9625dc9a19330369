/* libcublasLt: every product has one algorithm, which needs no workspace. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct { uint64_t algorithm[8]; size_t workspace; int state; float waves; int reserved[4]; } Result;
static int make(void **out) { *out = calloc(1, 256); return 0; }
static int drop(void *made) { free(made); return 0; }
int cublasLtCreate(void **handle) { return make(handle); }
int cublasLtDestroy(void *handle) { return drop(handle); }
size_t cublasLtGetVersion(void) { return CUDA_MAJOR * 10000 + 100; }
size_t cublasLtGetCudartVersion(void) { return CUDA_MAJOR * 1000; }
int cublasLtMatmulDescCreate(void **out, int compute, int scale) { return make(out); }
int cublasLtMatmulDescDestroy(void *made) { return drop(made); }
int cublasLtMatrixLayoutCreate(void **out, int type, uint64_t rows, uint64_t columns, int64_t stride) {
    return make(out);
}
int cublasLtMatrixLayoutDestroy(void *made) { return drop(made); }
int cublasLtMatrixTransformDescCreate(void **out, int type) { return make(out); }
int cublasLtMatrixTransformDescDestroy(void *made) { return drop(made); }
int cublasLtMatmulPreferenceCreate(void **out) { return make(out); }
int cublasLtMatmulPreferenceDestroy(void *made) { return drop(made); }
int cublasLtMatmulAlgoGetHeuristic(void *handle, void *operation, void *a, void *b, void *c, void *d, void *preference, int most,
                                   Result *results, int *num_results) {
    memset(results, 0, sizeof *results);
    *num_results = 1;
    return 0;
}
