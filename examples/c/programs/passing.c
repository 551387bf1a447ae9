/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A descriptor in a message: the lock of the open file lives until the last process has closed it. */
#include "common.h"

struct steps {
    int socket, ready, go;
};

static int try_other(void) {
    int fd = ml_open("file", O_RDWR), result = ml_flock(fd, LOCK_EX | LOCK_NB);
    ml_close(fd);
    return result;
}

static int receiver(const void* argument, size_t size) {
    struct steps steps;
    char text[4] = "";
    memcpy(&steps, argument, size);
    int first = ml_receive_fd(steps.socket), second = ml_receive_fd(steps.socket);
    ml_print("received: %d", first >= 0 && second >= 0 && first != second);
    ml_print("flock: %d %d", ml_flock(first, LOCK_EX | LOCK_NB), ml_flock(second, LOCK_EX | LOCK_NB));
    ml_print("read: %d %s", (int)ml_read(first, text, 3), text);
    ml_close(first);
    step_done(steps.ready);
    step_wait(steps.go);
    ml_close(second);
    ml_print("closed: %d", try_other());
    return 0;
}

int ml_main(int argc, char** argv) {
    int sockets[2], ready[2], go[2];
    (void)argc, (void)argv;
    ml_socketpair(sockets);
    ml_pipe(ready, 0);
    ml_pipe(go, 0);
    struct steps steps = {sockets[1], ready[1], go[0]};
    int pid = ml_fork(receiver, &steps, sizeof(steps));
    int fd = ml_open("file", O_RDWR | O_CREAT);
    ml_write(fd, "abcdef", 6);
    ml_print("seek: %d, flock: %d", (int)ml_seek(fd, 2), ml_flock(fd, LOCK_EX));
    int first = ml_send_fd(sockets[0], pid, fd), second = ml_send_fd(sockets[0], pid, fd);
    ml_close(fd);
    step_wait(ready[0]);
    ml_print("sent: %d %d", first, second);
    ml_print("the receiver has it: %d", try_other());
    step_done(go[1]);
    print_end("receiver", pid);
    return 0;
}
