/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The close of a file that was never locked, and locks of a file that no other process locks, need no message. */
#include <limits.h>

#include "common.h"

#define ROUNDS 20
#define CALLS 500

static void open_and_close(int fd) {
    (void)fd;
    ml_close(ml_open("file", O_RDWR));
}

static void set_and_clear(int fd) {
    lock_bytes(fd, F_SETLKW, F_UNLCK, 0, 10);
    lock_bytes(fd, F_SETLK, F_WRLCK, 0, 10);
}

/* The smallest number of messages that a round of calls takes: a library OS that answers other processes at the same
   time, such as a child that leaves, counts these messages in that round. */
static int least_messages(void (*calls)(int fd), int fd) {
    int least = INT_MAX;
    for (int round = 0; round < ROUNDS && least > 0; round++) {
        int before = ml_messages();
        for (int i = 0; i < CALLS; i++)
            calls(fd);
        int sent = ml_messages() - before;
        least = sent < least ? sent : least;
    }
    return least;
}

static int print_costs(const void* argument, size_t size) {
    (void)argument, (void)size;
    int fd = ml_open("file", O_RDWR | O_CREAT);
    ml_close(fd);
    ml_print("close: %d messages", least_messages(open_and_close, fd));
    fd = ml_open("file", O_RDWR);
    ml_print("lock: %d", lock_bytes(fd, F_SETLK, F_WRLCK, 0, 10));
    ml_print("set and clear: %d messages", least_messages(set_and_clear, fd));
    return 0;
}

int ml_main(int argc, char** argv) {
    (void)argc, (void)argv;
    print_end("child", ml_fork(print_costs, "", 0));
    return print_costs("", 0);
}
