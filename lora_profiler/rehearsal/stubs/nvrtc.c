/* libnvrtc: a program compiles to sixteen bytes that nobody reads. */
#include <stdlib.h>
#include <string.h>

#define SIZE 16
int nvrtcVersion(int *major, int *minor) { *major = CUDA_MAJOR, *minor = 0; return 0; }
int nvrtcCreateProgram(void **out, const char *text, const char *name, int n, const char **headers, const char **names) {
    *out = calloc(1, SIZE);
    return 0;
}
int nvrtcDestroyProgram(void **program) { free(*program); return 0; }
int nvrtcGetPTXSize(void *program, size_t *size) { *size = SIZE; return 0; }
int nvrtcGetCUBINSize(void *program, size_t *size) { *size = SIZE; return 0; }
int nvrtcGetProgramLogSize(void *program, size_t *size) { *size = 1; return 0; }
int nvrtcGetPTX(void *program, char *out) { memset(out, 0, SIZE); return 0; }
int nvrtcGetCUBIN(void *program, char *out) { memset(out, 0, SIZE); return 0; }
int nvrtcGetProgramLog(void *program, char *out) { *out = 0; return 0; }
int nvrtcGetLoweredName(void *program, const char *name, const char **lowered) { *lowered = name; return 0; }
const char *nvrtcGetErrorString(int error) { return error ? "an error of a pretended card" : "NVRTC_SUCCESS"; }
