/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A leader and a member without threads: blocking calls and libos_ipc_turn() move the bytes. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libos_ipc.h"
#include "libos_ipc_posix.h"

#define MEMBERS 3
#define ROUNDS 200
#define COUNTER 99

static _Alignas(16) unsigned char g_memory[LIBOS_IPC_MEMORY_LEADER];
static struct libos_ipc_platform g_platform;
static IDTYPE g_pid, g_parent_pid;
static int g_signals, g_ended;

static void check(long long result, const char* what) {
    if (result < 0) {
        fprintf(stderr, "process %u: %s: %s\n", g_pid, what, strerror((int)-result));
        exit(1);
    }
}

static int deliver(void* context, const struct libos_ipc_pid_kill* kill) {
    (void)context;
    if (kill->id != g_pid)
        return -ESRCH;
    g_signals++;
    return 0;
}

static void child_died(void* context, const struct libos_ipc_cld_exit* child) {
    (void)context;
    if (child->exitcode == 5 && child->term_signal == 0)
        g_ended++;
}

/* Texts that the log must contain. */
static const char* const g_awaited[] = {"call 1 FILE_LOCK_SET #", "-> 1 FILE_LOCK_SET #", "<- 1 RESP #",
                                        ": done"};
#define AWAITED (sizeof(g_awaited) / sizeof(*g_awaited))
static int g_seen[AWAITED];

static void print_log(void* context, enum libos_ipc_log_level level, const char* line) {
    (void)context;
    for (size_t i = 0; i < AWAITED; i++)
        g_seen[i] += level == LIBOS_IPC_LOG_INFO && strstr(line, g_awaited[i]);
}

static void self(void* context, struct libos_ipc_self* self) {
    (void)context;
    *self = (struct libos_ipc_self){g_pid, g_parent_pid, 0};
}

static void start(const char* base) {
    static const struct libos_ipc_callbacks callbacks = {
        .signal = deliver, .child_died = child_died, .self = self, .log = print_log};
    check(libos_ipc_posix_platform(&g_platform, base, g_memory, sizeof(g_memory)), "libos_ipc_posix_platform");
    g_platform.thread_create = NULL;
    g_platform.wait_readable = NULL;
    /* Each lock takes a message. */
    struct libos_ipc_limits limits;
    libos_ipc_default_limits(&limits);
    limits.delegated_files = 0;
    check(libos_ipc_setup(&g_platform, &callbacks, &limits), "libos_ipc_setup");
    check(init_ipc(), "init_ipc");
    check(init_ipc_worker(), "init_ipc_worker");
    check(init_sync_client(), "init_sync_client");
}

/* Moves bytes until the counter is at least `enough`. */
static void turn_until(const int* count, int enough) {
    uint64_t end = g_platform.now(NULL) + 60000000000;
    while (*count < enough && g_platform.now(NULL) < end)
        libos_ipc_turn(end);
    check(*count < enough ? -ETIMEDOUT : 0, "something that was to come");
}

static void count(int rounds) {
    struct sync_handle* counter;
    uint64_t value = 0;
    check(sync_create(&counter, COUNTER), "sync_create");
    while (rounds--) {
        unsigned int news;
        check(libos_ipc_sync_lock(counter, SYNC_STATE_EXCLUSIVE, &value, sizeof(value), &news),
             "libos_ipc_sync_lock");
        value++;
        sync_unlock(counter, &value, sizeof(value));
    }
    check(shutdown_sync_client(), "shutdown_sync_client");
}

static void member(const char* base, IDTYPE vmid, IDTYPE pid, IDTYPE parent_pid) {
    g_process_ipc_ids = (struct libos_ipc_ids){vmid, STARTING_VMID, STARTING_VMID};
    g_pid = pid;
    g_parent_pid = parent_pid;
    start(base);
    check(init_id_ranges(pid), "init_id_ranges");
    check(get_new_id(0) ? 0 : -EAGAIN, "get_new_id");
    struct libos_file_lock lock = {FILE_LOCK_POSIX, 1, 0, 0, pid, 0};
    for (int i = 0; i < 10; i++) {
        lock.type = 1;
        check(file_lock_set("/f", &lock, true), "file_lock_set");
        lock.type = 2;
        check(file_lock_set("/f", &lock, false), "file_lock_set, to unlock");
    }
    check(libos_ipc_dump_events(), "libos_ipc_dump_events");
    for (size_t i = 0; i < AWAITED; i++)
        check(g_seen[i] >= 20 ? 0 : -EPROTO, g_awaited[i]);
    count(ROUNDS);
    check(ipc_kill_process(pid, parent_pid, 10), "ipc_kill_process");
    turn_until(&g_signals, 1);
    check(ipc_cld_exit_send(5, 0), "ipc_cld_exit_send");
    terminate_ipc_worker();
    libos_ipc_posix_platform_end();
    exit(0);
}

int main(int argc, char** argv) {
    IDTYPE pids[MEMBERS];
    if (argc == 6)
        member(argv[2], (IDTYPE)atol(argv[3]), (IDTYPE)atol(argv[4]), (IDTYPE)atol(argv[5]));
    if (argc != 2)
        return 2;
    start(argv[1]);
    check(init_sync_server(), "init_sync_server");
    g_pid = get_new_id(0);
    struct sync_handle* counter;
    check(sync_create(&counter, COUNTER), "sync_create");
    /* The leader keeps the data as long as a process has the handle open. */
    uint64_t value = 0;
    unsigned int news;
    check(libos_ipc_sync_lock(counter, SYNC_STATE_SHARED, &value, sizeof(value), &news),
         "libos_ipc_sync_lock");
    sync_unlock(counter, NULL, 0);
    for (int i = 0; i < MEMBERS; i++) {
        IDTYPE vmid;
        check(ipc_get_new_vmid(&vmid), "ipc_get_new_vmid");
        pids[i] = get_new_id(vmid);
        /* The child executes the program again, so it inherits no state of the library. */
        char numbers[3][16];
        snprintf(numbers[0], 16, "%u", vmid);
        snprintf(numbers[1], 16, "%u", pids[i]);
        snprintf(numbers[2], 16, "%u", g_pid);
        if (fork() == 0) {
            execl("/proc/self/exe", argv[0], "member", argv[1], numbers[0], numbers[1], numbers[2],
                  (char*)NULL);
            _exit(1);
        }
    }
    turn_until(&g_signals, MEMBERS);
    check(libos_ipc_sync_lock(counter, SYNC_STATE_SHARED, &value, sizeof(value), &news),
         "libos_ipc_sync_lock");
    sync_unlock(counter, NULL, 0);
    check(value == MEMBERS * ROUNDS ? 0 : -EPROTO, "the counter");
    for (int i = 0; i < MEMBERS; i++)
        check(ipc_kill_process(g_pid, pids[i], 10), "ipc_kill_process");
    turn_until(&g_ended, MEMBERS);
    for (int status; wait(&status) > 0;)
        check(status ? -EPROTO : 0, "how a child ended");
    terminate_ipc_worker();
    check(libos_ipc_turn(0) ? -EPROTO : 0, "a turn after the end");
    libos_ipc_posix_platform_end();
    return 0;
}
