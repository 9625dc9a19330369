/* libnvidia-ml: the pretended cards and nobody else on them. Memory in use is that of this process. Readings that a card alone
   has, as power and temperature, are refused. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "device.h"

typedef unsigned long long u64;
typedef struct { u64 total, free, used; } Memory;
typedef struct { unsigned version; u64 total, reserved, free, used; } Memory2;
typedef struct { unsigned pid; u64 used; unsigned instance, compute; } Process;
enum { SUCCESS = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7 };
#define INDEX ((int)(size_t)device - 1)
#define DEVICE(index) ((void *)(size_t)((index) + 1))

static u64 total(void) { return pretended_card()->total_bytes; }
int nvmlInit_v2(void) { return SUCCESS; }
int nvmlInitWithFlags(unsigned flags) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int error) {
    return error == NOT_SUPPORTED ? "Not Supported" : error ? "Not Found" : "Success";
}
int nvmlSystemGetDriverVersion(char *out, unsigned n) { snprintf(out, n, "pretended"); return SUCCESS; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = CUDA_MAJOR * 1000; return SUCCESS; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = pretended_count(); return SUCCESS; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    *device = DEVICE(index);
    return (int)index < pretended_count() ? SUCCESS : INVALID;
}
int nvmlDeviceGetHandleByPciBusId_v2(const char *id, void **device) { /* card n lies on bus n + 1 */
    unsigned domain, bus;
    if (sscanf(id, "%x:%x:", &domain, &bus) != 2) return INVALID;
    *device = (void *)(size_t)bus;
    return SUCCESS;
}
/* "pretended-card" and the card's number, as cudaGetDeviceProperties has it. */
static void write_uuid(int index, char *out, unsigned n) {
    snprintf(out, n, "GPU-70726574-656e-6465-642d-6361726400%02x", index + 1);
}
int nvmlDeviceGetUUID(void *device, char *out, unsigned n) { write_uuid(INDEX, out, n); return SUCCESS; }
int nvmlDeviceGetHandleByUUID(const char *wanted, void **device) {
    char uuid[96];
    for (int i = 0; i < pretended_count(); i++) {
        write_uuid(i, uuid, sizeof uuid);
        if (!strcmp(uuid, wanted)) { *device = DEVICE(i); return SUCCESS; }
    }
    return NOT_FOUND;
}
int nvmlDeviceGetName(void *device, char *out, unsigned n) {
    snprintf(out, n, "%s", pretended_card()->name);
    return SUCCESS;
}
int nvmlDeviceGetIndex(void *device, unsigned *index) { *index = INDEX; return SUCCESS; }
typedef struct { unsigned gpu, memory; } Utilization;
int nvmlDeviceGetUtilizationRates(void *device, Utilization *u) { u->gpu = u->memory = 0; return SUCCESS; }
int nvmlDeviceGetMemoryInfo(void *device, Memory *m) {
    m->total = total(), m->free = pretended_free_bytes(INDEX), m->used = m->total - m->free;
    return SUCCESS;
}
int nvmlDeviceGetMemoryInfo_v2(void *device, Memory2 *m) {
    m->total = total(), m->free = pretended_free_bytes(INDEX), m->used = m->total - m->free, m->reserved = 0;
    return SUCCESS;
}
static int processes(void *device, unsigned *n, Process *p) {
    if (!*n) { *n = 1; return TOO_SMALL; }
    p[0] = (Process){getpid(), total() - pretended_free_bytes(INDEX), ~0u, ~0u}, *n = 1;
    return SUCCESS;
}
int nvmlDeviceGetComputeRunningProcesses(void *device, unsigned *n, Process *p) { return processes(device, n, p); }
int nvmlDeviceGetComputeRunningProcesses_v2(void *device, unsigned *n, Process *p) { return processes(device, n, p); }
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *n, Process *p) { return processes(device, n, p); }
int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
    *major = pretended_card()->major, *minor = pretended_card()->minor;
    return SUCCESS;
}
int nvmlDeviceGetMigMode(void *device, unsigned *now, unsigned *later) { *now = *later = 0; return SUCCESS; }
int nvmlDeviceIsMigDeviceHandle(void *device, unsigned *is) { *is = 0; return SUCCESS; }
int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *n) { *n = 0; return SUCCESS; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned index, void **slice) { return NOT_FOUND; }
int nvmlDeviceGetP2PStatus(void *a, void *b, int which, int *status) { *status = 0; return SUCCESS; }
int nvmlDeviceGetGpuFabricInfoV(void *device, void *info) { return SUCCESS; } /* torch hands in zeros: no fabric */
#define REFUSED(name) int name(void) { return NOT_SUPPORTED; }
REFUSED(nvmlDeviceGetClockInfo)
REFUSED(nvmlDeviceGetCurrentClocksEventReasons)
REFUSED(nvmlDeviceGetEccMode)
REFUSED(nvmlDeviceGetEnforcedPowerLimit)
REFUSED(nvmlDeviceGetMaxClockInfo)
REFUSED(nvmlDeviceGetNvLinkRemoteDeviceType)
REFUSED(nvmlDeviceGetNvLinkRemotePciInfo_v2)
REFUSED(nvmlDeviceGetPowerManagementLimit)
REFUSED(nvmlDeviceGetPowerUsage)
REFUSED(nvmlDeviceGetTemperature)
REFUSED(nvmlDeviceGetTotalEnergyConsumption)
REFUSED(nvmlDeviceGetVbiosVersion)
