/* STAND-IN for tests, not NVIDIA's libcuda: answers only whether this process could reach a GPU's device nodes.
 *
 * The nodes have no driver behind them, so opening one that is there and allowed gives ENXIO ("no such device").
 * Where the node is missing it is ENOENT, and where the container's device cgroup forbids it EPERM: these two
 * are what a broken container runtime causes, and what cuInit answers 100 (CUDA_ERROR_NO_DEVICE) for. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static int reachable(const char *path) {
    int handle = open(path, O_RDWR | O_CLOEXEC);
    if (handle >= 0) {
        close(handle);
        return 1;
    }
    return errno == ENXIO;
}

int cuInit(unsigned int flags) {
    if (flags != 0)
        return 1; /* CUDA_ERROR_INVALID_VALUE */
    if (!reachable("/dev/nvidiactl") || !reachable("/dev/nvidia0"))
        return 100;
    /* The real one fails with 999 where nvidia-uvm is missing or a stale spec gave it another boot's major. */
    struct stat uvm;
    if (!reachable("/dev/nvidia-uvm") || stat("/dev/nvidia-uvm", &uvm) != 0 || major(uvm.st_rdev) != UVM_MAJOR)
        return 999; /* CUDA_ERROR_UNKNOWN */
    return 0;
}

int cuDriverGetVersion(int *version) {
    if (!version)
        return 1;
    *version = CUDA_VERSION;
    return 0;
}

int cuDeviceGetCount(int *count) {
    if (!count)
        return 1;
    if (cuInit(0) != 0)
        return 3; /* CUDA_ERROR_NOT_INITIALIZED */
    *count = 1;
    return 0;
}
