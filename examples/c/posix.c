/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The platform of the example: struct libos_ipc_platform over Unix sockets, poll(2) and pthreads.
 *
 * One mutex protects the table of watched streams. `wait` polls a copy of the table and checks each ready stream
 * against the table afterwards, because another thread may have closed the stream during the poll. A thread that changes
 * the table during the poll writes to an eventfd, which is polled with the streams.
 */
#define _GNU_SOURCE
#include "posix.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define STREAMS 1024 /* a stream is identified by its descriptor */
#define STACK_SIZE (64 * 1024)

struct stream {
    uint32_t interest; /* 0: not watched */
    uint64_t token;
    uint64_t generation; /* tells apart streams that had the same descriptor */
};

static struct {
    pthread_mutex_t lock;
    struct stream streams[STREAMS];
    int used; /* one more than the highest descriptor of a stream so far */
    uint64_t generation;
    int listener, wake_fd;
    bool listens, polls, woken;
    struct sockaddr_un base;
} g = {.lock = PTHREAD_MUTEX_INITIALIZER, .listener = -1, .listens = true};

struct event {
    atomic_bool is_set;
    int wake_fd; /* eventfd, readable while the event is set */
};

/* ---- Time ---- */

static uint64_t now(void* context) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/* Converts a deadline to a timeout for ppoll(); NULL for LIBOS_IPC_FOREVER. */
static struct timespec* timeout_until(uint64_t until, struct timespec* span) {
    if (until == LIBOS_IPC_FOREVER)
        return NULL;
    uint64_t time = now(NULL), nanoseconds = until > time ? until - time : 0;
    span->tv_sec = (time_t)(nanoseconds / 1000000000);
    span->tv_nsec = (long)(nanoseconds % 1000000000);
    return span;
}

/* ---- Streams ---- */

static struct sockaddr_un address_of(IDTYPE vmid) {
    struct sockaddr_un address = g.base;
    size_t length = strlen(address.sun_path);
    snprintf(address.sun_path + length, sizeof(address.sun_path) - length, ".%u", vmid);
    return address;
}

