/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A process ends while its threads wait: by exit, by the return of main, and by SIGKILL. Its locks are free then. */
#include "common.h"

enum { THREADS = 8 };
/* The ways in which the process ends. */
enum { BY_EXIT, BY_RETURN, BY_SIGKILL, WAYS };
static int g_file, g_pipe[2], g_semaphore;

struct arguments {
    int way, semaphore;
    int never_written; /* a pipe to which nothing is written before the child has ended */
    int ready;         /* a pipe on which the child reports that its threads wait */
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
    ml_print("thread %d came back", number);
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
    g_pipe[0] = arguments.never_written;
    g_file = ml_open("file", O_RDWR);
    ml_print("child locks: %d", lock_bytes(g_file, F_SETLK, F_WRLCK, 10, 1));
    int pid = ml_fork(grandchild, &arguments.never_written, sizeof(int));
    for (int i = 0; i < THREADS; i++) {
        numbers[i] = i;
        ml_thread(block, &numbers[i]);
    }
    step_done(arguments.ready);
    if (arguments.way == BY_EXIT)
        ml_exit(6);
    while (arguments.way == BY_SIGKILL)
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
    for (int way = 0; way < WAYS; way++) {
        struct ml_end end;
        ml_pipe(g_pipe, O_CLOEXEC);
        struct arguments arguments = {way, ml_sem_create(0), g_pipe[0], ready[1]};
        int pid = ml_fork(child, &arguments, sizeof(arguments));
        step_wait(ready[0]);
        if (way == BY_SIGKILL)
            ml_kill(pid, SIGKILL);
        print_end("child", pid);
        ml_print("its lock is free: %d", lock_bytes(g_file, F_SETLK, F_WRLCK, 10, 1));
        lock_bytes(g_file, F_SETLK, F_UNLCK, 10, 1);
        step_done(g_pipe[1]);
        int result = ml_wait(ML_ANY, 0, 0, &end);
        ml_print("orphan: %d, %d %d", result, end.status, end.signal);
        ml_sem_remove(arguments.semaphore);
        ml_close(g_pipe[0]);
        ml_close(g_pipe[1]);
    }
    return 0;
}
