/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Orphans become children of the next reaper among their ancestors: it waits for them, gets SIGCHLD, and is their parent. */
#include "common.h"

struct pipes {
    int go[2], orphaned[2];
    int reaper;
};
static int g_signals;
static void count(int number) {
    g_signals += number == SIGCHLD;
}

static int orphan(const void* argument, size_t size) {
    struct pipes pipes;
    (void)size;
    memcpy(&pipes, argument, sizeof(pipes));
    step_wait(pipes.go[0]);
    ml_print("orphan: its parent is the reaper: %d", ml_getppid() == pipes.reaper);
    return 9;
}

static int middle(const void* argument, size_t size) {
    for (int i = 0; i < 2; i++)
        ml_fork(orphan, argument, size);
    return 8;
}

static int reaper(const void* argument, size_t size) {
    struct pipes pipes;
    memcpy(&pipes, argument, sizeof(pipes));
    struct ml_end end;
    pipes.reaper = ml_getpid();
    ml_subreaper();
    uint64_t all = ml_sigmask(ML_BIT(SIGCHLD));
    ml_signal(SIGCHLD, count);
    print_end("middle", ml_fork(middle, &pipes, size));
    int living = ml_wait(ML_ANY, 0, WNOHANG, &end);
    ml_print("orphans live: %d, pid %d", living, end.pid);
    for (int i = 1; i <= 2; i++) {
        step_done(pipes.go[1]);
        int result = ml_wait(ML_ANY, 0, 0, &end);
        ml_print("orphan: %d, status %d", result, end.status);
    }
    ml_print("no more: %d", ml_wait(ML_ANY, 0, 0, &end));
    while (g_signals == 0)
        ml_sigsuspend(all);
    ml_print("SIGCHLD: yes");
    return 0;
}

int ml_main(int argc, char** argv) {
    struct pipes pipes;
    (void)argc, (void)argv;
    ml_pipe(pipes.go, 0);
    print_end("reaper", ml_fork(reaper, &pipes, sizeof(pipes)));
    return reaper(&pipes, sizeof(pipes));
}