static int new_socket(void) {
    return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

/* Only processes of the same user may be members. */
static bool is_ours(int fd) {
    struct ucred peer;
    socklen_t size = sizeof(peer);
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == geteuid();
}

static int fd_of(void* stream) {
    return (int)((intptr_t)stream - 1);
}

/* Makes a stream of a socket, or closes the socket. */
static int new_stream(int fd, void** stream) {
    if (!is_ours(fd) || fd >= STREAMS) {
        int error = fd >= STREAMS ? -EMFILE : -EACCES;
        close(fd);
        return error;
    }
    pthread_mutex_lock(&g.lock);
    g.used = g.used > fd ? g.used : fd + 1;
    g.streams[fd] = (struct stream){.generation = ++g.generation};
    pthread_mutex_unlock(&g.lock);
    *stream = (void*)(intptr_t)(fd + 1);
    return 0;
}

static int platform_listen(void* context, IDTYPE vmid) {
    struct sockaddr_un address = address_of(vmid);
    int fd = new_socket();
    /* bind(2) gives the file the mode of the socket. */
    if (fd < 0 || fchmod(fd, S_IRUSR | S_IWUSR) < 0 ||
        bind(fd, (struct sockaddr*)&address, sizeof(address)) < 0 || listen(fd, 128) < 0) {
        int error = -errno;
        if (fd >= 0)
            close(fd);
        return error;
    }
    g.listener = fd;
    return 0;
}

static int platform_connect(void* context, IDTYPE vmid, void** stream) {
    struct sockaddr_un address = address_of(vmid);
    int fd = new_socket();
    if (fd < 0)
        return -EAGAIN;
    if (connect(fd, (struct sockaddr*)&address, sizeof(address)) < 0) {
        int error = -errno;
        close(fd);
        return error;
    }
    int result = new_stream(fd, stream);
    return result == -EMFILE ? -EAGAIN : result;
}

static int platform_accept(void* context, void** stream) {
    int fd = accept4(g.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    return fd < 0 ? -errno : new_stream(fd, stream);
}

static int64_t platform_read(void* context, void* stream, void* buffer, size_t size) {
    ssize_t count = recv(fd_of(stream), buffer, size, 0);
    return count < 0 ? -errno : count;
}

static int64_t platform_write(void* context, void* stream, const void* data, size_t size) {
    ssize_t count = send(fd_of(stream), data, size, MSG_NOSIGNAL);
    return count < 0 ? -errno : count;
}

/* ---- Readiness ---- */

/* Wakes a thread that polls, so that it reads the table again. The caller holds `g.lock`. */
static void changed(bool always) {
    if (!g.woken && (always || g.polls)) {
        g.woken = true;
        eventfd_write(g.wake_fd, 1);
    }
}

static void platform_rewatch(void* context, void* stream, uint64_t token, uint32_t interest) {
    pthread_mutex_lock(&g.lock);
    g.streams[fd_of(stream)].token = token;
    g.streams[fd_of(stream)].interest = interest;
    changed(false);
    pthread_mutex_unlock(&g.lock);
}

static int platform_watch(void* context, void* stream, uint64_t token, uint32_t interest) {
    platform_rewatch(context, stream, token, interest);
    return 0;
}

static void platform_unwatch(void* context, void* stream) {
    platform_rewatch(context, stream, 0, 0);
}

static void platform_close(void* context, void* stream) {
    platform_unwatch(context, stream);
    /* A forked process may have a copy of the descriptor, which would keep the stream open. */
    shutdown(fd_of(stream), SHUT_RDWR);
    close(fd_of(stream));
}

static void platform_watch_listener(void* context, bool on) {
    pthread_mutex_lock(&g.lock);
    g.listens = on;
    changed(false);
    pthread_mutex_unlock(&g.lock);
}

static short poll_events(uint32_t interest) {
    return (short)((interest & LIBOS_IPC_READ ? POLLIN | POLLRDHUP : 0) |
                   (interest & LIBOS_IPC_WRITE ? POLLOUT : 0) |
                   (interest & LIBOS_IPC_HANG_UP ? POLLRDHUP : 0));
}

static uint32_t readiness(short found) {
    return (found & POLLIN ? LIBOS_IPC_READ : 0u) | (found & POLLOUT ? LIBOS_IPC_WRITE : 0u) |
           (found & (POLLRDHUP | POLLHUP | POLLERR) ? LIBOS_IPC_HANG_UP : 0u);
}

static size_t platform_wait(void* context, struct libos_ipc_ready* ready, size_t capacity,
                            uint64_t until) {
    /* Only one thread at a time calls this. */
    static struct pollfd fds[STREAMS + 2];
    static uint64_t generation[STREAMS];
    pthread_mutex_lock(&g.lock);
    int streams = g.used;
    for (int fd = 0; fd < streams; fd++) {
        /* poll(2) skips negative descriptors. */
        uint32_t interest = g.streams[fd].interest;
        fds[fd] = (struct pollfd){interest ? fd : -1, poll_events(interest), 0};
        generation[fd] = g.streams[fd].generation;
    }
    fds[streams] = (struct pollfd){g.wake_fd, POLLIN, 0};
    fds[streams + 1] = (struct pollfd){g.listens ? g.listener : -1, POLLIN, 0};
    g.polls = true;
    pthread_mutex_unlock(&g.lock);
    struct timespec span;
    eventfd_t woken;
    int found = ppoll(fds, (nfds_t)streams + 2, timeout_until(until, &span), NULL);
    pthread_mutex_lock(&g.lock);
    g.polls = false;
    if (g.woken) {
        g.woken = false;
        eventfd_read(g.wake_fd, &woken);
    }
    size_t reported = 0;
    if (found > 0 && fds[streams + 1].revents && g.listens && reported < capacity)
        ready[reported++] = (struct libos_ipc_ready){LIBOS_IPC_LISTENER, LIBOS_IPC_READ, 0};
    /* Each call begins at another stream, so that no stream is always last. */
    static unsigned int first;
    first++;
    for (int n = 0; found > 0 && n < streams && reported < capacity; n++) {
        int fd = (int)((first + (unsigned int)n) % (unsigned int)streams);
        uint32_t what = readiness(fds[fd].revents);
        if (what && g.streams[fd].interest && g.streams[fd].generation == generation[fd])
            ready[reported++] = (struct libos_ipc_ready){g.streams[fd].token, what, 0};
    }
    pthread_mutex_unlock(&g.lock);
    return reported;
}

static void platform_wake(void* context) {
    pthread_mutex_lock(&g.lock);
    changed(true);
    pthread_mutex_unlock(&g.lock);
}

/* ---- Events and threads ---- */

static int event_create(void* context, void** made) {
    struct event* event = calloc(1, sizeof(*event));
    if (!event || (event->wake_fd = eventfd(0, EFD_CLOEXEC)) < 0)
        return -ENOMEM;
    *made = event;
    return 0;
}

/* Each change of the flag writes to the eventfd once or reads it once. A thread that is faster than its counterpart
 * waits for it. */
static void event_set(void* context, void* event) {
    if (!atomic_exchange(&((struct event*)event)->is_set, true))
        eventfd_write(((struct event*)event)->wake_fd, 1);
}

static void event_clear(void* context, void* event) {
    eventfd_t woken;
    if (atomic_exchange(&((struct event*)event)->is_set, false))
        eventfd_read(((struct event*)event)->wake_fd, &woken);
}

static bool event_is_set(void* context, void* event) {
    return atomic_load(&((struct event*)event)->is_set);
}

static int wait_readable(void* context, void* stream, void* event, uint64_t until) {
    struct pollfd fds[2] = {{((struct event*)event)->wake_fd, POLLIN, 0},
                            {stream ? fd_of(stream) : -1, POLLIN | POLLRDHUP, 0}};
    struct timespec span;
    if (ppoll(fds, 2, timeout_until(until, &span), NULL) <= 0)
        return LIBOS_IPC_WOKEN_TIME;
    return fds[0].revents ? LIBOS_IPC_WOKEN_EVENT : LIBOS_IPC_WOKEN_READABLE;
}

static void event_wait(void* context, void* event, uint64_t until) {
    wait_readable(context, NULL, event, until);
}

int posix_small_thread(void* (*run)(void*), void* argument, void* thread) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_SIZE);
    int error = pthread_create(thread, &attributes, run, argument);
    pthread_attr_destroy(&attributes);
    return -error;
}

