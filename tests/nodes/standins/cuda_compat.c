/* STAND-IN for tests, not NVIDIA's cuda-compat: a libcuda with the ELF note, that fails as the real one does.
 *
 * Measured on an H100 (captures/h100): compat 580.95.05 on driver 580.159.04 answers cuInit with 803. The real one
 * learns the loaded driver's version from the kernel; this one reads /proc/driver/nvidia/version. */
#define cuInit driver_cuInit
#include "cuda.c"
#undef cuInit
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

__asm__(".pushsection .note.cuda.fwd_compatibility,\"a\",@note\n"
        ".balign 4\n"
        ".long 2f-1f, 4f-3f, 1\n"
        "1: .asciz \"NVIDIA Corporation\"\n"
        "2: .balign 4\n"
        "3: .asciz \"" NOTE "\"\n"
        "4: .balign 4\n"
        ".popsection\n");

static int loaded(int *number) { /* the three parts of the module's version */
    char text[256] = "", *at = text;
    FILE *file = fopen("/proc/driver/nvidia/version", "r");
    if (!file || !fgets(text, sizeof text, file))
        return 0;
    fclose(file);
    while ((at = strpbrk(at, "0123456789"))) {
        number[2] = 0;
        if (sscanf(at, "%d.%d.%d", &number[0], &number[1], &number[2]) >= 2 && number[0] > 300)
            return 1;
        at += strspn(at, "0123456789.");
    }
    return 0;
}

int cuInit(unsigned int flags) {
    int now[3], mine[3] = {0, 0, 0};
    char branch[16];
    if (!loaded(now))
        return 100;
    sscanf(DRIVER_VERSION, "%d.%d.%d", &mine[0], &mine[1], &mine[2]);
    snprintf(branch, sizeof branch, "%d", now[0]);
    if (!strstr(NOTE, branch) || memcmp(now, mine, sizeof mine) == 0 ||
        now[0] > mine[0] || (now[0] == mine[0] && (now[1] > mine[1] || (now[1] == mine[1] && now[2] > mine[2]))))
        return 803; /* CUDA_ERROR_SYSTEM_DRIVER_MISMATCH */
    return driver_cuInit(flags);
}
