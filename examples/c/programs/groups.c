/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Process groups and sessions, and signals for groups. */
#include "common.h"

static int g_ready[2];
static int g_caught;
static void caught(int number) {
    g_caught = number;
}

struct pipes {
    int ready, handles;
};

static int member(const void* argument, size_t size) {
    struct pipes pipes;
    memcpy(&pipes, argument, size);
    uint64_t mask = ml_sigmask(ML_BIT(SIGUSR1));
    if (pipes.handles)
        ml_signal(SIGUSR1, caught);
    step_done(pipes.ready);
    return ml_sigsuspend(mask) == -EINTR && g_caught == SIGUSR1 ? 4 : 5;
}

static int leader(const void* argument, size_t size) {
    int pid = ml_getpid(), session = ml_setsid();
    (void)argument, (void)size;
    ml_say("setsid: %d, group %d, again %d", session == pid, ml_getpgid(0) == pid, ml_setsid());
    ml_say("setpgid of a session leader: %d", ml_setpgid(0, 0));
    ml_say("setpgid to another session: %d", ml_setpgid(0, ml_getppid()));
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
        ml_say("setpgid: %d", ml_setpgid(pids[i], i == 3 ? 0 : group));
        group = group ? group : pids[0];
        ml_say("group: %d", ml_getpgid(pids[i]) == (i == 3 ? pids[3] : group));
    }
    for (int i = 0; i < 4; i++)
        step_wait(g_ready[0]);
    ml_say("exists: %d", ml_kill(-group, 0));
    ml_say("kill: %d", ml_kill(-group, SIGUSR1));
    for (int i = 0; i < 3; i++)
        say_end("member", pids[i]);
    ml_say("empty group: %d", ml_kill(-group, SIGUSR1));
    ml_say("no such group: %d", ml_setpgid(0, pids[3] + 1000));
    ml_signal(SIGUSR2, caught);
    int result = ml_kill(0, SIGUSR2);
    ml_say("own group: %d, caught %d", result, g_caught == SIGUSR2);
    ml_kill(-pids[3], SIGKILL);
    say_end("other group", pids[3]);
    say_end("session", ml_fork(leader, "", 0));
    ml_say("negative: %d, no process: %d", ml_setpgid(0, -1), ml_setpgid(pids[0], 0));
    return 0;
}
