/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A process that leads a family of its own, built with nothing but the flags of pkg-config. */
#include <libos_ipc_posix.h>
#include <stdio.h>

static _Alignas(16) unsigned char g_memory[LIBOS_IPC_MEMORY_LEADER];

int main(int argc, char** argv) {
    static const struct libos_ipc_callbacks callbacks = {0};
    struct libos_ipc_platform platform;
    IDTYPE pid;
    if (argc != 2 || libos_ipc_posix_platform(&platform, argv[1], g_memory, sizeof(g_memory)) != 0)
        return 2;
    if (libos_ipc_setup(&platform, &callbacks, NULL) != 0 || init_ipc() != 0 || init_ipc_worker() != 0)
        return 1;
    if (libos_ipc_join(0, 0, &pid) != 0)
        return 1;
    terminate_ipc_worker();
    libos_ipc_posix_platform_end();
    printf("installed: ok\n");
    return 0;
}
