/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Forks that fail leave nothing behind: no child, no pid, and no holder of an open file. */
#include "common.h"

static int child(const void* argument, size_t size) {
    (void)argument, (void)size;
    return 2;
}

/* Forks many times in vain, and once with success. */
static int many(const void* argument, size_t size) {
    struct ml_end end;
    int failed = 0;
    (void)argument, (void)size;
    int fd = ml_open("file", O_RDWR | O_CREAT), other = ml_open("file", O_RDWR);
    ml_print("flock: %d", ml_flock(fd, LOCK_EX));
    for (int i = 0; i < 300; i++) {
        ml_fail_next_fork();
        failed += ml_fork(child, "", 0) == -EAGAIN;
    }
    ml_print("failed: %d, children: %d", failed, ml_wait(ML_ANY, 0, WNOHANG, &end));
    ml_close(fd);
    ml_print("flock of another open file: %d", ml_flock(other, LOCK_EX | LOCK_NB));
    print_end("next", ml_fork(child, "", 0));
    return 0;
}

int ml_main(int argc, char** argv) {
    (void)argc, (void)argv;
    print_end("in a child", ml_fork(many, "", 0));
    return many("", 0);
}
