/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A member whose leader is busy, full or stopped.
 *
 *     members BASE busy      the leader's backlog and the member's table of children are full
 *     members BASE full      the leader has no place for the process
 *     members BASE stopped   the leader is stopped: the limits of calls end them
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libos_ipc.h"
#include "libos_ipc_posix.h"

static _Alignas(16) unsigned char g_memory[LIBOS_IPC_MEMORY_LEADER];
static char g_logged[4096];
static const char* g_base;
static int (*g_connect)(void*, IDTYPE, void**);
static int g_busy;

static void is(long long result, long long expected, const char* what) {
    if (result != expected) {
        fprintf(stderr, "process %u: %s is %lld, not %lld\n%s\n", g_process_ipc_ids.self_vmid, what, result, expected,
                g_logged);
        exit(1);
    }
}
#define IS(call, expected) is(call, expected, #call)

static void print_log(void* context, enum libos_ipc_log_level level, const char* message) {
    strncat(g_logged, message, sizeof(g_logged) - strlen(g_logged) - 1);
}

/* The backlog of the process is full for some attempts. */
static int connect_if_not_busy(void* context, IDTYPE vmid, void** stream) {
    if (g_busy > 0) {
        g_busy--;
        return -EAGAIN;
    }
    return g_connect(context, vmid, stream);
}

static void start(IDTYPE vmid, const struct libos_ipc_limits* limits) {
    static const struct libos_ipc_callbacks callbacks = {.log = print_log};
    struct libos_ipc_platform platform;
    IS(libos_ipc_posix_platform(&platform, g_base, g_memory, sizeof(g_memory)), 0);
    g_connect = platform.connect;
    platform.connect = connect_if_not_busy;
    IS(libos_ipc_setup(&platform, &callbacks, limits), 0);
    if (vmid != STARTING_VMID)
        g_process_ipc_ids = (struct libos_ipc_ids){vmid, STARTING_VMID, STARTING_VMID};
    IS(init_ipc(), 0);
    IS(init_ipc_worker(), 0);
}

static struct libos_ipc_limits default_limits(void) {
    struct libos_ipc_limits limits;
    libos_ipc_default_limits(&limits);
    limits.delegated_files = 0;
    return limits;
}

/* Starts a process of the host that joins the family and stays. */
static pid_t start_process(IDTYPE vmid, struct libos_ipc_limits limits) {
    int ready[2];
    char byte;
    IS(pipe(ready), 0);
    pid_t host = fork();
    if (host == 0) {
        IS(prctl(PR_SET_PDEATHSIG, SIGKILL), 0);
        start(vmid, &limits);
        IS(libos_ipc_join(0, 0, NULL), 0);
        IS(write(ready[1], "", 1), 1);
        for (;;)
            pause();
    }
    IS(read(ready[0], &byte, 1), 1);
    return host;
}

static void end(void) {
    terminate_ipc_worker();
    libos_ipc_posix_platform_end();
}

/* The child is not in the table of children, which is full, so the worker cannot report it later. */
static void busy(void) {
    start_process(STARTING_VMID, default_limits());
    struct libos_ipc_limits limits = default_limits();
    limits.children = 1;
    start(2, &limits);
    IS(libos_ipc_join(0, 0, NULL), 0);
    struct libos_ipc_identity child;
    IS(libos_ipc_start_child(&child), 0);
    IDTYPE vmid, first, last, owner;
    IS(ipc_get_new_vmid(&vmid), 0);
    IS(ipc_alloc_id_range(&first, &last), 0);
    struct {
        struct libos_ipc_msg message;
        IDTYPE id, owner;
    } __attribute__((packed)) change;
    memset(&change, 0, sizeof(change));
    change.id = first;
    change.owner = vmid;
    init_ipc_msg(&change.message, IPC_MSG_CHANGE_ID_OWNER, sizeof(change));
    IS(ipc_send_msg_and_get_response(STARTING_VMID, &change.message, NULL), 0);
    IS(ipc_get_id_owner(first, &owner), 0);
    IS(owner, vmid);
    g_busy = 10;
    IS(libos_ipc_bury(vmid), 0);
    IS(g_busy, 0);
    do {
        sched_yield();
        IS(ipc_get_id_owner(first, &owner), 0);
    } while (owner != 0);
    end();
}

