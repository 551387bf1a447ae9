/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The stock platform; libos_ipc_posix.h states what it offers.
 *
 * A stream is a slot of a table that one mutex protects. `wait` polls a copy of the table and checks each ready stream
 * against the table afterwards, because another thread may have closed the stream during the poll. A thread that changes
 * the table during the poll writes to an eventfd, which is polled with the streams. The library closes a stream only when
 * no other function uses it, so the other functions read its descriptor without the mutex.
 */
#define _GNU_SOURCE
#include "libos_ipc_posix.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* More than `peers` and `strangers` of any sensible struct libos_ipc_limits, each with two streams. */
#define STREAMS 1024
/* The stack of the worker: the library takes at most 32 KiB, and the callbacks need some, too. */
#define STACK_SIZE (256 * 1024)

struct stream {
    int fd;            /* -1: the slot is free */
    uint32_t interest; /* 0: not watched */
    uint64_t token;
    uint64_t generation; /* tells apart streams that had the same slot */
};

static struct {
    pthread_mutex_t lock;
    struct stream streams[STREAMS];
    size_t used; /* slots that were ever used */
    uint64_t generation;
    bool watches_listener; /* `wait` reports the listener */
    int listener, wake_fd;
    atomic_bool woken; /* `wake_fd` is readable, or will be at once */
    atomic_bool wake_wanted; /* `wake` was called: `wait` returns. Else it polls what has changed. */
    bool polls; /* a thread polls a copy of the table */
    char base[sizeof(((struct sockaddr_un*)NULL)->sun_path)];
    struct sockaddr_un address; /* of the listener */
    pid_t owner;                /* the process that made the platform: not a fork of it */
    pthread_t worker;
    bool has_worker;
    void (*run)(void* argument);
} g = {.lock = PTHREAD_MUTEX_INITIALIZER, .listener = -1, .wake_fd = -1, .watches_listener = true};

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

/* Stores the address of a process and returns its length. The name of an abstract socket begins with a zero byte and ends
 * with the address. */
static socklen_t address_of(libos_ipc_id_t vmid, struct sockaddr_un* address) {
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    /* libos_ipc_posix_platform() has checked that this fits. */
    int length = snprintf(address->sun_path, sizeof(address->sun_path), "%s.%u", g.base, vmid);
    bool is_abstract = g.base[0] == '@';
    if (is_abstract)
        address->sun_path[0] = 0;
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)length + (is_abstract ? 0 : 1));
}

