/* A driver library for tests: what nvml.h declares, for two cards, the second cut into two slices. Handles are small numbers:
   1 a whole card, 2 a card with MIG on, 3 and 4 its slices. Functions that are not here are those of a newer driver. */
#include <string.h>
#include <unistd.h>

typedef unsigned long long u64;
typedef struct { u64 total, free, used; } Memory;
typedef struct { unsigned version; u64 total, reserved, free, used; } Memory2;
typedef struct { unsigned pid; u64 used; unsigned instance, compute; } Process;
enum { SUCCESS = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, LIBRARY_FUNCTION = 13 };

static const char *uuids[] = {"", "GPU-11111111-aaaa-bbbb-cccc-000000000001", "GPU-22222222-aaaa-bbbb-cccc-000000000002",
                              "MIG-33333333-aaaa-bbbb-cccc-000000000003", "MIG-44444444-aaaa-bbbb-cccc-000000000004"};
static const char *names[] = {"", "NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3 MIG 3g.40gb",
                              "NVIDIA H100 80GB HBM3 MIG 4g.40gb"};
static const u64 used[] = {0, 1000, 9000, 3000, 4000};
#define ID ((size_t)device)

int nvmlInitWithFlags(unsigned flags) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
int nvmlSystemGetDriverVersion(char *out, unsigned size) { strncpy(out, "580.65.06", size); return SUCCESS; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return SUCCESS; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)(size_t)(index + 1); return SUCCESS; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    for (size_t i = 1; i < 5; i++)
        if (!strcmp(uuid, uuids[i])) { *device = (void *)i; return SUCCESS; }
    return NOT_FOUND;
}
int nvmlDeviceGetUUID(void *device, char *out, unsigned size) { strncpy(out, uuids[ID], size); return SUCCESS; }
int nvmlDeviceGetName(void *device, char *out, unsigned size) { strncpy(out, names[ID], size); return SUCCESS; }
int nvmlDeviceGetMigMode(void *device, unsigned *now, unsigned *later) {
    *now = *later = ID == 2;
    return ID < 3 ? SUCCESS : INVALID;
}
int nvmlDeviceIsMigDeviceHandle(void *device, unsigned *is) { *is = ID > 2; return SUCCESS; }
int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *count) { *count = ID == 2 ? 7 : 0; return SUCCESS; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned index, void **slice) {
    *slice = (void *)(size_t)(index + 3);
    return index < 2 ? SUCCESS : NOT_FOUND;
}
int nvmlDeviceGetMemoryInfo(void *device, Memory *m) {
    m->total = 80000, m->used = used[ID] + 600, m->free = m->total - m->used;
    return SUCCESS;
}
int nvmlDeviceGetMemoryInfo_v2(void *device, Memory2 *m) {
    if (m->version != (sizeof(Memory2) | 2 << 24)) return INVALID;
    m->total = 80000, m->reserved = 600, m->used = used[ID], m->free = m->total - m->used - 600;
    return SUCCESS;
}
int nvmlDeviceGetComputeRunningProcesses_v2(void *device, unsigned *count, Process *processes) {
    if (*count < 2) { *count = 2; return TOO_SMALL; }
    processes[0] = (Process){getpid(), 700, 0, 0};
    processes[1] = (Process){4242, ~0ull, 0, 0};
    *count = 2;
    return SUCCESS;
}
int nvmlDeviceGetTotalEnergyConsumption(void *device, u64 *millijoules) {
    *millijoules = 5000000000ull;
    return ID < 3 ? SUCCESS : NOT_SUPPORTED;
}
int nvmlDeviceGetClockInfo(void *device, int kind, unsigned *mhz) { *mhz = kind == 1 ? 1755 : 2619; return SUCCESS; }
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius) { *celsius = 41; return SUCCESS; }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, u64 *bits) { *bits = 0x44; return SUCCESS; }
int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) { *milliwatts = 123400; return SUCCESS; }
int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) { *major = 9, *minor = 0; return SUCCESS; }
