/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A family in C outlives its leader, which the test kills. The library has the feature `succession`.
 *
 *     succession BASE goes-on     members go on with what they have
 *     succession BASE newcomer    a child whose leader dies before it joins, and whose parent is stopped, joins
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libos_ipc.h"
#include "libos_ipc_posix.h"
#include "check.h"

#define HEIR 2

static _Alignas(16) unsigned char g_memory[32 * 1024 * 1024];
static const char* g_base;
static IDTYPE g_leader;
static uint32_t g_epoch;
static int g_changes;

static void print_log(void* context, enum libos_ipc_log_level level, const char* message) {
    if (level == LIBOS_IPC_LOG_ERROR)
        fprintf(stderr, "process %u: %s\n", g_process_ipc_ids.self_vmid, message);
}

static void changed(void* context, IDTYPE leader, uint32_t epoch) {
    g_leader = leader;
    g_epoch = epoch;
    __atomic_add_fetch(&g_changes, 1, __ATOMIC_SEQ_CST);
}

/* Initialises the library with the identity in libos_ipc_process_ids. */
static void start(void) {
    static const struct libos_ipc_callbacks callbacks = {.log = print_log, .leader_changed = changed};
    struct libos_ipc_platform platform;
    struct libos_ipc_limits limits;
    libos_ipc_default_limits(&limits);
    /* The same in all processes. */
    limits.peers = 16;
    limits.heirs = LIBOS_IPC_HEIRS_ANY;
    /* A busy machine may stop the heir for a while. */
    limits.heir_patience_ms = 10000;
    limits.succession_limit_ms = 60000;
    IS(libos_ipc_memory_size(&limits, true) <= sizeof(g_memory), 1);
    IS(libos_ipc_posix_platform(&platform, g_base, g_memory, sizeof(g_memory)), 0);
    IS(libos_ipc_setup(&platform, &callbacks, &limits), 0);
    IS(init_ipc(), 0);
    IS(init_ipc_worker(), 0);
}

/* Joins the family. After this the leader knows the limits of the process, and may choose it as its heir. */
static void join(IDTYPE vmid) {
    IDTYPE owner;
    if (vmid != STARTING_VMID)
        g_process_ipc_ids = (struct libos_ipc_ids){vmid, STARTING_VMID, STARTING_VMID};
    start();
    IS(libos_ipc_join(0, 0, NULL), 0);
    IS(ipc_get_id_owner(1, &owner), 0);
}

/* Waits until a process is ready to lead next. */
static void wait_for_heir(void) {
    struct libos_ipc_statistics statistics;
    do {
        usleep(1000);
        IS(libos_ipc_get_statistics(&statistics), 0);
    } while (statistics.heir == 0);
    IS(statistics.heir, HEIR);
    IS(statistics.epoch, 1);
    IS(libos_ipc_leader(), STARTING_VMID);
}

static int lock(IDTYPE pid, int type) {
    struct libos_file_lock lock = {FILE_LOCK_POSIX, type, 0, 9, pid, 0};
    return file_lock_set("/file", &lock, false);
}

/* A process of the host, a pipe from it and one to it. */
struct process {
    pid_t host;
    int from, to;
};

/* Starts a process that joins the family. For each byte that it reads, it starts a child and writes the child's identity. */
static struct process start_process(IDTYPE vmid) {
    int from[2], to[2];
    struct libos_ipc_identity child = {0};
    IS(pipe(from), 0);
    IS(pipe(to), 0);
    pid_t host = fork();
    if (host == 0) {
        char byte;
        IS(prctl(PR_SET_PDEATHSIG, SIGKILL), 0);
        join(vmid);
        for (;;) {
            IS(write(from[1], &child, sizeof(child)), sizeof(child));
            IS(read(to[0], &byte, 1), 1);
            wait_for_heir();
            IS(libos_ipc_start_child(&child), 0);
        }
    }
    IS(read(from[0], &child, sizeof(child)), sizeof(child));
    return (struct process){host, from[0], to[1]};
}

