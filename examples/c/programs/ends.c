/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* How children end, and the options of wait. */
#include "common.h"

static int g_go[2];

static int child(const void* argument, size_t size) {
    int number;
    memcpy(&number, argument, size);
    step_wait(number);
    return 7;
}

static int dies(const void* argument, size_t size) {
    int number;
    memcpy(&number, argument, size);
    if (number == SIGUSR1)
        ml_exit(300);
    ml_kill(ml_getpid(), number);
    return 1;
}

static void say(const char* name, enum ml_which which, int id, int options, int pid) {
    struct ml_end end = {0};
    int result = ml_wait(which, id, options, &end);
    ml_say("%s: %d, %d, %d %d", name, result, end.pid == pid, end.status, end.signal);
}

int ml_main(int argc, char** argv) {
    (void)argc, (void)argv;
    say("no child", ML_ANY, 0, 0, 0);
    ml_pipe(g_go, 0);
    int pid = ml_fork(child, &g_go[0], sizeof(int));
    say("living", ML_PID, pid, WNOHANG, 0);
    say("group", ML_GROUP, ml_getpgid(0), WNOHANG, 0);
    say("other group", ML_GROUP, pid, WNOHANG, 0);
    say("not a child", ML_PID, ml_getpid(), 0, 0);
    step_done(g_go[1]);
    say("peek", ML_ANY, 0, WNOWAIT, pid);
    say("peek", ML_PID, pid, WNOWAIT | WNOHANG, pid);
    ml_say("zombie: %d, its group %d", ml_kill(pid, SIGTERM), ml_getpgid(pid) == ml_getpgid(0));
    say("reap", ML_ANY, 0, 0, pid);
    say("again", ML_PID, pid, 0, 0);
    ml_say("kill: %d", ml_kill(pid, 0));
    static const int numbers[] = {SIGKILL, SIGTERM, SIGUSR1, SIGCHLD};
    for (int i = 0; i < 4; i++)
        say_end("ends", ml_fork(dies, &numbers[i], sizeof(int)));
    return 0;
}
