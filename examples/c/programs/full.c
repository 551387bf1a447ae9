/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The family has as many processes as it can have: a fork fails and leaves nothing behind, and when a child has ended there
 * is room. */
#include "common.h"

static int child(const void* argument, size_t size) {
    int fd;
    memcpy(&fd, argument, size);
    step_wait(fd);
    return 0;
}

int ml_main(int argc, char** argv) {
    int go[2], pids[3];
    struct ml_end end;
    (void)argc, (void)argv;
    ml_pipe(go, 0);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 3; i++)
            /* A child that was reaped may still be about to leave. */
            while ((pids[i] = ml_fork(child, &go[0], sizeof(int))) == -EAGAIN)
                ;
        for (int i = 0; i < 3; i++)
            ml_print("refused: %d", ml_fork(child, &go[0], sizeof(int)));
        for (int i = 0; i < 3; i++)
            step_done(go[1]);
        for (int i = 0; i < 3; i++)
            print_end("child", pids[i]);
        ml_print("no more: %d", ml_wait(ML_ANY, 0, 0, &end));
    }
    return 0;
}
