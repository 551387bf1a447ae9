/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* How children end, and the options of wait. */
#include "common.h"

static int g_go[2]; /* the pipe on which the child waits */

static int child(const void* argument, size_t size) {
    int fd;
    memcpy(&fd, argument, size);
    step_wait(fd);
    return 7;
}

/* Ends in a way that depends on the number: with an exit status of more than 8 bits, or by that signal. */
static int end_by_number(const void* argument, size_t size) {
    int number;
    memcpy(&number, argument, size);
    if (number == SIGUSR1)
        ml_exit(300);
    ml_kill(ml_getpid(), number);
    return 1;
}

/* Waits, and prints the result, whether the child is `pid`, and how it ended. */
static void print_wait(const char* name, enum ml_which which, int id, int options, int pid) {
    struct ml_end end = {0};
    int result = ml_wait(which, id, options, &end);
    ml_print("%s: %d, %d, %d %d", name, result, end.pid == pid, end.status, end.signal);
}

int ml_main(int argc, char** argv) {
    (void)argc, (void)argv;
    print_wait("no child", ML_ANY, 0, 0, 0);
    ml_pipe(g_go, 0);
    int pid = ml_fork(child, &g_go[0], sizeof(int));
    print_wait("living", ML_PID, pid, WNOHANG, 0);
    print_wait("group", ML_GROUP, ml_getpgid(0), WNOHANG, 0);
    print_wait("other group", ML_GROUP, pid, WNOHANG, 0);
    print_wait("not a child", ML_PID, ml_getpid(), 0, 0);
    step_done(g_go[1]);
    print_wait("peek", ML_ANY, 0, WNOWAIT, pid);
    print_wait("peek", ML_PID, pid, WNOWAIT | WNOHANG, pid);
    ml_print("zombie: %d, its group %d", ml_kill(pid, SIGTERM), ml_getpgid(pid) == ml_getpgid(0));
    print_wait("reap", ML_ANY, 0, 0, pid);
    print_wait("again", ML_PID, pid, 0, 0);
    ml_print("kill: %d", ml_kill(pid, 0));
    static const int numbers[] = {SIGKILL, SIGTERM, SIGUSR1, SIGCHLD};
    for (int i = 0; i < 4; i++)
        print_end("ends", ml_fork(end_by_number, &numbers[i], sizeof(int)));
    return 0;
}
