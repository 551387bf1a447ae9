/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The family is full of processes: a fork says so and leaves nothing behind, and when a child has ended there is room. */
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
            ml_say("refused: %d", ml_fork(child, &go[0], sizeof(int)));
        for (int i = 0; i < 3; i++)
            step_done(go[1]);
        for (int i = 0; i < 3; i++)
            say_end("child", pids[i]);
        ml_say("no more: %d", ml_wait(ML_ANY, 0, 0, &end));
    }
    return 0;
}
