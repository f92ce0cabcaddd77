/* STAND-IN for tests, not NVIDIA's libnvidia-ml: knows its version and whether a driver seems to be loaded. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int nvmlInit_v2(void) {
    int handle = open("/dev/nvidiactl", O_RDWR | O_CLOEXEC);
    if (handle >= 0)
        close(handle);
    else if (errno != ENXIO) /* ENXIO: the node is there and allowed; no driver is behind it (see cuda.c) */
        return 9;            /* NVML_ERROR_DRIVER_NOT_LOADED */
    return 0;
}

int nvmlShutdown(void) { return 0; }

int nvmlSystemGetDriverVersion(char *version, unsigned int length) {
    return snprintf(version, length, "%s", DRIVER_VERSION) < (int)length ? 0 : 7;
}

int nvmlDeviceGetCount_v2(unsigned int *count) {
    *count = 1;
    return 0;
}
