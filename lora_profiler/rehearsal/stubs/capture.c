/* libcudart: what CUDA's headers declare differently from version to version. Nothing captures here, so that only the first
   answers are read. */
static int not_capturing(int *status, unsigned long long *id) {
    *status = 0;
    if (id) *id = 0;
    return 0;
}
int cudaStreamGetCaptureInfo(void *stream, int *status, unsigned long long *id) { return not_capturing(status, id); }
int cudaStreamGetCaptureInfo_v2(void *stream, int *status, unsigned long long *id) { return not_capturing(status, id); }
int cudaStreamGetCaptureInfo_v3(void *stream, int *status, unsigned long long *id) { return not_capturing(status, id); }
