/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Processes reach the limits of struct libos_ipc_limits one after the other. Each is named in the log. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

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

/* Starts the leader of a family of its own. */
static void start(const char* base, struct libos_ipc_limits* limits, size_t memory_size, int expected) {
    static const struct libos_ipc_callbacks callbacks = {.log = print_log};
    struct libos_ipc_platform platform;
    limits->quota = LIBOS_IPC_QUOTA_OFF;
    IS(libos_ipc_posix_platform(&platform, base, g_memory, memory_size), 0);
    platform.connect = connect_later;
    IS(libos_ipc_setup(&platform, &callbacks, limits), 0);
    IS(init_ipc(), expected);
    if (expected != 0)
        return;
    IS(init_ipc_worker(), 0);
    IS(libos_ipc_join(0, 0, NULL), 0);
    g_logged[0] = 0;
}

static void end(void) {
    terminate_ipc_worker();
    libos_ipc_posix_platform_end();
}

static void memory(const char* base, struct libos_ipc_limits limits) {
    start(base, &limits, 4096, -ENOMEM);
    names("libos_ipc_platform.memory_size");
}

static void send_queue(const char* base, struct libos_ipc_limits limits) {
    start(base, &limits, sizeof(g_memory), 0);
    IS(connect_to_process(1000), 0);
    struct libos_ipc_msg message;
    init_ipc_msg(&message, IPC_MSG_GET_NEW_VMID, sizeof(message));
    int result = 0;
    for (int i = 0; i < 1000000 && result == 0; i++)
        result = ipc_broadcast(&message, 0);
    IS(result, -EAGAIN);
    names("libos_ipc_limits.send_queue");
    end();
}

static void ranges(const char* base, struct libos_ipc_limits limits) {
    limits.ranges = 8;
    start(base, &limits, sizeof(g_memory), 0);
    int result = 0;
    IDTYPE first, last;
    for (int i = 0; i < 20 && result == 0; i++)
        result = ipc_alloc_id_range(&first, &last);
    IS(result, -EAGAIN);
    names("libos_ipc_limits.ranges");
    for (int i = 0; i < 200 && get_new_id(0); i++)
        continue;
    names("libos_ipc_limits.ranges");
    end();
}

static void processes(const char* base, struct libos_ipc_limits limits) {
    limits.peers = 1;
    limits.children = 100;
    start(base, &limits, sizeof(g_memory), 0);
    struct libos_ipc_identity child;
    int result = 0;
    for (int i = 0; i < 100 && result == 0; i++)
        result = libos_ipc_start_child(&child);
    IS(result, -ENOMEM);
    names("libos_ipc_limits.peers");
    end();
}

static void* ask_for_metadata(void* id) {
    IS(ipc_pid_getmeta((IDTYPE)(uintptr_t)id, PID_META_EXEC, NULL), -ESHUTDOWN);
    return NULL;
}

static void* wait_for_lock(void* pid) {
    struct libos_file_lock lock = {FILE_LOCK_POSIX, 1, 0, 0, (IDTYPE)(uintptr_t)pid, 0};
    IS(file_lock_set("/file", &lock, true), 0);
    return NULL;
}

