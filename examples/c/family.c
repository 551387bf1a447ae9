/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A small library OS: the callbacks that the library calls, and the calls that start and stop it. */
#define _GNU_SOURCE
#include "family.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "libos_ipc_posix.h"

struct process g_process;

/* Memory for a leader. Pages that the library never touches cost nothing. */
static _Alignas(16) unsigned char g_memory[LIBOS_IPC_MEMORY_LEADER];

static int deliver(void* context, const struct libos_ipc_pid_kill* kill) {
    (void)context;
    if (kill->type != KILL_ALL && kill->id != g_process.pid)
        return -ESRCH;
    /* Signal 0 only tests whether the process exists. */
    if (kill->signum)
        g_process.signals++;
    return 0;
}

static int64_t get_metadata(void* context, IDTYPE pid, enum pid_meta_code code, void* data, size_t size) {
    (void)context;
    if (pid != g_process.pid)
        return -ESRCH;
    if (code == PID_META_CRED) {
        uint32_t ids[2] = {getuid(), getgid()};
        memcpy(data, ids, sizeof(ids));
        return sizeof(ids);
    }
    const char* path = code == PID_META_EXEC ? g_process.program : "/";
    size_t length = strlen(path) + 1;
    if (length > size)
        return -ENAMETOOLONG;
    memcpy(data, path, length);
    return (int64_t)length;
}

static void child_died(void* context, const struct libos_ipc_cld_exit* exit) {
    (void)context;
    printf("leader: process %u ended with %u\n", exit->pid, exit->exitcode);
    if (exit->exitcode == exit->pid % 100 && !exit->term_signal)
        g_process.ended_well++;
    g_process.ended++;
}

static void self(void* context, struct libos_ipc_self* self) {
    (void)context;
    *self = (struct libos_ipc_self){g_process.pid, g_process.parent_pid, getuid()};
}

static void print_log(void* context, enum libos_ipc_log_level level, const char* message) {
    (void)context;
    if (level <= LIBOS_IPC_LOG_WARNING)
        fprintf(stderr, "process %u: %s\n", g_process.pid, message);
}

static void fatal(void* context, const char* message) {
    (void)context;
    fprintf(stderr, "process %u: fatal: %s\n", g_process.pid, message);
    abort();
}

void start(const char* base, const char* program, IDTYPE pid, IDTYPE parent_pid) {
    static const struct libos_ipc_callbacks callbacks = {
        .signal = deliver,
        .metadata = get_metadata,
        .child_died = child_died,
        .self = self,
        .log = print_log,
        .fatal = fatal,
    };
    struct libos_ipc_platform platform;
    g_process.program = program;
    g_process.pid = pid;
    g_process.parent_pid = parent_pid;
    setvbuf(stdout, NULL, _IOLBF, 0);
    check(libos_ipc_posix_platform(&platform, base, g_memory, sizeof(g_memory)), "the platform");
    check(libos_ipc_setup(&platform, &callbacks, NULL), "libos_ipc_setup");
    check(init_ipc(), "init_ipc");
    check(init_ipc_worker(), "init_ipc_worker");
    check(init_id_ranges(pid), "init_id_ranges");
    if (g_process_ipc_ids.leader_vmid == 0)
        check(init_sync_server(), "init_sync_server");
    check(init_sync_client(), "init_sync_client");
    check(init_fs_lock(), "init_fs_lock");
}

void stop(void) {
    check(file_lock_clear_pid(g_process.pid), "file_lock_clear_pid");
    check(shutdown_sync_client(), "shutdown_sync_client");
    terminate_ipc_worker();
    libos_ipc_posix_platform_end();
}

int small_thread(void* (*run)(void*), void* argument, pthread_t* thread) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 64 * 1024);
    int error = pthread_create(thread, &attributes, run, argument);
    pthread_attr_destroy(&attributes);
    return -error;
}

uint64_t count(struct sync_handle* handle, unsigned int rounds) {
    static uint64_t counter; /* this process's copy: current while the handle is locked */
    int state = rounds ? SYNC_STATE_EXCLUSIVE : SYNC_STATE_SHARED;
    uint64_t found;
    do {
        unsigned int news;
        check(libos_ipc_sync_lock(handle, state, &counter, sizeof(counter), &news),
             "libos_ipc_sync_lock");
        found = rounds ? ++counter : counter;
        sync_unlock(handle, rounds ? &counter : NULL, rounds ? sizeof(counter) : 0);
    } while (rounds && --rounds);
    return found;
}

void await(atomic_uint* counter, unsigned int least, const char* name) {
    for (int i = 0; *counter < least; i++) {
        if (i == 60000) {
            fprintf(stderr, "process %u: FAILED: no %s after 60 s\n", g_process.pid, name);
            exit(1);
        }
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
}

int check(int result, const char* what) {
    if (result < 0) {
        fprintf(stderr, "process %u: FAILED: %s: %s\n", g_process.pid, what, strerror(-result));
        exit(1);
    }
    return result;
}
