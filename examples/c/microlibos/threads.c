/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Threads, and how a call that blocks is interrupted. */
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "os.h"

_Thread_local struct thread* g_self;
struct os g_os = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

/* No call begins after request(): threads_await_calls() would not wait for it. */
static void set_in_call(bool in_call) {
    pthread_mutex_lock(&g_os.lock);
    bool leaves = in_call && g_os.request != NONE;
    g_self->in_call = in_call && !leaves;
    if (g_os.request != NONE)
        pthread_cond_broadcast(&g_os.changed);
    pthread_mutex_unlock(&g_os.lock);
    if (leaves)
        thread_leave();
}

void threads_await_calls(void) {
    pthread_mutex_lock(&g_os.lock);
    for (int i = 0; i < THREADS; i++)
        while (g_os.threads[i].used && !g_os.threads[i].done && g_os.threads[i].in_call)
            pthread_cond_wait(&g_os.changed, &g_os.lock);
    pthread_mutex_unlock(&g_os.lock);
}

struct libos_ipc_call_limit call_begin(void) {
    eventfd_t woken;
    do {
        /* A signal that arrives after this ends the call. */
        libos_ipc_interrupt_reset(&g_self->interrupt);
        eventfd_read(g_self->wake_fd, &woken);
    } while (signals_take());
    set_in_call(true);
    return (struct libos_ipc_call_limit){0, &g_self->interrupt};
}

bool call_again(int64_t result) {
    set_in_call(false);
    bool handled = signals_take();
    return result == -EINTR && !handled;
}

int call_wait(int host_fd, short events) {
    struct pollfd fds[2] = {{host_fd, events, 0}, {g_self->wake_fd, POLLIN, 0}};
    while (poll(fds, 2, -1) < 0)
        if (errno != EINTR)
            return -errno;
    return fds[0].revents ? 0 : -EINTR;
}

void thread_wake(struct thread* thread) {
    libos_ipc_interrupt_raise(&thread->interrupt);
    eventfd_write(thread->wake_fd, 1);
}

/* Runs a thread. A thread that leaves jumps back to this function, since the code of its program may be unloaded next. */
static void* thread_main(void* argument) {
    jmp_buf base;
    g_self = argument;
    g_self->base = &base;
    if (setjmp(base) == 0) {
        int result = g_self->run(g_self->argument);
        pthread_mutex_lock(&g_os.lock);
        g_self->result = result;
        pthread_mutex_unlock(&g_os.lock);
        /* The end of the main thread ends the process. */
        if (g_self->tid == g_os.pid)
            request(END, result, 0);
        else
            release_id((IDTYPE)g_self->tid);
    }
    pthread_mutex_lock(&g_os.lock);
    g_self->done = true;
    g_os.running--;
    pthread_cond_broadcast(&g_os.changed);
    pthread_mutex_unlock(&g_os.lock);
    return NULL;
}

void thread_leave(void) {
    longjmp(*g_self->base, 1);
}

int thread_start(int tid, uint64_t mask, int (*run)(void*), void* argument) {
    struct thread* thread = NULL;
    pthread_t handle;
    pthread_mutex_lock(&g_os.lock);
    for (int i = 0; i < THREADS && !thread; i++)
        if (!g_os.threads[i].used)
            thread = &g_os.threads[i];
    if (thread) {
        int wake_fd = thread->wake_fd > 0 ? thread->wake_fd : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        *thread = (struct thread){
            .used = wake_fd > 0, .tid = tid, .run = run, .argument = argument, .wake_fd = wake_fd, .mask = mask};
        g_os.running++;
    }
    pthread_mutex_unlock(&g_os.lock);
    if (!thread)
        return -EAGAIN;
    int error = pthread_create(&handle, NULL, thread_main, thread);
    if (error)
        os_fail("pthread_create", error);
    pthread_detach(handle);
    return 0;
}

int ml_thread(int (*run)(void*), void* argument) {
    IDTYPE tid = get_new_id(0);
    if (tid == 0)
        return -EAGAIN;
    int error = thread_start((int)tid, g_self->mask, run, argument);
    if (error)
        release_id(tid);
    return error ? error : (int)tid;
}

int ml_join(int tid) {
    struct thread* thread = NULL;
    int result;
    pthread_mutex_lock(&g_os.lock);
    for (int i = 0; i < THREADS; i++)
        if (g_os.threads[i].used && g_os.threads[i].tid == tid)
            thread = &g_os.threads[i];
    while (thread && !thread->done && g_os.request == NONE)
        pthread_cond_wait(&g_os.changed, &g_os.lock);
    result = thread ? thread->result : -ESRCH;
    if (thread && thread->done)
        thread->used = false;
    pthread_mutex_unlock(&g_os.lock);
    signals_take();
    return result;
}

void request(enum request request, int status, int signal) {
    pthread_mutex_lock(&g_os.lock);
    if (g_os.request == NONE || (g_os.request == EXEC && request == END)) {
        g_os.request = request;
        g_os.status = status;
        g_os.signal = signal;
        for (int i = 0; i < THREADS; i++)
            if (g_os.threads[i].used && !g_os.threads[i].done)
                thread_wake(&g_os.threads[i]);
        pthread_cond_broadcast(&g_os.changed);
    }
    pthread_mutex_unlock(&g_os.lock);
}
