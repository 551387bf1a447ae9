/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The leader of a family of C processes and one Rust process. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "family.h"

#define MAX_CHILDREN 16

static char** g_programs;
static IDTYPE g_pids[MAX_CHILDREN];
static unsigned int g_count; /* children that were started */

/* Starts a member: takes a VMID, transfers a pid to it, and starts a process with both on its command line. */
static IDTYPE start_child(const char* base, const char* program) {
    IDTYPE vmid;
    check(ipc_get_new_vmid(&vmid), "ipc_get_new_vmid");
    IDTYPE pid = get_new_id(vmid);
    check(pid ? 0 : -EAGAIN, "get_new_id");
    char numbers[5][16];
    IDTYPE values[5] = {vmid, g_process_ipc_ids.self_vmid, g_process_ipc_ids.self_vmid, pid,
                        g_process.pid};
    for (int i = 0; i < 5; i++)
        snprintf(numbers[i], sizeof(numbers[i]), "%u", values[i]);
    pid_t child = fork();
    check(child < 0 ? -errno : 0, "fork");
    if (child == 0) {
        execl(program, program, base, numbers[0], numbers[1], numbers[2], numbers[3], numbers[4],
              (char*)NULL);
        fprintf(stderr, "leader: FAILED: %s: %s\n", program, strerror(errno));
        _exit(1);
    }
    return pid;
}

/* Queries the program of a child, again and again until the child has joined. */
static void check_metadata(IDTYPE pid) {
    struct libos_ipc_pid_retmeta* answer = NULL;
    int result = -ESRCH;
    for (int i = 0; result == -ESRCH && i < 60000; i++) {
        result = ipc_pid_getmeta(pid, PID_META_EXEC, &answer);
        if (result == -ESRCH)
            usleep(1000);
    }
    check(result, "ipc_pid_getmeta");
    printf("leader: process %u is %s\n", pid, answer->data);
    free(answer);
}

/* The application, on a small stack. */
static void* run(void* unused) {
    (void)unused;
    char directory[] = "/tmp/libos-ipc-XXXXXX", base[64];
    check(mkdtemp(directory) ? 0 : -errno, "mkdtemp");
    snprintf(base, sizeof(base), "%s/family", directory);
    start(base, "leader", 0, 0);
    g_process.pid = get_new_id(0);

    struct sync_handle* counter;
    check(sync_create(&counter, COUNTER), "sync_create");
    count(counter, 1);
    for (char** program = g_programs; *program && g_count < MAX_CHILDREN; program++)
        g_pids[g_count++] = start_child(base, *program);
    for (unsigned int i = 0; i < g_count; i++)
        check_metadata(g_pids[i]);
    count(counter, ROUNDS - 1);

    /* The others have finished when the counter has the sum of all increments. */
    uint64_t total = 0, expected = (uint64_t)ROUNDS * (g_count + 1);
    for (int i = 0; total < expected && i < 60000; i++) {
        total = count(counter, 0);
        usleep(1000);
    }
    printf("leader: %u processes have counted to %lu\n", g_count + 1, (unsigned long)total);
    for (unsigned int i = 0; i < g_count; i++)
        check(ipc_kill_process(g_process.pid, g_pids[i], SIGNAL), "ipc_kill_process");
    await(&g_process.ended, g_count, "exit of all children");
    for (unsigned int i = 0; i < g_count; i++) {
        int status;
        check(wait(&status) < 0 ? -errno : 0, "wait");
        check(status == 0 ? 0 : -EPROTO, "the status of a child");
    }

    struct libos_ipc_statistics statistics;
    check(libos_ipc_get_statistics(&statistics), "libos_ipc_get_statistics");
    printf("leader: %lu messages came, %lu went; locks left: %lu\n",
           (unsigned long)statistics.frames_in, (unsigned long)statistics.frames_out,
           (unsigned long)statistics.locks.now);
    check(total == expected ? 0 : -EPROTO, "the counter");
    check(g_process.ended_well == g_count ? 0 : -EPROTO, "the exit codes");
    check(statistics.locks.now == 0 ? 0 : -EPROTO, "the locks that are left");
    stop();
    rmdir(directory);
    printf("c family: ok\n");
    return NULL;
}

int main(int argc, char** argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: leader PROGRAM...\n"
                        "Leads a family, with one member for each PROGRAM: it is started with\n"
                        "BASE VMID PARENT LEADER PID PARENT-PID.\n");
        return 2;
    }
    g_programs = argv + 1;
    pthread_t thread;
    check(small_thread(run, NULL, &thread), "a thread");
    pthread_join(thread, NULL);
    return 0;
}
