/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The calls of a shell for `exec 9>file; flock 9` and `(flock 9; work) 9>file`: children inherit the locked open file. */
#include "common.h"

struct steps {
    int ready, go, closes;
};

static int work(const void* argument, size_t size) {
    struct steps steps;
    memcpy(&steps, argument, size);
    if (steps.closes)
        ml_close(9);
    ml_print("work: flock of 9: %d", ml_flock(9, LOCK_EX | LOCK_NB));
    step_done(steps.ready);
    step_wait(steps.go);
    return 0;
}

static int locks(const void* argument, size_t size) {
    (void)argument, (void)size;
    ml_print("child locks: %d", ml_flock(9, LOCK_EX));
    return 0;
}

static int try_other(void) {
    int fd = ml_open("file", O_RDWR), result = ml_flock(fd, LOCK_EX | LOCK_NB);
    ml_close(fd);
    return result;
}

int ml_main(int argc, char** argv) {
    int ready[2], go[2];
    (void)argc, (void)argv;
    ml_pipe(ready, 0);
    ml_pipe(go, 0);
    for (int closes = 0; closes < 2; closes++) {
        int fd = ml_open("file", O_WRONLY | O_CREAT);
        ml_print("exec 9>file: %d", ml_dup2(fd, 9));
        ml_close(fd);
        ml_print("flock 9: %d", ml_flock(9, LOCK_EX));
        struct steps steps = {ready[1], go[0], closes};
        int pid = ml_fork(work, &steps, sizeof(steps));
        step_wait(ready[0]);
        ml_print("another open file: %d", try_other());
        ml_close(9);
        /* The child has the open file still, unless it closed it. */
        ml_print("after the shell closed it: %d", try_other());
        step_done(go[1]);
        print_end("work", pid);
        ml_print("after the work: %d", try_other());
    }
    ml_dup2(ml_open("file", O_WRONLY), 9);
    print_end("child", ml_fork(locks, "", 0));
    ml_print("its lock stays: %d", try_other());
    for (int fd = 3; fd < 12; fd++)
        ml_close(fd);
    ml_print("all closed: %d", try_other());
    return 0;
}
