/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A process ends while its threads wait: by exit, by the return of main, and by SIGKILL. Its locks are free then. */
#include "common.h"

enum { THREADS = 8 };
static int g_file, g_pipe[2], g_semaphore;

struct arguments {
    int how, semaphore, never, ready;
};

static int block(void* argument) {
    int number = *(int*)argument;
    struct ml_end end;
    char byte;
    if (number % 4 == 0)
        ml_sem_down(g_semaphore);
    else if (number % 4 == 1)
        ml_read(g_pipe[0], &byte, 1);
    else if (number % 4 == 2)
        ml_wait(ML_ANY, 0, 0, &end);
    else
        lock_bytes(g_file, F_SETLKW, F_WRLCK, 0, 1);
    ml_say("thread %d came back", number);
    return 0;
}

static int grandchild(const void* argument, size_t size) {
    int fd;
    memcpy(&fd, argument, size);
    step_wait(fd);
    return 0;
}

static int child(const void* argument, size_t size) {
    static int numbers[THREADS];
    struct arguments arguments;
    memcpy(&arguments, argument, size);
    g_semaphore = arguments.semaphore;
    g_pipe[0] = arguments.never;
    g_file = ml_open("file", O_RDWR);
    ml_say("child locks: %d", lock_bytes(g_file, F_SETLK, F_WRLCK, 10, 1));
    int pid = ml_fork(grandchild, &arguments.never, sizeof(int));
    for (int i = 0; i < THREADS; i++) {
        numbers[i] = i;
        ml_thread(block, &numbers[i]);
    }
    step_done(arguments.ready);
    if (arguments.how == 0)
        ml_exit(6);
    while (arguments.how == 2)
        ml_sem_down(g_semaphore);
    return pid > 0 ? 7 : 8;
}

int ml_main(int argc, char** argv) {
    int ready[2];
    (void)argc, (void)argv;
    ml_subreaper();
    g_file = ml_open("file", O_RDWR | O_CREAT);
    lock_bytes(g_file, F_SETLK, F_WRLCK, 0, 1);
    ml_pipe(ready, 0);
    for (int how = 0; how < 3; how++) {
        struct ml_end end;
        ml_pipe(g_pipe, O_CLOEXEC);
        struct arguments arguments = {how, ml_sem_create(0), g_pipe[0], ready[1]};
        int pid = ml_fork(child, &arguments, sizeof(arguments));
        step_wait(ready[0]);
        if (how == 2)
            ml_kill(pid, SIGKILL);
        say_end("child", pid);
        ml_say("its lock is free: %d", lock_bytes(g_file, F_SETLK, F_WRLCK, 10, 1));
        lock_bytes(g_file, F_SETLK, F_UNLCK, 10, 1);
        step_done(g_pipe[1]);
        int result = ml_wait(ML_ANY, 0, 0, &end);
        ml_say("orphan: %d, %d %d", result, end.status, end.signal);
        ml_sem_remove(arguments.semaphore);
        ml_close(g_pipe[0]);
        ml_close(g_pipe[1]);
    }
    return 0;
}