static int new_socket(void) {
    return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

/* Returns true if the process at the other end has the same user, as a member must. An abstract socket has no mode that
 * would keep other users out. */
static bool is_ours(int fd) {
    struct ucred peer;
    socklen_t size = sizeof(peer);
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == geteuid();
}

static int fd_of(void* stream) {
    return ((struct stream*)stream)->fd;
}

/* Makes a stream of a socket and returns 0, or closes the socket and returns -errno. */
static int new_stream(int fd, void** stream) {
    int error = is_ours(fd) ? -EMFILE : -EACCES;
    size_t slot = 0;
    pthread_mutex_lock(&g.lock);
    while (slot < g.used && g.streams[slot].fd >= 0)
        slot++;
    if (slot < STREAMS && error == -EMFILE) {
        g.used = g.used > slot ? g.used : slot + 1;
        g.streams[slot] = (struct stream){.fd = fd, .generation = ++g.generation};
        *stream = &g.streams[slot];
        error = 0;
    }
    pthread_mutex_unlock(&g.lock);
    if (error)
        close(fd);
    return error;
}

/* The socket's file has no more than the mode 0600 at any time, and exactly that mode before others can connect. */
static int bind_and_listen(int fd, libos_ipc_id_t vmid) {
    socklen_t length = address_of(vmid, &g.address);
    if (fchmod(fd, S_IRUSR | S_IWUSR) < 0 || bind(fd, (struct sockaddr*)&g.address, length) < 0)
        return -errno;
    /* bind(2) takes the bits of the umask from the mode. */
    if ((g.address.sun_path[0] && chmod(g.address.sun_path, S_IRUSR | S_IWUSR) < 0) || listen(fd, 128) < 0) {
        int error = -errno;
        if (g.address.sun_path[0])
            unlink(g.address.sun_path);
        return error;
    }
    return 0;
}

static int platform_listen(void* context, libos_ipc_id_t vmid) {
    int fd = new_socket();
    if (fd < 0)
        return -errno;
    int error = bind_and_listen(fd, vmid);
    if (error)
        close(fd);
    else
        g.listener = fd;
    return error;
}

static int platform_connect(void* context, libos_ipc_id_t vmid, void** stream) {
    struct sockaddr_un address;
    socklen_t length = address_of(vmid, &address);
    int fd = new_socket(), error = 0;
    if (fd >= 0 && connect(fd, (struct sockaddr*)&address, length) == 0)
        error = new_stream(fd, stream);
    else {
        error = -errno;
        if (fd >= 0)
            close(fd);
    }
    /* Descriptors or memory of this process are used up for now: that says nothing about the peer. */
    bool is_used_up = error == -EMFILE || error == -ENFILE || error == -ENOBUFS || error == -ENOMEM;
    return is_used_up || error == -EINTR ? -EAGAIN : error;
}

static int platform_accept(void* context, void** stream) {
    int fd;
    do
        fd = accept4(g.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
    return fd < 0 ? -errno : new_stream(fd, stream);
}

static int64_t platform_read(void* context, void* stream, void* buffer, size_t size) {
    ssize_t count = recv(fd_of(stream), buffer, size, 0);
    return count < 0 ? -errno : count;
}

static int64_t platform_write(void* context, void* stream, const void* data, size_t size) {
    ssize_t count = send(fd_of(stream), data, size, MSG_NOSIGNAL);
    if (count >= 0)
        return count;
    /* The host has no memory for now; the stream is whole. */
    return errno == ENOBUFS || errno == ENOMEM ? -EAGAIN : -errno;
}

/* ---- Readiness ---- */

/* Makes the poll of a thread return. */
static void end_poll(void) {
    if (!atomic_exchange(&g.woken, true))
        eventfd_write(g.wake_fd, 1);
}

/* May be called from a signal handler. */
static void platform_wake(void* context) {
    atomic_store(&g.wake_wanted, true);
    end_poll();
}

/* Changes the watch of a stream; interest 0 ends it. */
static void set_watch(struct stream* stream, uint64_t token, uint32_t interest) {
    pthread_mutex_lock(&g.lock);
    stream->token = token;
    stream->interest = interest;
    bool polls = g.polls;
    pthread_mutex_unlock(&g.lock);
    /* A thread that polls must read the table again. */
    if (polls)
        end_poll();
}

static void platform_rewatch(void* context, void* stream, uint64_t token, uint32_t interest) {
    set_watch(stream, token, interest);
}

static int platform_watch(void* context, void* stream, uint64_t token, uint32_t interest) {
    set_watch(stream, token, interest);
    return 0;
}

static void platform_unwatch(void* context, void* stream) {
    set_watch(stream, 0, 0);
}

static void platform_close(void* context, void* stream) {
    /* A forked process may have a copy of the descriptor, which would keep the stream open. */
    shutdown(fd_of(stream), SHUT_RDWR);
    close(fd_of(stream));
    pthread_mutex_lock(&g.lock);
    *(struct stream*)stream = (struct stream){.fd = -1};
    pthread_mutex_unlock(&g.lock);
}

static void platform_watch_listener(void* context, bool on) {
    pthread_mutex_lock(&g.lock);
    g.watches_listener = on;
    bool polls = g.polls;
    pthread_mutex_unlock(&g.lock);
    if (polls)
        end_poll();
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

/* Polls once. Returns false if nothing but a change of the table has ended the poll. */
static bool poll_once(struct libos_ipc_ready* ready, size_t capacity, uint64_t until, size_t* reported) {
    /* Only one thread at a time calls this. */
    static struct pollfd fds[STREAMS + 2];
    static uint64_t generation[STREAMS];
    static size_t first;
    pthread_mutex_lock(&g.lock);
    size_t streams = g.used;
    for (size_t slot = 0; slot < streams; slot++) {
        /* poll(2) skips negative descriptors. */
        uint32_t interest = g.streams[slot].interest;
        fds[slot] = (struct pollfd){interest ? g.streams[slot].fd : -1, poll_events(interest), 0};
        generation[slot] = g.streams[slot].generation;
    }
    fds[streams] = (struct pollfd){g.wake_fd, POLLIN, 0};
    fds[streams + 1] = (struct pollfd){g.watches_listener ? g.listener : -1, POLLIN, 0};
    g.polls = true;
    pthread_mutex_unlock(&g.lock);
    struct timespec span;
    /* A signal ends the poll early, as the header allows. */
    int found = ppoll(fds, (nfds_t)streams + 2, timeout_until(until, &span), NULL);
    if (atomic_load(&g.woken) || (found > 0 && fds[streams].revents)) {
        /* The descriptor is read before the flag is cleared, so each `wake` after this one writes again. If a thread has
         * set the flag and not yet written, the next poll finds the descriptor readable and reads it. */
        eventfd_t count;
        eventfd_read(g.wake_fd, &count);
        atomic_store(&g.woken, false);
    }
    bool is_woken = atomic_exchange(&g.wake_wanted, false);
    pthread_mutex_lock(&g.lock);
    g.polls = false;
    if (found > 0 && fds[streams + 1].revents && g.watches_listener && *reported < capacity)
        ready[(*reported)++] = (struct libos_ipc_ready){LIBOS_IPC_LISTENER, LIBOS_IPC_READ, 0};
    /* Each call begins at another stream, so that no stream is always last. */
    first++;
    for (size_t n = 0; found > 0 && n < streams && *reported < capacity; n++) {
        size_t slot = (first + n) % streams;
        const struct stream* stream = &g.streams[slot];
        uint32_t what = readiness(fds[slot].revents);
        if (what && stream->interest && stream->generation == generation[slot])
            ready[(*reported)++] = (struct libos_ipc_ready){stream->token, what, 0};
    }
    pthread_mutex_unlock(&g.lock);
    return found <= 0 || is_woken || *reported > 0;
}

static size_t platform_wait(void* context, struct libos_ipc_ready* ready, size_t capacity, uint64_t until) {
    size_t reported = 0;
    /* A caller that reads its answer itself changes the table twice. The library has nothing to do then. */
    while (!poll_once(ready, capacity, until, &reported) && now(NULL) < until)
        continue;
    return reported;
}

/* ---- Events and threads ---- */

static int event_create(void* context, void** made) {
    struct event* event = calloc(1, sizeof(*event));
    if (!event)
        return -ENOMEM;
    event->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
    if (event->wake_fd < 0) {
        int error = -errno;
        free(event);
        return error;
    }
    *made = event;
    return 0;
}

/* Each change of the flag adds one to the eventfd or takes one away, so the eventfd follows the flag even if another thread
 * changes the flag between the two steps. May be called from a signal handler. */
static void event_set(void* context, void* event) {
    if (!atomic_exchange(&((struct event*)event)->is_set, true))
        eventfd_write(((struct event*)event)->wake_fd, 1);
}

static void event_clear(void* context, void* event) {
    eventfd_t count;
    if (atomic_exchange(&((struct event*)event)->is_set, false))
        while (eventfd_read(((struct event*)event)->wake_fd, &count) < 0 && errno == EINTR)
            ;
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

static void* run_worker(void* argument) {
    g.run(argument);
    return NULL;
}

/* The library starts one thread, the worker. */
static int thread_create(void* context, void (*run)(void*), void* argument) {
    pthread_attr_t attributes;
    sigset_t all, old;
    g.run = run;
    sigfillset(&all);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_SIZE);
    /* The thread inherits the mask: the handlers of the library OS run in its own threads. */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int error = pthread_create(&g.worker, &attributes, run_worker, argument);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attributes);
    g.has_worker = !error;
    return -error;
}

static void* allocate(void* context, size_t size) {
    return malloc(size);
}

static void release(void* context, void* memory) {
    free(memory);
}

static void platform_yield(void* context) {
    sched_yield();
}

int libos_ipc_posix_platform(struct libos_ipc_platform* platform, const char* base, void* memory, size_t size) {
    if (strlen(base) + sizeof(".4294967295") > sizeof(g.base))
        return -ENAMETOOLONG;
    strcpy(g.base, base);
    if (g.wake_fd < 0)
        g.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (g.wake_fd < 0)
        return -errno;
    g.owner = getpid();
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
    return 0;
}

void libos_ipc_posix_platform_end(void) {
    if (g.owner != getpid())
        return;
    if (g.has_worker)
        pthread_join(g.worker, NULL);
    g.has_worker = false;
    if (g.listener < 0)
        return;
    if (g.address.sun_path[0])
        unlink(g.address.sun_path);
    shutdown(g.listener, SHUT_RDWR);
    close(g.listener);
    g.listener = -1;
}
