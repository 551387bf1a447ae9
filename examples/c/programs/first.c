/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The first process: its pid, group and session, its threads, and that it may end before a child is reaped. */
#include "common.h"

static int g_caught;
static void caught(int number) {
    g_caught = number;
}

static int thread(void* argument) {
    return *(int*)argument + 1;
}

static int child(const void* argument, size_t size) {
    int parent;
    memcpy(&parent, argument, size);
    ml_print("child: parent %d, group %d, session %d", ml_getppid() == parent, ml_getpgid(0) == parent, ml_getsid(0) == parent);
    return 3;
}

int ml_main(int argc, char** argv) {
    int pid = ml_getpid(), one = 1;
    ml_print("%d arguments, %d", argc, argv[0] != NULL);
    ml_print("pid %d, group %d, session %d", pid > 0, ml_getpgid(0) == pid, ml_getsid(pid) == pid);
    int first = ml_thread(thread, &one), second = ml_thread(thread, &one);
    ml_print("threads: %d %d %d", first > 0 && second > 0, first != second, first != pid && second != pid);
    int result = ml_join(first);
    ml_print("results: %d %d", result, ml_join(second));
    ml_signal(SIGUSR1, caught);
    result = ml_kill(pid, SIGUSR1);
    ml_print("kill: %d, caught %d", result, g_caught == SIGUSR1);
    ml_print("tgkill: %d, none: %d, bad: %d", ml_tgkill(pid, pid, 0), ml_kill(pid, 0), ml_kill(pid, 999));
    print_end("child", ml_fork(child, &pid, sizeof(pid)));
    return 5;
}
