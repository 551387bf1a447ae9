/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The stock platform on its own: each test is named by the argument. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libos_ipc_posix.h"

static _Alignas(16) unsigned char g_memory[64];
static struct libos_ipc_platform p;
static char g_path[256];

static void is(long long result, long long expected, const char* what) {
    if (result != expected) {
        fprintf(stderr, "%s is %lld, not %lld\n", what, result, expected);
        exit(1);
    }
}
#define IS(call, expected) is(call, expected, #call)

static uint64_t in_seconds(unsigned int seconds) {
    return p.now(p.context) + seconds * UINT64_C(1000000000);
}

/* Two threads hand an event back and forth. A lost wake-up lets the wait last until its time limit. */
static void *g_ping, *g_pong;
enum { ROUNDS = 2000 };
static atomic_int g_sets;

static void* set_often(void* unused) {
    (void)unused;
    for (int round = 0; round < ROUNDS; round++) {
        while (p.event_is_set(p.context, g_ping))
            p.yield(p.context);
        p.event_set(p.context, g_ping);
        p.event_set(p.context, g_ping);
        atomic_fetch_add(&g_sets, 1);
    }
    return NULL;
}

static void events(void) {
    pthread_t thread;
    IS(p.event_create(p.context, &g_ping), 0);
    IS(pthread_create(&thread, NULL, set_often, NULL), 0);
    /* Each pass clears the event while the other thread sets it. Afterwards the flag and the descriptor must agree: a set
     * event ends the wait. */
    while (atomic_load(&g_sets) < ROUNDS) {
        p.event_clear(p.context, g_ping);
        if (p.event_is_set(p.context, g_ping)) {
            uint64_t until = in_seconds(60);
            p.event_wait(p.context, g_ping, until);
            IS(p.now(p.context) < until, 1);
        }
    }
    pthread_join(thread, NULL);
    p.event_clear(p.context, g_ping);
    IS(p.event_is_set(p.context, g_ping), 0);
    IS(p.wait_readable(p.context, NULL, g_ping, 0), LIBOS_IPC_WOKEN_TIME);
    p.event_set(p.context, g_ping);
    IS(p.wait_readable(p.context, NULL, g_ping, LIBOS_IPC_FOREVER), LIBOS_IPC_WOKEN_EVENT);
}

/* A wake from another thread ends the wait that is under way, or else the next one. */
static atomic_int g_waits;
static void* wake_often(void* unused) {
    (void)unused;
    for (int round = 0; round < ROUNDS; round++) {
        int before = atomic_load(&g_waits);
        p.wake(p.context);
        while (atomic_load(&g_waits) == before)
            p.yield(p.context);
    }
    atomic_store(&g_waits, -1);
    p.wake(p.context);
    return NULL;
}

static void wakes(void) {
    pthread_t thread;
    struct libos_ipc_ready ready[4];
    IS(pthread_create(&thread, NULL, wake_often, NULL), 0);
    while (atomic_load(&g_waits) >= 0) {
        uint64_t until = in_seconds(60);
        IS(p.wait(p.context, ready, 4, until), 0);
        IS(p.now(p.context) < until, 1);
        int seen = atomic_load(&g_waits);
        if (seen >= 0)
            atomic_compare_exchange_strong(&g_waits, &seen, seen + 1);
    }
    pthread_join(thread, NULL);
}

static void on_signal(int number) {
    (void)number;
    p.event_set(p.context, g_pong);
    p.wake(p.context);
}

/* Signals interrupt every system call of the platform, and the handler sets an event and wakes. */
static void signals(void) {
    struct sigaction action = {.sa_handler = on_signal};
    struct itimerval often = {{0, 50}, {0, 50}}, off = {{0, 0}, {0, 0}};
    IS(p.event_create(p.context, &g_ping), 0);
    IS(p.event_create(p.context, &g_pong), 0);
    IS(sigaction(SIGALRM, &action, NULL), 0);
    IS(setitimer(ITIMER_REAL, &often, NULL), 0);
    struct libos_ipc_ready ready[4];
    for (int round = 0; round < 2000; round++) {
        p.event_set(p.context, g_ping);
        p.event_clear(p.context, g_ping);
        p.wait(p.context, ready, 4, 0);
        while (!p.event_is_set(p.context, g_pong))
            p.event_wait(p.context, g_pong, in_seconds(60));
        p.event_clear(p.context, g_pong);
    }
    IS(setitimer(ITIMER_REAL, &off, NULL), 0);
    p.event_clear(p.context, g_pong);
    IS(p.wait_readable(p.context, NULL, g_ping, 0), LIBOS_IPC_WOKEN_TIME);
    IS(p.wait_readable(p.context, NULL, g_pong, 0), LIBOS_IPC_WOKEN_TIME);
}

