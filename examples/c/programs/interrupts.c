/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A handler interrupts each call that blocks: in the first process and in a child, in the main thread and in another. */
#include "common.h"

static int g_file, g_semaphore;
static int g_never_written[2]; /* a pipe */
static void caught(int number) {
    (void)number;
}

static struct call {
    const char* name;
    int result;
    bool is_done;
} g_calls[] = {{"F_SETLKW", 0, 0}, {"F_OFD_SETLKW", 0, 0}, {"flock", 0, 0}, {"wait", 0, 0}, {"read", 0, 0}, {"semaphore", 0, 0}};

static int child(const void* argument, size_t size) {
    int fd;
    memcpy(&fd, argument, size);
    step_wait(fd);
    return 0;
}

static int block(void* argument) {
    struct call* call = argument;
    struct ml_end end;
    char byte;
    int number = (int)(call - g_calls), other = ml_open("file", O_RDWR);
    call->result = number == 0   ? lock_bytes(other, F_SETLKW, F_WRLCK, 0, 1)
                   : number == 1 ? lock_bytes(other, F_OFD_SETLKW, F_WRLCK, 0, 1)
                   : number == 2 ? ml_flock(other, LOCK_EX)
                   : number == 3 ? ml_wait(ML_ANY, 0, 0, &end)
                   : number == 4 ? (int)ml_read(g_never_written[0], &byte, 1)
                                 : ml_sem_down(g_semaphore);
    __atomic_store_n(&call->is_done, true, __ATOMIC_SEQ_CST);
    return 0;
}

/* A signal that arrives before the call interrupts nothing, so it is sent until one does. */
static void interrupt(struct call* call) {
    int tid = ml_thread(block, call);
    while (!__atomic_load_n(&call->is_done, __ATOMIC_SEQ_CST))
        ml_tgkill(ml_getpid(), tid, SIGUSR1);
    ml_join(tid);
    ml_print("%s: %d", call->name, call->result);
    call->is_done = false;
}

static int interrupt_all(const void* argument, size_t size) {
    int go[2];
    (void)argument, (void)size;
    g_file = ml_open("file", O_RDWR);
    ml_signal(SIGUSR1, caught);
    ml_pipe(g_never_written, O_CLOEXEC);
    ml_pipe(go, 0);
    g_semaphore = ml_sem_create(0);
    int pid = ml_fork(child, &go[0], sizeof(int));
    for (size_t i = 0; i < sizeof(g_calls) / sizeof(g_calls[0]); i++)
        interrupt(&g_calls[i]);
    step_done(go[1]);
    print_end("child", pid);
    ml_sem_remove(g_semaphore);
    return 0;
}

struct pipes {
    int ready, go;
};

/* Holds each kind of lock. */
static int holder(const void* argument, size_t size) {
    struct pipes pipes;
    memcpy(&pipes, argument, size);
    int fd = ml_open("file", O_RDWR);
    ml_print("holds: %d %d", lock_bytes(fd, F_SETLK, F_WRLCK, 0, 1), ml_flock(fd, LOCK_EX));
    step_done(pipes.ready);
    step_wait(pipes.go);
    return 0;
}

int ml_main(int argc, char** argv) {
    int ready[2], go[2];
    (void)argc, (void)argv;
    ml_pipe(ready, 0);
    ml_pipe(go, 0);
    ml_close(ml_open("file", O_RDWR | O_CREAT));
    struct pipes pipes = {ready[1], go[0]};
    int pid = ml_fork(holder, &pipes, sizeof(pipes));
    step_wait(ready[0]);
    print_end("in a child", ml_fork(interrupt_all, "", 0));
    step_done(go[1]);
    print_end("holder", pid);
    ml_fork(holder, &pipes, sizeof(pipes));
    step_wait(ready[0]);
    g_file = ml_open("file", O_RDWR);
    int main_go = go[1];
    /* Here the holder is a child, too: waiting for it blocks. */
    interrupt_all("", 0);
    step_done(main_go);
    struct ml_end end;
    ml_print("last: %d", ml_wait(ML_ANY, 0, 0, &end));
    return 0;
}