static void full(void) {
    struct libos_ipc_limits limits = default_limits();
    limits.peers = 1;
    start_process(STARTING_VMID, limits);
    start_process(2, default_limits());
    limits = default_limits();
    start(3, &limits);
    IDTYPE vmid;
    IS(ipc_get_new_vmid(&vmid), -ENOMEM);
    IS(strstr(g_logged, "libos_ipc_limits.peers") != NULL, 1);
    end();
}

static int lock(const char* path, enum libos_file_lock_family family, uint64_t handle, IDTYPE pid) {
    struct libos_file_lock lock = {family, 1, 0, 9, pid, handle};
    return file_lock_set(path, &lock, false);
}

/* Each call ends as its limit states, whatever the leader does. */
static void end_with(int result, const struct libos_ipc_call_limit* limit, uint64_t number, IDTYPE pid) {
    struct libos_ipc_identity child;
    struct sync_handle* handle;
    IS(libos_ipc_start_child_within(&child, limit), result);
    IS(libos_ipc_give_open_file_within(number, 2, limit), result);
    IS(libos_ipc_take_back_open_file_within(number, 3, limit), result);
    IS(libos_ipc_hold_open_file_within(number + 100, limit), result);
    IS(libos_ipc_close_open_file_within(number, limit), result);
    IS(libos_ipc_close_file_within("/file", pid, limit), result);
    IS(sync_create(&handle, number), -EINVAL);
}

static void stopped(void) {
    pid_t leader = start_process(STARTING_VMID, default_limits());
    struct libos_ipc_limits limits = default_limits();
    start(2, &limits);
    IDTYPE pid, vmid;
    IS(libos_ipc_join(0, 0, &pid), 0);
    struct sync_handle* handles[2];
    for (uint64_t i = 0; i < 2; i++) {
        IS(lock("/file", FILE_LOCK_FLOCK, 7 + i, pid), i == 0 ? 0 : -EAGAIN);
        IS(sync_create(&handles[i], 7 + i), 0);
        IS(sync_lock(handles[i], SYNC_STATE_EXCLUSIVE, NULL, 0), false);
        sync_unlock(handles[i], NULL, 0);
    }
    IS(lock("/file", FILE_LOCK_POSIX, 0, pid), 0);

    IS(kill(leader, SIGSTOP), 0);
    IS(waitpid(leader, NULL, WUNTRACED) == leader, 1);
    struct libos_ipc_call_limit limit = {.timeout_ns = 20 * 1000 * 1000};
    end_with(-ETIMEDOUT, &limit, 7, pid);
    IS(libos_ipc_sync_destroy_within(handles[0], &limit), -ETIMEDOUT);
    struct libos_ipc_interrupt interrupt = {{0}};
    limit = (struct libos_ipc_call_limit){.interrupt = &interrupt};
    IS(libos_ipc_interrupt_raise(&interrupt), 0);
    end_with(-EINTR, &limit, 8, pid);
    IS(libos_ipc_sync_destroy_within(handles[1], &limit), -EINTR);
    IS(kill(leader, SIGCONT), 0);

    for (uint64_t i = 0; i < 2; i++) {
        IS(libos_ipc_sync_id(handles[i]), 0);
        IS(libos_ipc_sync_destroy_within(handles[i], NULL), -EINVAL);
        IS(libos_ipc_close_open_file_within(7 + i, NULL), 0);
    }
    IS(libos_ipc_close_file_within("/file", pid, NULL), 0);
    /* The locks are free: another owner gets them. */
    IS(lock("/file", FILE_LOCK_POSIX, 0, pid + 1), 0);
    IS(lock("/file", FILE_LOCK_FLOCK, 9, pid), 0);
    IS(ipc_get_new_vmid(&vmid), 0);
    end();
}

int main(int argc, char** argv) {
    g_base = argv[1];
    if (!strcmp(argv[2], "busy"))
        busy();
    else if (!strcmp(argv[2], "full"))
        full();
    else
        stopped();
    return 0;
}
