/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The functions that several programs use. */
#pragma once

#include "ml.h"

/* Reports to the reader of the pipe that this process has reached a step. */
static inline void step_done(int fd) {
    ml_write(fd, "x", 1);
}

/* Waits until a writer of the pipe has reached a step. */
static inline void step_wait(int fd) {
    char byte;
    while (ml_read(fd, &byte, 1) == -EINTR)
        ;
}

/* Makes a call for a record lock of the bytes [start, start + length). */
static inline int lock_bytes(int fd, int command, int type, int start, int length) {
    struct flock lock = {.l_type = (short)type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    return ml_lock(fd, command, &lock);
}

/* Waits, without sleeping, until `count` calls wait for a lock of the file. It counts again and again: while other programs of
   the host lock files, the kernel lists a lock twice, or not at all. */
static inline void await_waiters(int fd, int count) {
    while (ml_lock_waiters(fd) != count)
        ;
}

/* Reaps a child and prints how it ended. */
static inline void print_end(const char* name, int pid) {
    struct ml_end end;
    int result;
    while ((result = ml_wait(ML_PID, pid, 0, &end)) == -EINTR)
        ;
    ml_print("%s: %d %d, status %d, signal %d", name, result, end.pid == pid, end.status, end.signal);
}
