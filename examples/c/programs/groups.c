/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Process groups and sessions, and signals for groups. */
#include "common.h"

static int g_ready[2];
static int g_caught;
static void caught(int number) {
    g_caught = number;
}

struct pipes {
    int ready;
    bool handles_signal;
};

static int member(const void* argument, size_t size) {
    struct pipes pipes;
    memcpy(&pipes, argument, size);
    uint64_t mask = ml_sigmask(ML_BIT(SIGUSR1));
    if (pipes.handles_signal)
        ml_signal(SIGUSR1, caught);
    step_done(pipes.ready);
    return ml_sigsuspend(mask) == -EINTR && g_caught == SIGUSR1 ? 4 : 5;
}

static int leader(const void* argument, size_t size) {
    int pid = ml_getpid(), session = ml_setsid();
    (void)argument, (void)size;
    ml_print("setsid: %d, group %d, again %d", session == pid, ml_getpgid(0) == pid, ml_setsid());
    ml_print("setpgid of a session leader: %d", ml_setpgid(0, 0));
    ml_print("setpgid to another session: %d", ml_setpgid(0, ml_getppid()));
    return 0;
}

int ml_main(int argc, char** argv) {
    (void)argc, (void)argv;
    ml_pipe(g_ready, 0);
    int pids[4], group = 0;
    for (int i = 0; i < 4; i++) {
        struct pipes pipes = {g_ready[1], i != 1};
        pids[i] = ml_fork(member, &pipes, sizeof(pipes));
        /* The first three are one group. */
        ml_print("setpgid: %d", ml_setpgid(pids[i], i == 3 ? 0 : group));
        group = group ? group : pids[0];
        ml_print("group: %d", ml_getpgid(pids[i]) == (i == 3 ? pids[3] : group));
    }
    for (int i = 0; i < 4; i++)
        step_wait(g_ready[0]);
    ml_print("exists: %d", ml_kill(-group, 0));
    ml_print("kill: %d", ml_kill(-group, SIGUSR1));
    for (int i = 0; i < 3; i++)
        print_end("member", pids[i]);
    ml_print("empty group: %d", ml_kill(-group, SIGUSR1));
    ml_print("no such group: %d", ml_setpgid(0, pids[3] + 1000));
    ml_signal(SIGUSR2, caught);
    int result = ml_kill(0, SIGUSR2);
    ml_print("own group: %d, caught %d", result, g_caught == SIGUSR2);
    ml_kill(-pids[3], SIGKILL);
    print_end("other group", pids[3]);
    print_end("session", ml_fork(leader, "", 0));
    ml_print("negative: %d, no process: %d", ml_setpgid(0, -1), ml_setpgid(pids[0], 0));
    return 0;
}
