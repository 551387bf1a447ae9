/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* 64 threads wait for locks. The process can make all other calls meanwhile: unlock, close, fork, send signals, start
 * threads. */
#include "common.h"

enum { THREADS = 64 };
static int g_file, g_caught;
static void caught(int number) {
    g_caught = number;
}

static int wait_for_lock(void* argument) {
    int byte = *(int*)argument;
    return lock_bytes(g_file, F_SETLKW, F_WRLCK, byte, 1);
}

struct pipes {
    int ready, go;
};

static int holder(const void* argument, size_t size) {
    struct pipes pipes;
    memcpy(&pipes, argument, size);
    int fd = ml_open("file", O_RDWR);
    ml_print("holder: %d", lock_bytes(fd, F_SETLK, F_WRLCK, 0, THREADS));
    step_done(pipes.ready);
    step_wait(pipes.go);
    return 0;
}

static int child(const void* argument, size_t size) {
    int fd = ml_open("other", O_RDWR);
    (void)argument, (void)size;
    return lock_bytes(fd, F_SETLK, F_WRLCK, 0, 1) == -EAGAIN ? 1 : 0;
}

static int return_1(void* argument) {
    (void)argument;
    return 1;
}

static void wait_in_all_threads(const char* name) {
    static int bytes[THREADS];
    int ready[2], go[2], tids[THREADS], granted = 0;
    ml_pipe(ready, 0);
    ml_pipe(go, 0);
    g_file = ml_open("file", O_RDWR | O_CREAT);
    int other = ml_open("other", O_RDWR | O_CREAT);
    struct pipes pipes = {ready[1], go[0]};
    int pid = ml_fork(holder, &pipes, sizeof(pipes));
    step_wait(ready[0]);
    ml_print("%s locks: %d %d", name, lock_bytes(other, F_SETLK, F_WRLCK, 0, 10), ml_flock(other, LOCK_EX));
    for (int i = 0; i < THREADS; i++) {
        bytes[i] = i;
        tids[i] = ml_thread(wait_for_lock, &bytes[i]);
    }
    await_waiters(g_file, THREADS);
    ml_signal(SIGUSR1, caught);
    ml_sigmask(ML_BIT(SIGUSR2));
    int result = ml_kill(ml_getpid(), SIGUSR2);
    ml_print("kill: %d, of the holder: %d", result, ml_kill(pid, 0));
    print_end("child", ml_fork(child, "", 0));
    ml_print("unlock: %d %d", lock_bytes(other, F_SETLK, F_UNLCK, 0, 5), ml_flock(other, LOCK_UN));
    ml_print("close: %d", ml_close(other));
    print_end("child", ml_fork(child, "", 0));
    ml_print("thread: %d", ml_join(ml_thread(return_1, NULL)));
    await_waiters(g_file, THREADS);
    ml_print("all wait still");
    step_done(go[1]);
    for (int i = 0; i < THREADS; i++)
        granted += ml_join(tids[i]) == 0;
    ml_print("granted: %d", granted);
    print_end("holder", pid);
    ml_close(g_file);
}

static int wait_in_child(const void* argument, size_t size) {
    (void)argument, (void)size;
    wait_in_all_threads("child");
    return 0;
}

int ml_main(int argc, char** argv) {
    (void)argc, (void)argv;
    ml_signal(SIGUSR2, SIG_IGN);
    print_end("crowd", ml_fork(wait_in_child, "", 0));
    wait_in_all_threads("first process");
    return 0;
}