static void pools(const char* base, struct libos_ipc_limits limits) {
    struct libos_ipc_statistics statistics;
    pthread_t thread;
    limits.peers = 1;
    limits.children = 1;
    limits.answers = 1;
    limits.sync_handles = 2;
    limits.sync_data = 8;
    limits.served_handles = 1;
    limits.own_ranges = 5;
    limits.locks = 8;
    limits.locked_files = 2;
    limits.waiting_for_locks = 1;
    limits.lock_handles = 1;
    limits.connect_limit_ms = 60000;
    start(base, &limits, sizeof(g_memory), 0);
    IS(libos_ipc_leader(), LIBOS_IPC_STARTING_VMID);
    IS(libos_ipc_get_statistics(&statistics), 0);
    IS(statistics.epoch, 1);
    IS(statistics.successions, 0);
    IS(statistics.heir, 0);

    IS(connect_to_process(1000), 0);
    IS(connect_to_process(1001), -ENOMEM);
    names("libos_ipc_limits.peers");
    IDTYPE first, last, other;
    IS(ipc_alloc_id_range(&first, &last), 0);
    IS(ipc_change_id_owner(first, 1000), 0);
    struct libos_ipc_identity child;
    IS(libos_ipc_start_child(&child), 0);
    IS(libos_ipc_start_child(&child), -ENOMEM);
    names("libos_ipc_limits.children");
    IS(libos_ipc_get_statistics(&statistics), 0);
    uint64_t queued = statistics.send_queue.now;
    IS(pthread_create(&thread, NULL, ask_for_metadata, (void*)(uintptr_t)first), 0);
    /* The call has its place for the answer before its request is queued. */
    do {
        sched_yield();
        IS(libos_ipc_get_statistics(&statistics), 0);
    } while (statistics.send_queue.now <= queued);
    IS(ipc_pid_getmeta(first, PID_META_EXEC, NULL), -ENOMEM);
    names("libos_ipc_limits.answers");

    struct sync_handle* handles[3];
    unsigned int news;
    char data[9] = {0};
    IS(sync_create(&handles[0], 1), 0);
    IS(sync_create(&handles[1], 2), 0);
    IS(sync_create(&handles[2], 3), -ENOMEM);
    names("libos_ipc_limits.sync_handles");
    IS(libos_ipc_sync_lock(handles[0], SYNC_STATE_EXCLUSIVE, data, sizeof(data), &news), 0);
    sync_unlock(handles[0], data, sizeof(data));
    names("libos_ipc_limits.sync_data");
    sync_unlock(handles[0], data, 8);
    IS(libos_ipc_sync_lock(handles[1], SYNC_STATE_EXCLUSIVE, data, 8, &news), -ENOMEM);
    names("served_handles");

    for (int i = 0, result = 0; i < 8 && result == 0; i++)
        result = get_new_id(0) ? ipc_alloc_id_range(&other, &last) : -1;
    for (int i = 0; i < 200 && get_new_id(0); i++)
        continue;
    names("libos_ipc_limits.own_ranges");
    struct libos_ipc_msg message;
    init_ipc_msg(&message, IPC_MSG_GET_ID_OWNER, SIZE_MAX);
    IS(ipc_send_message(2, &message), -ENOMEM);
    names("libos_ipc_limits.frame_length");

    int result = 0;
    for (first = 0; first < 20 && result == 0; first++)
        result = lock("/file", FILE_LOCK_POSIX, 2 * first, 0);
    IS(result, -ENOLCK);
    names("libos_ipc_limits.locks, ");
    /* Without quotas one process gets all locks. */
    IS(first, 9);
    IS(libos_ipc_get_statistics(&statistics), 0);
    IS(statistics.refused_by_quota, 0);
    pthread_t waiting;
    IS(pthread_create(&waiting, NULL, wait_for_lock, (void*)2), 0);
    do {
        sched_yield();
        IS(libos_ipc_get_statistics(&statistics), 0);
    } while (statistics.waiting_for_locks.now < 1);
    struct libos_file_lock third = {FILE_LOCK_POSIX, 1, 0, 0, 3, 0};
    IS(file_lock_set("/file", &third, true), -ENOLCK);
    names("waiting_for_locks");
    IS(file_lock_clear_pid(1), 0);
    IS(pthread_join(waiting, NULL), 0);
    IS(file_lock_clear_pid(2), 0);
    for (result = 0, first = 0; first < 20 && result == 0; first++)
        result = lock(first % 2 ? "/a" : first % 3 ? "/b" : "/c", FILE_LOCK_POSIX, first, 0);
    IS(result, -ENOLCK);
    names("locked_files");
    IS(file_lock_clear_pid(1), 0);
    IS(lock("/a", FILE_LOCK_FLOCK, 0, 1), 0);
    IS(lock("/b", FILE_LOCK_FLOCK, 0, 2), -ENOLCK);
    names("lock_handles");
    end();
    IS(pthread_join(thread, NULL), 0);
}

/* Each process of the host is the leader of a family of its own. */
static void in_a_process(void (*reach)(const char*, struct libos_ipc_limits), const char* base) {
    int status = 1;
    pid_t host = fork();
    if (host == 0) {
        struct libos_ipc_limits limits;
        libos_ipc_default_limits(&limits);
        reach(base, limits);
        exit(0);
    }
    IS(waitpid(host, &status, 0) == host, 1);
    IS(status, 0);
}

int main(int argc, char** argv) {
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
    limits.heirs = LIBOS_IPC_HEIRS_LISTED;
    IS(libos_ipc_memory_size(&limits, true) > leader, 1);
    IS(limits.heir_patience_ms, 100);
    IS(limits.succession_limit_ms, 5000);
    IS(libos_ipc_leader(), 0);
    in_a_process(pools, argv[1]);
    in_a_process(memory, argv[1]);
    in_a_process(send_queue, argv[1]);
    in_a_process(ranges, argv[1]);
    in_a_process(processes, argv[1]);
    return 0;
}
