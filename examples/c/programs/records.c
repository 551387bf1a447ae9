/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Record locks and locks of open files: ranges, conflicts, cycles, fork, and close of any descriptor of the file. */
#include "common.h"

struct steps {
    int ready, go;
};

static void print_lock(const char* name, int fd, int command, int start, int length, int pid) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    int result = ml_lock(fd, command, &lock);
    bool is_free = lock.l_type == F_UNLCK;
    ml_print("%s: %d, type %d, %d+%d, pid %d", name, result, lock.l_type, is_free ? 0 : (int)lock.l_start,
           is_free ? 0 : (int)lock.l_len, is_free ? 0 : lock.l_pid == -1 ? -1 : lock.l_pid == pid);
}

static int child(const void* argument, size_t size) {
    struct steps steps;
    memcpy(&steps, argument, size);
    /* Record locks are not inherited; locks of the open file are. */
    int fd = 20, parent = ml_getppid();
    print_lock("lowest conflict", fd, F_GETLK, 0, 0, parent);
    print_lock("second conflict", fd, F_GETLK, 25, 100, parent);
    print_lock("between", fd, F_GETLK, 20, 5, parent);
    print_lock("of an open file", fd, F_GETLK, 1000, 10, parent);
    print_lock("of the same open file", fd, F_OFD_GETLK, 1000, 10, parent);
    ml_print("set: %d, free: %d", lock_bytes(fd, F_SETLK, F_WRLCK, 15, 1), lock_bytes(fd, F_SETLK, F_WRLCK, 20, 1));
    ml_print("of an open file: %d", lock_bytes(fd, F_SETLK, F_RDLCK, 1005, 1));
    step_done(steps.ready);
    /* The parent waits for byte 20. To wait for its byte would be a cycle. */
    step_wait(steps.go);
    ml_print("cycle: %d", lock_bytes(fd, F_SETLKW, F_WRLCK, 15, 1));
    return 0;
}

static int wait_for_20(void* argument) {
    return lock_bytes(*(int*)argument, F_SETLKW, F_WRLCK, 20, 1);
}

int ml_main(int argc, char** argv) {
    int ready[2], go[2];
    (void)argc, (void)argv;
    ml_pipe(ready, 0);
    ml_pipe(go, 0);
    int fd = ml_open("file", O_RDWR | O_CREAT), reader = ml_open("file", O_RDONLY);
    ml_dup2(fd, 20);
    ml_print("set: %d", lock_bytes(fd, F_SETLK, F_WRLCK, 10, 10));
    ml_print("merge: %d", lock_bytes(fd, F_SETLK, F_WRLCK, 20, 30));
    ml_print("split: %d", lock_bytes(fd, F_SETLK, F_UNLCK, 20, 10));
    ml_print("of the open file: %d", lock_bytes(fd, F_OFD_SETLK, F_WRLCK, 1000, 10));
    ml_print("own: %d", lock_bytes(fd, F_SETLK, F_WRLCK, 1000, 1));
    ml_print("access: %d, range: %d %d", lock_bytes(reader, F_SETLK, F_WRLCK, 0, 1), lock_bytes(fd, F_SETLK, F_WRLCK, 5, -6),
           lock_bytes(fd, F_SETLK, F_WRLCK, 7, -2));
    struct steps steps = {ready[1], go[0]};
    int pid = ml_fork(child, &steps, sizeof(steps));
    step_wait(ready[0]);
    int tid = ml_thread(wait_for_20, &fd);
    await_waiters(fd, 1);
    step_done(go[1]);
    ml_print("granted: %d", ml_join(tid));
    print_end("child", pid);
    /* The close of any descriptor of the file ends all record locks, but not those of the open file. */
    ml_close(reader);
    int other = ml_open("file", O_RDWR);
    print_lock("after close", other, F_OFD_GETLK, 0, 1000, 0);
    print_lock("of the open file", other, F_OFD_GETLK, 0, 0, 0);
    ml_close(fd);
    ml_print("a descriptor is left: %d", lock_bytes(other, F_OFD_SETLK, F_WRLCK, 1000, 1));
    ml_close(20);
    ml_print("closed: %d", lock_bytes(other, F_OFD_SETLK, F_WRLCK, 1000, 1));
    ml_print("no descriptor: %d, a pipe: %d", lock_bytes(50, F_SETLK, F_WRLCK, 0, 1), ml_flock(50, LOCK_EX));
    return 0;
}
