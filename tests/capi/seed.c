/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Two processes that call only functions of libos_ipc_seed.h and of set-up: a leader and its child. With a second argument
 * "lead" only a leader, until its standard input ends; with "follow" only a member, until it has got a signal. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libos_ipc.h"
#include "libos_ipc_posix.h"
#include "check.h"

#define ROUNDS 200
#define COUNTER 0x5eed
#define GROUP 4000

static _Alignas(16) unsigned char g_memory[LIBOS_IPC_MEMORY_LEADER];
static const char* g_base;
static IDTYPE g_pid, g_parent_pid;
static atomic_int g_signals, g_ended;
/* The value as this process has seen it last: sync_lock() copies only one that is new to it. */
static uint64_t g_counter;

static int deliver(void* context, const struct libos_ipc_pid_kill* kill) {
    if (kill->type == KILL_PROCESS && kill->id != g_pid)
        return -ESRCH;
    atomic_fetch_add(&g_signals, kill->signum != 0);
    return 0;
}

static int64_t get_metadata(void* context, IDTYPE pid, enum pid_meta_code code, void* data, size_t size) {
    memcpy(data, "/bin/child", 11);
    return pid == g_pid && code == PID_META_EXEC ? 11 : -ESRCH;
}

static void note_end(void* context, const struct libos_ipc_cld_exit* exit) {
    atomic_store(&g_ended, (int)exit->exitcode);
}

static void state_self(void* context, struct libos_ipc_self* self) {
    *self = (struct libos_ipc_self){.pid = g_pid, .ppid = g_parent_pid};
}

static void await(atomic_int* what, int expected) {
    while (atomic_load(what) != expected)
        sched_yield();
}

static void start(void) {
    static const struct libos_ipc_callbacks callbacks = {
        .signal = deliver, .metadata = get_metadata, .child_died = note_end, .self = state_self};
    struct libos_ipc_platform platform;
    IS(libos_ipc_posix_platform(&platform, g_base, g_memory, sizeof(g_memory)), 0);
    IS(libos_ipc_setup(&platform, &callbacks, NULL), 0);
    IS(init_ipc(), 0);
    IS(init_ipc_worker(), 0);
}

static void stop(void) {
    terminate_ipc_worker();
    libos_ipc_posix_platform_end();
}

static int lock(enum libos_file_lock_family family, int type, bool wait) {
    struct libos_file_lock lock = {family, type, 0, 9, g_pid, g_pid};
    return file_lock_set("/file", &lock, wait);
}

static struct sync_handle* g_handle;

/* Increments the shared counter so many times. */
static void count(int rounds) {
    for (int i = 0; i < rounds; i++) {
        (void)!sync_lock(g_handle, SYNC_STATE_EXCLUSIVE, &g_counter, sizeof(g_counter));
        g_counter++;
        sync_unlock(g_handle, &g_counter, sizeof(g_counter));
    }
}

static void child(void) {
    IDTYPE id, owner;
    start();
    IS(sync_create(&g_handle, COUNTER), 0);
    count(ROUNDS);
    sync_destroy(g_handle);
    id = get_new_id(0);
    IS(ipc_get_id_owner(id, &owner), 0);
    IS(owner, g_process_ipc_ids.self_vmid);
    /* The leader holds both locks until it has got the first signal. */
    IS(lock(FILE_LOCK_POSIX, 1, false), -EAGAIN);
    IS(lock(FILE_LOCK_FLOCK, 1, false), -EAGAIN);
    IS(ipc_kill_process(g_pid, g_parent_pid, SIGUSR1), 0);
    IS(lock(FILE_LOCK_POSIX, 1, true), 0);
    IS(lock(FILE_LOCK_FLOCK, 1, true), 0);
    IS(ipc_kill_all(g_pid, SIGUSR2), 0);
    await(&g_signals, 3);
    release_id(id);
    IS(ipc_cld_exit_send(42, 0), 0);
    stop();
}

