/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Four threads fork at once. The children of their children count in a file under a semaphore, and are killed while they hold
 * a lock. */
#include "common.h"

enum { THREADS = 4, CHILDREN = 4, ROUNDS = 25 };
static int g_mutex;

static int grandchild(const void* argument, size_t size) {
    int mutex, value = 0, fd = ml_open("count", O_RDWR);
    memcpy(&mutex, argument, size);
    for (int i = 0; i < ROUNDS; i++) {
        ml_sem_down(mutex);
        ml_seek(fd, 0);
        ml_read(fd, &value, sizeof(value));
        value++;
        ml_seek(fd, 0);
        ml_write(fd, &value, sizeof(value));
        ml_sem_up(mutex);
    }
    lock_bytes(fd, F_SETLKW, F_WRLCK, 0, 1);
    ml_kill(ml_getpid(), SIGKILL);
    return 0;
}

static int child(const void* argument, size_t size) {
    struct ml_end end = {0};
    int pid = ml_fork(grandchild, argument, size);
    ml_wait(ML_PID, pid, 0, &end);
    return end.pid == pid && end.signal == SIGKILL ? 3 : 4;
}

static int fork_children(void* argument) {
    struct ml_end end = {0};
    int ended = 0; /* children that ended as they should */
    (void)argument;
    for (int i = 0; i < CHILDREN; i++) {
        int pid = ml_fork(child, &g_mutex, sizeof(g_mutex));
        ended += ml_wait(ML_PID, pid, 0, &end) == 0 && end.pid == pid && end.status == 3;
    }
    return ended;
}

int ml_main(int argc, char** argv) {
    int tids[THREADS], ended = 0, value = 0, fd = ml_open("count", O_RDWR | O_CREAT);
    (void)argc, (void)argv;
    ml_write(fd, &value, sizeof(value));
    g_mutex = ml_sem_create(1);
    for (int i = 0; i < THREADS; i++)
        tids[i] = ml_thread(fork_children, NULL);
    for (int i = 0; i < THREADS; i++)
        ended += ml_join(tids[i]);
    ml_seek(fd, 0);
    ml_read(fd, &value, sizeof(value));
    ml_print("children: %d, counted: %d", ended, value);
    ml_sem_remove(g_mutex);
    return 0;
}