/* A process connects to itself, and sends a byte. */
static void connect_to_self(void) {
    struct libos_ipc_ready ready[4];
    void *out, *in;
    char byte = 'x';
    IS(p.connect(p.context, 2, &out), -ENOENT);
    IS(p.connect(p.context, 7, &out), 0);
    IS(p.wait(p.context, ready, 4, in_seconds(60)), 1);
    IS(ready[0].token == LIBOS_IPC_LISTENER, 1);
    IS(p.accept(p.context, &in), 0);
    IS(p.accept(p.context, &in), -EAGAIN);
    IS(p.watch(p.context, in, 42, LIBOS_IPC_READ), 0);
    IS(p.read(p.context, in, &byte, 1), -EAGAIN);
    IS(p.write(p.context, out, &byte, 1), 1);
    IS(p.wait(p.context, ready, 4, in_seconds(60)), 1);
    IS(ready[0].token, 42);
    IS(p.read(p.context, in, &byte, 1), 1);
    /* A forked process keeps a copy of each descriptor. The end of the stream arrives all the same. */
    int hold[2];
    IS(pipe(hold), 0);
    pid_t child = fork();
    if (child == 0) {
        close(hold[1]);
        libos_ipc_posix_platform_end();
        _exit(read(hold[0], &byte, 1) != 0);
    }
    p.close(p.context, out);
    IS(p.wait(p.context, ready, 4, in_seconds(60)), 1);
    IS(ready[0].readiness & LIBOS_IPC_HANG_UP, LIBOS_IPC_HANG_UP);
    IS(p.read(p.context, in, &byte, 1), 0);
    p.unwatch(p.context, in);
    p.close(p.context, in);
    close(hold[0]);
    close(hold[1]);
    int status = 1;
    IS(waitpid(child, &status, 0) == child, 1);
    IS(status, 0);
    /* The child's call of libos_ipc_posix_platform_end() left the socket to this process. */
    IS(p.connect(p.context, 7, &out), 0);
    p.close(p.context, out);
}

static bool g_inherited[1024];

static void note_inherited(void) {
    for (int fd = 0; fd < 1024; fd++)
        g_inherited[fd] = fcntl(fd, F_GETFD) >= 0;
}

static void every_descriptor_is_closed_on_exec(void) {
    DIR* all = opendir("/proc/self/fd");
    int found = 0;
    for (struct dirent* entry; (entry = readdir(all));) {
        int fd = atoi(entry->d_name);
        if (entry->d_name[0] != '.' && !g_inherited[fd] && fd != dirfd(all)) {
            IS(fcntl(fd, F_GETFD), FD_CLOEXEC);
            found++;
        }
    }
    closedir(all);
    IS(found >= 2, 1);
}

static void sockets(void) {
    void* event;
    umask(0777);
    IS(p.event_create(p.context, &event), 0);
    IS(p.listen(p.context, 7), 0);
    struct stat status;
    IS(stat(g_path, &status), 0);
    IS(status.st_mode & 07777, 0600);
    IS(p.listen(p.context, 7), -EADDRINUSE);
    connect_to_self();
    every_descriptor_is_closed_on_exec();
    libos_ipc_posix_platform_end();
    IS(stat(g_path, &status) < 0 ? errno : 0, ENOENT);
}

static void abstract(const char* base) {
    char name[128];
    void* out;
    snprintf(name, sizeof(name), "@libos-ipc-%d-%s", (int)getpid(), base + strlen(base) - 8);
    IS(libos_ipc_posix_platform(&p, name, g_memory, sizeof(g_memory)), 0);
    IS(p.listen(p.context, 7), 0);
    IS(p.connect(p.context, 2, &out), -ECONNREFUSED);
    IS(p.connect(p.context, 7, &out), 0);
    p.close(p.context, out);
    libos_ipc_posix_platform_end();
    IS(p.connect(p.context, 7, &out), -ECONNREFUSED);
}

int main(int argc, char** argv) {
    const char* test = argc > 2 ? argv[2] : "";
    char too_long[200];
    note_inherited();
    memset(too_long, 'x', sizeof(too_long) - 1);
    too_long[sizeof(too_long) - 1] = 0;
    IS(libos_ipc_posix_platform(&p, too_long, g_memory, sizeof(g_memory)), -ENAMETOOLONG);
    IS(libos_ipc_posix_platform(&p, argv[1], g_memory, sizeof(g_memory)), 0);
    snprintf(g_path, sizeof(g_path), "%s.7", argv[1]);
    if (!strcmp(test, "events"))
        events();
    else if (!strcmp(test, "wakes"))
        wakes();
    else if (!strcmp(test, "signals"))
        signals();
    else if (!strcmp(test, "sockets"))
        sockets();
    else if (!strcmp(test, "abstract"))
        abstract(argv[1]);
    else
        return 2;
    return 0;
}
