// A device that is no GPU: llama.cpp's RPC server on loopback, which computes on this machine's
// CPU and holds as many bytes as it is told to: "server ENDPOINT BYTES". It ends when its standard
// input does.
#include "ggml-backend.h"
#include "ggml-rpc.h"

#include <cstdio>
#include <cstdlib>
#include <sys/resource.h>
#include <thread>
#include <unistd.h>

static size_t size;
static size_t taken_before;

// Bytes of this process's own data, as RLIMIT_DATA counts them.
static size_t taken() {
    size_t kib = 0;
    FILE * status = fopen("/proc/self/status", "r");
    char line[256];
    while (fgets(line, sizeof line, status) && sscanf(line, "VmData: %zu", &kib) != 1) {}
    fclose(status);
    return kib * 1024;
}

// In place of the engine's own, which would tell the memory of the machine.
extern "C" void ggml_backend_dev_memory(ggml_backend_dev_t, size_t * free, size_t * total) {
    *total = size;
    *free = taken_before + size - taken();
}

int main(int, char ** arguments) {
    size = strtoull(arguments[2], nullptr, 10);
    ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    std::thread([] { while (getchar() != EOF) {} _exit(0); }).detach();
    taken_before = taken();
    rlimit limit = { taken_before + size, RLIM_INFINITY };
    setrlimit(RLIMIT_DATA, &limit);
    ggml_backend_rpc_start_server(arguments[1], nullptr, 1, 1, &cpu);
    return 1;
}
