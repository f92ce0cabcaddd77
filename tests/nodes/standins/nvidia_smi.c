/* STAND-IN for tests, not NVIDIA's nvidia-smi: prints one H100 in the formats of captures/h100/smi*.txt.
 *
 * Static, so that it also runs in a container without a libc. On the host (where STANDIN_HOST exists) the driver
 * counts as loaded when /proc/driver/nvidia/version is there; in a container /proc is a new one, so there only the
 * device nodes count. Opening a node that is there and allowed gives ENXIO, as no driver is behind it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define STANDIN_HOST "/var/lib/gpumend-standin"

struct field {
    const char *name, *header, *value, *unit;
};

static const struct field FIELDS[] = {
    {"index", NULL, "0", ""},
    {"name", NULL, GPU_NAME, ""},
    {"gpu_name", "name", GPU_NAME, ""},
    {"uuid", NULL, GPU_UUID, ""},
    {"gpu_uuid", "uuid", GPU_UUID, ""},
    {"count", NULL, "1", ""},
    {"driver_version", NULL, DRIVER_VERSION, ""},
    {"pci.bus_id", NULL, "0000" GPU_BUS, ""},
    {"gpu_bus_id", "pci.bus_id", "0000" GPU_BUS, ""},
    {"pci.device_id", NULL, "0x233010DE", ""},
    {"compute_cap", NULL, "9.0", ""},
    {"compute_mode", NULL, "Default", ""},
    {"mig.mode.current", NULL, "Disabled", ""},
    {"mig.mode.pending", NULL, "Disabled", ""},
    {"persistence_mode", NULL, "Enabled", ""},
    {"fabric.state", NULL, "N/A", ""},
    {"display_active", NULL, "Disabled", ""},
    {"pstate", NULL, "P0", ""},
    {"memory.total", NULL, "81559", "MiB"},
    {"memory.used", NULL, "0", "MiB"},
    {"memory.free", NULL, "81079", "MiB"},
    {"utilization.gpu", NULL, "0", "%"},
    {"utilization.memory", NULL, "0", "%"},
    {"temperature.gpu", NULL, "53", ""},
    {"power.draw", NULL, "132.00", "W"},
    {"power.limit", NULL, "700.00", "W"},
    {NULL, NULL, NULL, NULL},
};

static int reachable(const char *path) {
    int handle = open(path, O_RDWR | O_CLOEXEC);
    if (handle >= 0) {
        close(handle);
        return 1;
    }
    return errno == ENXIO;
}

static const struct field *find(const char *name) {
    for (const struct field *field = FIELDS; field->name; field++)
        if (strcmp(field->name, name) == 0)
            return field;
    return NULL;
}

static int query(char *names, const char *format) {
    int header = !strstr(format, "noheader"), units = !strstr(format, "nounits"), number = 0;
    const struct field *chosen[64];
    if (!strstr(format, "csv")) {
        puts("Error: format must be csv");
        return 2;
    }
    for (char *name = strtok(names, ","); name && number < 64; name = strtok(NULL, ",")) {
        while (*name == ' ')
            name++;
        chosen[number] = find(name);
        if (!chosen[number++]) {
            printf("Field \"%s\" is not a valid field to query.\n\n", name);
            return 2;
        }
    }
    for (int i = 0; header && i < number; i++) {
        const struct field *field = chosen[i];
        printf("%s%s", i ? ", " : "", field->header ? field->header : field->name);
        if (units && *field->unit)
            printf(" [%s]", field->unit);
    }
    if (header)
        puts("");
    for (int i = 0; i < number; i++)
        printf("%s%s%s%s", i ? ", " : "", chosen[i]->value, units && *chosen[i]->unit ? " " : "",
               units ? chosen[i]->unit : "");
    puts("");
    return 0;
}

static void table(void) {
    char when[64];
    time_t now = time(NULL);
    strftime(when, sizeof when, "%a %b %e %H:%M:%S %Y", localtime(&now));
    const char *line = "+-----------------------------------------------------------------------------------------+\n";
    printf("%s       \n%s", when, line);
    printf("| NVIDIA-SMI %-22s Driver Version: %-14s CUDA Version: %-8s |\n", DRIVER_VERSION, DRIVER_VERSION, CUDA_NAME);
    printf("+-----------------------------------------+------------------------+----------------------+\n");
    printf("| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |\n");
    printf("| Fan  Temp   Perf          Pwr:Usage/Cap |           Memory-Usage | GPU-Util  Compute M. |\n");
    printf("|                                         |                        |               MIG M. |\n");
    printf("|=========================================+========================+======================|\n");
    printf("|   0  %-30.30s On  |   %s Off |                    0 |\n", GPU_NAME, "0000" GPU_BUS);
    printf("| N/A   53C    P0            132W /  700W |       0MiB /  81559MiB |      0%%      Default |\n");
    printf("|                                         |                        |             Disabled |\n");
    printf("+-----------------------------------------+------------------------+----------------------+\n\n%s", line);
    printf("| Processes:                                                                              |\n");
    printf("|  No running processes found                                                             |\n%s", line);
}

static void details(void) {
    puts("\n==============NVSMI LOG==============\n");
    printf("Timestamp                                 : Mon Nov 23 04:12:11 2026\n");
    printf("Driver Version                            : %s\nCUDA Version                              : %s\n\n",
           DRIVER_VERSION, CUDA_NAME);
    printf("Attached GPUs                             : 1\nGPU 0000%s\n", GPU_BUS);
    printf("    Product Name                          : %s\n", GPU_NAME);
    printf("    Product Brand                         : NVIDIA\n    Product Architecture                  : Hopper\n");
    printf("    Persistence Mode                      : Enabled\n    MIG Mode\n");
    printf("        Current                           : Disabled\n        Pending                           : Disabled\n");
    printf("    GPU UUID                              : %s\n", GPU_UUID);
}

int main(int argc, char **argv) {
    char *names = NULL;
    const char *format = "csv";
    int list = 0, version = 0, all = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-L") == 0 || strcmp(argv[i], "--list-gpus") == 0)
            list = 1;
        else if (strncmp(argv[i], "--query-gpu=", 12) == 0)
            names = argv[i] + 12;
        else if (strncmp(argv[i], "--format=", 9) == 0)
            format = argv[i] + 9;
        else if (strcmp(argv[i], "-q") == 0 || strcmp(argv[i], "--query") == 0)
            all = 1;
        else if (strcmp(argv[i], "--version") == 0)
            version = 1;
        else if (strcmp(argv[i], "-i") == 0 || strcmp(argv[i], "--id") == 0)
            i++; /* there is only one GPU to choose */
        else if (strncmp(argv[i], "--id=", 5) != 0) {
            printf("Invalid combination of input arguments. Please run 'nvidia-smi -h' for help.\n");
            return 2;
        }
    }
    int loaded = access(STANDIN_HOST, F_OK) != 0 || access("/proc/driver/nvidia/version", R_OK) == 0;
    if (!loaded || !reachable("/dev/nvidiactl")) {
        puts("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest"
             " NVIDIA driver is installed and running.\n");
        return 9;
    }
    if (version) {
        printf("NVIDIA-SMI version  : %s\nNVML version        : %s\nDRIVER version      : %s\nCUDA Version        : %s\n",
               DRIVER_VERSION, DRIVER_VERSION, DRIVER_VERSION, CUDA_NAME);
        return 0;
    }
    if (!reachable("/dev/nvidia0")) {
        puts("No devices were found");
        return 6;
    }
    if (list)
        printf("GPU 0: %s (UUID: %s)\n", GPU_NAME, GPU_UUID);
    else if (all)
        details();
    else if (names)
        return query(names, format);
    else
        table();
    return 0;
}