static void (*worker)(void*);

static void* run_worker(void* argument) {
    worker(argument);
    return NULL;
}

static int thread_create(void* context, void (*run)(void*), void* argument) {
    pthread_t thread;
    worker = run; /* there is one worker */
    int error = posix_small_thread(run_worker, argument, &thread);
    return error ? error : -pthread_detach(thread);
}

static void* allocate(void* context, size_t size) {
    return malloc(size);
}

static void release(void* context, void* memory) {
    free(memory);
}

static void platform_yield(void* context) {
    (void)context;
    sched_yield();
}

int posix_platform(struct libos_ipc_platform* platform, const char* base, void* memory,
                   size_t size) {
    g.base.sun_family = AF_UNIX;
    if (strlen(base) + sizeof(".4294967295") > sizeof(g.base.sun_path))
        return -ENAMETOOLONG;
    strcpy(g.base.sun_path, base);
    *platform = (struct libos_ipc_platform){
        .memory = memory, .memory_size = size, .allocate = allocate, .release = release, .now = now,
        .listen = platform_listen, .connect = platform_connect, .accept = platform_accept,
        .read = platform_read, .write = platform_write, .close = platform_close,
        .watch = platform_watch, .rewatch = platform_rewatch, .unwatch = platform_unwatch,
        .watch_listener = platform_watch_listener, .wait = platform_wait, .wake = platform_wake,
        .event_create = event_create, .event_set = event_set, .event_clear = event_clear,
        .event_is_set = event_is_set, .event_wait = event_wait, .wait_readable = wait_readable,
        .thread_create = thread_create, .yield = platform_yield,
    };
    g.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return g.wake_fd < 0 ? -errno : 0;
}

void posix_platform_end(void) {
    struct sockaddr_un address = address_of(g_process_ipc_ids.self_vmid);
    if (g.listener >= 0) {
        unlink(address.sun_path);
        shutdown(g.listener, SHUT_RDWR);
    }
}
