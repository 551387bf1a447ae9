/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What costs no message: the close of a file that was never locked, and locks of a file that no other process locks. */
#include "common.h"

static int costs(const void* argument, size_t size) {
    (void)argument, (void)size;
    int before, fd = ml_open("file", O_RDWR | O_CREAT);
    ml_close(fd);
    before = ml_messages();
    for (int i = 0; i < 500; i++)
        ml_close(ml_open("file", O_RDWR));
    ml_say("close: %d messages", ml_messages() - before);
    fd = ml_open("file", O_RDWR);
    ml_say("lock: %d", lock_bytes(fd, F_SETLK, F_WRLCK, 0, 10));
    before = ml_messages();
    for (int i = 0; i < 500; i++)
        lock_bytes(fd, i % 2 ? F_SETLK : F_SETLKW, i % 2 ? F_WRLCK : F_UNLCK, 0, 10);
    ml_say("set and clear: %d messages", ml_messages() - before);
    return 0;
}

int ml_main(int argc, char** argv) {
    (void)argc, (void)argv;
    say_end("child", ml_fork(costs, "", 0));
    return costs("", 0);
}
