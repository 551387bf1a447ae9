/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Calls that release something succeed while WAITING threads of the process wait for locks and shared values.
 *
 *     releases BASE         the leader, which holds the locks, and starts itself again as the member
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libos_ipc.h"
#include "libos_ipc_posix.h"
#include "check.h"

#define WAITING 64

static _Alignas(16) unsigned char g_memory[LIBOS_IPC_MEMORY_LEADER];
static char g_last_log[256];

static int deliver(void* context, const struct libos_ipc_pid_kill* kill) {
    return 0;
}

static void print_log(void* context, enum libos_ipc_log_level level, const char* message) {
    snprintf(g_last_log, sizeof(g_last_log), "%s", message);
}

static void start(const char* base) {
    static const struct libos_ipc_callbacks callbacks = {.signal = deliver, .log = print_log};
    struct libos_ipc_platform platform;
    struct libos_ipc_limits limits;
    libos_ipc_default_limits(&limits);
    IS(limits.waiters, WAITING);
    limits.delegated_files = 0;
    IS(libos_ipc_posix_platform(&platform, base, g_memory, sizeof(g_memory)), 0);
    IS(libos_ipc_setup(&platform, &callbacks, &limits), 0);
    IS(init_ipc(), 0);
    IS(init_ipc_worker(), 0);
}

static int lock(const char* path, int type, IDTYPE pid, bool wait) {
    struct libos_file_lock lock = {FILE_LOCK_POSIX, type, 0, 9, pid, 0};
    return file_lock_set(path, &lock, wait);
}

static void* wait_for_lock(void* pid) {
    int result = lock("/held", 1, (IDTYPE)(uintptr_t)pid, true);
    IS(result == 0 || result == -ESHUTDOWN, 1);
    return NULL;
}

static void releases(IDTYPE self) {
    const IDTYPE own = 100000;
    IS(lock("/own", 1, own, false), 0);
    IS(lock("/other", 1, own, false), 0);
    pthread_t threads[WAITING];
    for (uintptr_t i = 0; i < WAITING; i++)
        IS(pthread_create(&threads[i], NULL, wait_for_lock, (void*)(200000 + i)), 0);
    struct libos_ipc_statistics statistics;
    do {
        sched_yield();
        IS(libos_ipc_get_statistics(&statistics), 0);
    } while (statistics.waiters.now < WAITING);
    /* One more would take a place that is set aside. */
    IS(lock("/held", 1, 300000, true), -ENOMEM);
    IS(strstr(g_last_log, "libos_ipc_limits.waiters") != NULL, 1);
    /* None of these waits for another process to release something. */
    IS(lock("/own", 2, own, false), 0);
    IS(libos_ipc_close_file("/other", own), 0);
    IS(file_lock_clear_pid(own), 0);
    IS(lock("/own", 1, own, false), 0);
    IS(file_lock_clear_pid(own), 0);
    IDTYPE id = get_new_id(0), owner = 0;
    IS(id != 0, 1);
    IS(ipc_get_id_owner(id, &owner), 0);
    IS(owner, self);
    IS(ipc_kill_process(id, id, 0), 0);
    release_id(id);
    struct sync_handle* handle;
    unsigned int news;
    uint64_t data = 1;
    IS(sync_create(&handle, 0), 0);
    sync_destroy(handle);
    (void)news, (void)data;
    /* The end of the process ends the waits. */
    IS(libos_ipc_exit(0, 0, 0), 0);
    for (int i = 0; i < WAITING; i++)
        IS(pthread_join(threads[i], NULL), 0);
    terminate_ipc_worker();
    libos_ipc_posix_platform_end();
}

int main(int argc, char** argv) {
    if (argc == 7) {
        g_process_ipc_ids = (struct libos_ipc_ids){(IDTYPE)atoi(argv[2]), (IDTYPE)atoi(argv[3]), (IDTYPE)atoi(argv[4])};
        start(argv[1]);
        IDTYPE pid;
        IS(libos_ipc_join((IDTYPE)atoi(argv[5]), (IDTYPE)atoi(argv[6]), &pid), 0);
        releases(g_process_ipc_ids.self_vmid);
        return 0;
    }
    start(argv[1]);
    IDTYPE pid;
    IS(libos_ipc_join(0, 0, &pid), 0);
    IS(lock("/held", 1, pid, false), 0);
    struct libos_ipc_identity child;
    IS(libos_ipc_start_child(&child), 0);
    char numbers[5][16];
    const IDTYPE values[5] = {child.ids.self_vmid, child.ids.parent_vmid, child.ids.leader_vmid, child.pid, child.parent_pid};
    for (int i = 0; i < 5; i++)
        snprintf(numbers[i], sizeof(numbers[i]), "%u", values[i]);
    pid_t host = fork();
    if (host == 0) {
        execl("/proc/self/exe", argv[0], argv[1], numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], (char*)NULL);
        _exit(1);
    }
    struct libos_ipc_cld_exit exit;
    IS(libos_ipc_wait(LIBOS_IPC_WAIT_ANY, 0, 0, &exit, NULL), 0);
    IS(exit.pid, child.pid);
    IS(exit.exitcode, 0);
    IS(exit.term_signal, 0);
    int status = 1;
    IS(waitpid(host, &status, 0) == host, 1);
    IS(status, 0);
    /* All went with the process. */
    struct libos_ipc_statistics statistics;
    IS(libos_ipc_get_statistics(&statistics), 0);
    IS(statistics.waiting_for_locks.now, 0);
    IS(statistics.locks.now, 1);
    terminate_ipc_worker();
    libos_ipc_posix_platform_end();
    printf("releases: ok\n");
    return 0;
}
