/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A process reaches the limits of struct libos_ipc_limits one after the other. Each is named in the log. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libos_ipc.h"
#include "libos_ipc_posix.h"

static _Alignas(16) unsigned char g_memory[LIBOS_IPC_MEMORY_LEADER];
static char g_logged[4096];

static void print_log(void* context, enum libos_ipc_log_level level, const char* message) {
    strncat(g_logged, message, sizeof(g_logged) - strlen(g_logged) - 1);
}

static void is(long long result, long long expected, const char* what) {
    if (result != expected) {
        fprintf(stderr, "%s is %lld, not %lld\n%s\n", what, result, expected, g_logged);
        exit(1);
    }
}
#define IS(call, expected) is(call, expected, #call)

/* The log since the last call names the limit. */
static void names(const char* limit) {
    if (!strstr(g_logged, limit)) {
        fprintf(stderr, "%s is not in the log: %s\n", limit, g_logged);
        exit(1);
    }
    g_logged[0] = 0;
}

static int lock(const char* path, enum libos_file_lock_family family, uint64_t start, uint64_t handle) {
    struct libos_file_lock lock = {family, 1, start, start, 1, handle};
    return file_lock_set(path, &lock, false);
}

/* A process whose backlog is full, so the connection is kept and tried again. */
static int connect_later(void* context, IDTYPE vmid, void** stream) {
    return -EAGAIN;
}

int main(int argc, char** argv) {
    static const struct libos_ipc_callbacks callbacks = {.log = print_log};
    struct libos_ipc_platform platform;
    struct libos_ipc_limits limits;
    libos_ipc_default_limits(&limits);
    IS(limits.peers, 0);
    size_t member = libos_ipc_memory_size(&limits, false), leader = libos_ipc_memory_size(&limits, true);
    limits.peers = 64;
    IS(libos_ipc_memory_size(&limits, false), (long long)member);
    limits.peers = 256;
    IS(libos_ipc_memory_size(&limits, true), (long long)leader);
    /* A family that survives its leader needs more memory; by default it does not. */
    IS(limits.heirs, LIBOS_IPC_HEIRS_NONE);
    IS(limits.heir_patience_ms, 100);
    IS(limits.succession_limit_ms, 5000);
    limits.heirs = LIBOS_IPC_HEIRS_LISTED;
    IS(libos_ipc_memory_size(&limits, true) > leader, 1);
    limits.heirs = LIBOS_IPC_HEIRS_NONE;
    IS(libos_ipc_leader(), 0);
    limits.peers = 1;
    limits.children = 1;
    limits.sync_handles = 1;
    limits.sync_data = 8;
    limits.own_ranges = 4;
    limits.locks = 8;
    limits.locked_files = 2;
    limits.lock_handles = 1;
    limits.quota = LIBOS_IPC_QUOTA_OFF;
    IS(libos_ipc_posix_platform(&platform, argv[1], g_memory, sizeof(g_memory)), 0);
    platform.connect = connect_later;
    IS(libos_ipc_setup(&platform, &callbacks, &limits), 0);
    IS(init_ipc(), 0);
    IS(init_ipc_worker(), 0);
    IS(libos_ipc_join(0, 0, NULL), 0);
    IS(libos_ipc_leader(), LIBOS_IPC_STARTING_VMID);
    struct libos_ipc_statistics statistics;
    IS(libos_ipc_get_statistics(&statistics), 0);
    IS(statistics.epoch, 1);
    IS(statistics.successions, 0);
    IS(statistics.heir, 0);
    g_logged[0] = 0;

    IS(connect_to_process(1000), 0);
    IS(connect_to_process(1001), -ENOMEM);
    names("libos_ipc_limits.peers");
    struct libos_ipc_identity child;
    IS(libos_ipc_start_child(&child), 0);
    IS(libos_ipc_start_child(&child), -ENOMEM);
    names("libos_ipc_limits.children");
    struct sync_handle* handle;
    IS(sync_create(&handle, 1), 0);
    IS(sync_create(&handle, 2), -ENOMEM);
    names("libos_ipc_limits.sync_handles");
    IDTYPE first, last;
    int result = 0;
    for (int i = 0; i < 8 && result == 0; i++)
        result = get_new_id(0) ? ipc_alloc_id_range(&first, &last) : -1;
    for (int i = 0; i < 200 && get_new_id(0); i++)
        continue;
    names("libos_ipc_limits.own_ranges");
    struct libos_ipc_msg message;
    init_ipc_msg(&message, IPC_MSG_GET_ID_OWNER, SIZE_MAX);
    IS(ipc_send_message(2, &message), -ENOMEM);
    names("libos_ipc_limits.frame_length");
    for (result = 0, first = 0; first < 20 && result == 0; first++)
        result = lock("/file", FILE_LOCK_POSIX, 2 * first, 0);
    IS(result, -ENOLCK);
    names("libos_ipc_limits.locks, ");
    /* Without quotas one process gets all locks. */
    IS(first, 9);
    IS(libos_ipc_get_statistics(&statistics), 0);
    IS(statistics.refused_by_quota, 0);
    IS(file_lock_clear_pid(1), 0);
    for (result = 0, first = 0; first < 20 && result == 0; first++)
        result = lock(first % 2 ? "/a" : first % 3 ? "/b" : "/c", FILE_LOCK_POSIX, first, 0);
    IS(result, -ENOLCK);
    names("locked_files");
    IS(file_lock_clear_pid(1), 0);
    IS(lock("/a", FILE_LOCK_FLOCK, 0, 1), 0);
    IS(lock("/b", FILE_LOCK_FLOCK, 0, 2), -ENOLCK);
    names("lock_handles");
    terminate_ipc_worker();
    libos_ipc_posix_platform_end();
    return 0;
}