static void lead(IDTYPE vmid, IDTYPE pid) {
    struct libos_ipc_pid_retmeta* answer = NULL;
    struct libos_file_lock asked = {FILE_LOCK_POSIX, 1, 0, FS_LOCK_EOF, g_pid, 0}, found;
    int result;
    count(ROUNDS - 1);
    await(&g_signals, 1);
    IS(lock(FILE_LOCK_POSIX, 2, false), 0);
    IS(lock(FILE_LOCK_FLOCK, 2, false), 0);
    await(&g_signals, 2);
    IS(file_lock_get("/file", &asked, &found), 0);
    IS(found.pid, pid);
    IS(ipc_pid_getmeta(pid, PID_META_EXEC, &answer), 0);
    IS(strcmp(answer->data, "/bin/child"), 0);
    free(answer);
    IS(ipc_kill_process(g_pid, pid, SIGUSR1), 0);
    /* Nobody owns the ID of the group. */
    IS(ipc_kill_pgroup(g_pid, GROUP, SIGUSR1), -ESRCH);
    IS(ipc_kill_thread(g_pid, pid, pid, SIGUSR1), 0);
    IS(ipc_kill_all(g_pid, SIGUSR1), 0);
    await(&g_ended, 42);
    /* What the child has not released is free when its connection has ended. */
    while ((result = lock(FILE_LOCK_FLOCK, 1, false)) == -EAGAIN)
        sched_yield();
    IS(result, 0);
    IS(lock(FILE_LOCK_POSIX, 1, true), 0);
    (void)!sync_lock(g_handle, SYNC_STATE_SHARED, &g_counter, sizeof(g_counter));
    IS(g_counter, 2 * ROUNDS);
    sync_unlock(g_handle, &g_counter, sizeof(g_counter));
    sync_destroy(g_handle);
    IS(vmid, STARTING_VMID + 1);
    stop();
}

/* One process of a family whose others are no programs in C. */
static void run_alone(const char* role) {
    bool leads = !strcmp(role, "lead");
    IDTYPE owner;
    char end;
    alarm(60);
    if (!leads)
        g_process_ipc_ids = (struct libos_ipc_ids){STARTING_VMID + 1, STARTING_VMID, STARTING_VMID};
    start();
    /* After the answer the leader has this process among its members. */
    IS(ipc_get_id_owner(1, &owner), 0);
    puts("ready");
    fflush(stdout);
    if (leads)
        IS(read(STDIN_FILENO, &end, 1), 0);
    else
        await(&g_signals, 1);
    stop();
}

int main(int argc, char** argv) {
    int status, identity[2];
    IDTYPE numbers[3];
    g_base = argv[1];
    if (argc > 2) {
        run_alone(argv[2]);
        return 0;
    }
    IS(pipe(identity), 0);
    pid_t host = fork();
    if (host == 0) {
        IS(prctl(PR_SET_PDEATHSIG, SIGKILL), 0);
        IS(read(identity[0], numbers, sizeof(numbers)), sizeof(numbers));
        g_process_ipc_ids = (struct libos_ipc_ids){numbers[0], STARTING_VMID, STARTING_VMID};
        g_pid = numbers[1];
        g_parent_pid = numbers[2];
        child();
        return 0;
    }
    start();
    g_pid = numbers[2] = get_new_id(0);
    IS(lock(FILE_LOCK_POSIX, 1, false), 0);
    IS(lock(FILE_LOCK_FLOCK, 1, false), 0);
    /* The counter exists as long as a process has it: this one has it before the child can close it. */
    IS(sync_create(&g_handle, COUNTER), 0);
    count(1);
    IS(ipc_get_new_vmid(&numbers[0]), 0);
    numbers[1] = get_new_id(numbers[0]);
    IS(write(identity[1], numbers, sizeof(numbers)), sizeof(numbers));
    lead(numbers[0], numbers[1]);
    IS(waitpid(host, &status, 0), host);
    IS(status, 0);
    return 0;
}