static void kill_process(struct process process) {
    IS(kill(process.host, SIGKILL), 0);
    IS(waitpid(process.host, NULL, 0) == process.host, 1);
}

static void end(void) {
    terminate_ipc_worker();
    libos_ipc_posix_platform_end();
}

static void goes_on(void) {
    struct process leader = start_process(STARTING_VMID);
    start_process(HEIR);
    join(3);
    IDTYPE pid, first, last, owner;
    struct libos_ipc_process own;
    IS(libos_ipc_get_process(0, &own), 0);
    pid = own.pid;
    IS(ipc_alloc_id_range(&first, &last), 0);
    IS(lock(pid, 1), 0);
    struct sync_handle* handle;
    unsigned int news;
    uint64_t data = 42, read_back = 0;
    IS(sync_create(&handle, 7), 0);
    IS(libos_ipc_sync_lock(handle, SYNC_STATE_EXCLUSIVE, NULL, 0, &news), 0);
    sync_unlock(handle, &data, sizeof(data));
    wait_for_heir();

    kill_process(leader);
    /* No call fails, and nothing is lost. */
    IS(ipc_get_id_owner(first, &owner), 0);
    IS(owner, 3);
    IS(lock(pid + 1, 1), -EAGAIN);
    IS(libos_ipc_sync_lock(handle, SYNC_STATE_SHARED, &read_back, sizeof(read_back), &news), 0);
    IS(news & LIBOS_IPC_SYNC_OWNER_DIED, 0);
    sync_unlock(handle, NULL, 0);
    IS(lock(pid, 2), 0);
    IS(lock(pid + 1, 1), 0);
    IS(libos_ipc_get_process(pid, &own), 0);
    IS(own.vmid, 3);
    struct libos_ipc_identity child;
    IS(libos_ipc_start_child(&child), 0);
    IS(child.ids.leader_vmid, HEIR);
    IS(libos_ipc_bury(child.ids.self_vmid), 0);

    IS(libos_ipc_leader(), HEIR);
    while (__atomic_load_n(&g_changes, __ATOMIC_SEQ_CST) == 0)
        usleep(1000);
    IS(g_changes, 1);
    IS(g_leader, HEIR);
    IS(g_epoch, 2);
    struct libos_ipc_statistics statistics;
    IS(libos_ipc_get_statistics(&statistics), 0);
    IS(statistics.epoch, 2);
    IS(statistics.successions, 1);
    IS(statistics.last_outage_ns > 0, 1);
    end();
}

static void newcomer(void) {
    struct process leader = start_process(STARTING_VMID);
    start_process(HEIR);
    struct process parent = start_process(3);
    struct libos_ipc_identity own, same;
    IS(write(parent.to, "", 1), 1);
    IS(read(parent.from, &own, sizeof(own)), sizeof(own));
    IS(own.ids.leader_vmid, STARTING_VMID);
    IS(own.ids.parent_vmid, 3);
    IS(own.heir_vmid, HEIR);
    IS(kill(parent.host, SIGSTOP), 0);
    IS(waitpid(parent.host, NULL, WUNTRACED) == parent.host, 1);
    kill_process(leader);
    IS(libos_ipc_set_identity(NULL), -EINVAL);
    IS(libos_ipc_set_identity(&own), 0);
    start();
    IS(libos_ipc_set_identity(&own), -EALREADY);
    IS(libos_ipc_join(own.pid, own.parent_pid, NULL), 0);
    IS(libos_ipc_leader(), HEIR);
    IS(libos_ipc_get_identity(&same), 0);
    IS(memcmp(&own, &same, sizeof(own)), 0);
    IS(kill(parent.host, SIGCONT), 0);
    end();
}

int main(int argc, char** argv) {
    g_base = argv[1];
    if (!strcmp(argv[2], "newcomer"))
        newcomer();
    else
        goes_on();
    return 0;
}
