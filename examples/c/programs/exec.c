/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* exec keeps the pid, record locks, ignored signals, the mask and descriptors. It ends the descriptors with O_CLOEXEC and
 * their locks, handlers, threads, and memory. The program executes itself. */
#include "common.h"

static int g_memory = 1;
static void caught(int number) {
    (void)number;
}

static int wait_for_lock(void* argument) {
    (void)argument;
    int fd = ml_open("file", O_RDWR);
    ml_print("thread came back: %d", lock_bytes(fd, F_SETLKW, F_WRLCK, 0, 1));
    return 0;
}

/* Before the exec, in a child. */
static int before(const void* argument, size_t size) {
    char pid[16];
    (void)argument, (void)size;
    g_memory = 2;
    int kept = ml_open("kept", O_RDWR | O_CREAT), gone = ml_open("gone", O_RDWR | O_CREAT | O_CLOEXEC);
    ml_dup2(kept, 20);
    ml_dup2(gone, 21);
    ml_set_cloexec(21, true);
    ml_close(gone);
    ml_print("locks: %d %d %d", ml_flock(20, LOCK_EX), ml_flock(21, LOCK_EX), lock_bytes(20, F_SETLK, F_WRLCK, 0, 1));
    ml_signal(SIGUSR1, SIG_IGN);
    ml_signal(SIGUSR2, caught);
    ml_sigmask(ML_BIT(SIGTERM));
    ml_kill(ml_getpid(), SIGTERM);
    ml_thread(wait_for_lock, NULL);
    snprintf(pid, sizeof(pid), "%d", ml_getpid());
    char* arguments[] = {"exec", pid, NULL};
    ml_print("no program: %d", ml_exec("missing", arguments));
    return ml_exec("exec", arguments);
}

/* After it. */
static int after(const char* pid) {
    char own[16];
    int kept = ml_open("kept", O_RDWR), gone = ml_open("gone", O_RDWR);
    snprintf(own, sizeof(own), "%d", ml_getpid());
    ml_print("same pid: %d, memory %d", strcmp(own, pid) == 0, g_memory);
    ml_print("flock: kept %d, gone %d", ml_flock(kept, LOCK_EX | LOCK_NB), ml_flock(gone, LOCK_EX | LOCK_NB));
    ml_print("descriptors: kept %d, gone %d", ml_set_cloexec(20, false), ml_set_cloexec(21, false));
    ml_print("ignored: %d", ml_kill(ml_getpid(), SIGUSR1));
    ml_print("mask: %d", ml_sigmask(ML_BIT(SIGTERM) | ML_BIT(SIGUSR2)) == ML_BIT(SIGTERM));
    /* The signal from before the exec is pending still, and has no handler. */
    ml_sigmask(0);
    return 1;
}

int ml_main(int argc, char** argv) {
    if (argc == 2)
        return after(argv[1]);
    int fd = ml_open("file", O_RDWR | O_CREAT);
    lock_bytes(fd, F_SETLK, F_WRLCK, 0, 1);
    int pid = ml_fork(before, "", 0);
    print_end("child", pid);
    ml_print("setpgid of no child: %d", ml_setpgid(pid, 0));
    return 0;
}
