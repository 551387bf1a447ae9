/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A follower. Its parent, in C or in Rust, passes its identity on the command line. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "family.h"

static char** g_arguments;

/* The application, on a small stack. */
static void* run(void* unused) {
    (void)unused;
    const char* base = g_arguments[1];
    g_process_ipc_ids.self_vmid = (IDTYPE)atol(g_arguments[2]);
    g_process_ipc_ids.parent_vmid = (IDTYPE)atol(g_arguments[3]);
    g_process_ipc_ids.leader_vmid = (IDTYPE)atol(g_arguments[4]);
    IDTYPE pid = (IDTYPE)atol(g_arguments[5]);
    start(base, g_arguments[0], pid, (IDTYPE)atol(g_arguments[6]));

    /* An ID of this process, as a library OS takes for a thread. */
    IDTYPE tid = get_new_id(0), owner;
    check(ipc_get_id_owner(tid, &owner), "ipc_get_id_owner");
    check(owner == g_process_ipc_ids.self_vmid ? 0 : -EPROTO, "the owner of a new ID");

    /* The shared counter. */
    struct sync_handle* counter;
    check(sync_create(&counter, COUNTER), "sync_create");
    count(counter, ROUNDS);

    /* Lock a byte that only this process locks, then a byte that all processes lock, and look up a conflict. */
    struct libos_file_lock own = {FILE_LOCK_POSIX, 1, pid, pid, pid, 0}, all = {FILE_LOCK_POSIX, 1, 0, 0, pid, 0};
    check(file_lock_set(LOCKED_FILE, &own, false), "file_lock_set: its own byte");
    check(file_lock_set(LOCKED_FILE, &all, true), "file_lock_set: the common byte");
    struct libos_file_lock other = {FILE_LOCK_POSIX, 1, 0, FS_LOCK_EOF, pid + 1, 0}, found;
    check(file_lock_get(LOCKED_FILE, &other, &found), "file_lock_get");
    check(found.type == 2 ? -EPROTO : 0, "a conflicting lock");
    all.type = 2;
    check(file_lock_set(LOCKED_FILE, &all, false), "file_lock_set: to unlock");

    /* Serve the other processes until a signal arrives. */
    printf("process %u: has counted and waits for a signal\n", pid);
    await(&g_process.signals, 1, "signal");
    sync_destroy(counter);
    release_id(tid);
    check(ipc_cld_exit_send(pid % 100, 0), "ipc_cld_exit_send");
    stop();
    return NULL;
}

int main(int argc, char** argv) {
    if (argc != 7) {
        fprintf(stderr, "usage: follower BASE VMID PARENT LEADER PID PARENT-PID\n"
                        "Started by `leader`, not by hand.\n");
        return 2;
    }
    g_arguments = argv;
    pthread_t thread;
    check(small_thread(run, NULL, &thread), "a thread");
    pthread_join(thread, NULL);
    return 0;
}
