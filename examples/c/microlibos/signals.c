/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Signals. A thread runs handlers at the beginning and at the end of its calls. */
#include <sys/eventfd.h>

#include "os.h"

static bool is_ignored_by_default(int number) {
    return number == SIGCHLD || number == SIGCONT || number == SIGURG || number == SIGWINCH;
}

static struct thread* find(IDTYPE tid) {
    for (int i = 0; i < THREADS; i++)
        if (g_os.threads[i].used && !g_os.threads[i].done && (IDTYPE)g_os.threads[i].tid == tid)
            return &g_os.threads[i];
    return NULL;
}

/* The thread that takes a signal of the process: the main thread, if it does not block the signal. */
static struct thread* find_receiver(int number) {
    struct thread* main_thread = find((IDTYPE)g_os.pid);
    if (main_thread && !(main_thread->mask & ML_BIT(number)))
        return main_thread;
    for (int i = 0; i < THREADS; i++)
        if (g_os.threads[i].used && !g_os.threads[i].done && !(g_os.threads[i].mask & ML_BIT(number)))
            return &g_os.threads[i];
    return NULL;
}

/* Makes a signal pending, for the process or for one thread. */
static void post(struct thread* thread, int number) {
    pthread_mutex_lock(&g_os.lock);
    void (*handler)(int) = g_os.handlers[number];
    struct thread* receiver = thread ? thread : find_receiver(number);
    bool is_blocked = !receiver || receiver->mask & ML_BIT(number);
    bool is_dropped = handler == SIG_IGN || (handler == SIG_DFL && is_ignored_by_default(number));
    bool ends = number == SIGKILL || (!is_blocked && handler == SIG_DFL && !is_dropped);
    if (!ends && (is_blocked || !is_dropped)) {
        *(thread ? &thread->pending : &g_os.pending) |= ML_BIT(number);
        if (!is_blocked)
            thread_wake(receiver);
    }
    pthread_mutex_unlock(&g_os.lock);
    if (ends)
        request(END, 0, number);
}

int signals_deliver(void* context, const struct libos_ipc_pid_kill* kill) {
    (void)context;
    struct thread* thread = NULL;
    if (kill->signum < 0 || kill->signum >= SIGNALS)
        return -EINVAL;
    if (kill->type == KILL_THREAD || kill->type == KILL_PROCESS) {
        pthread_mutex_lock(&g_os.lock);
        thread = find(kill->id);
        pthread_mutex_unlock(&g_os.lock);
        if (!thread && (kill->type == KILL_THREAD || kill->id != (IDTYPE)g_os.pid))
            return -ESRCH;
    }
    if (kill->signum)
        post(kill->type == KILL_THREAD ? thread : NULL, kill->signum);
    return 0;
}

void signals_child_died(void* context, const struct libos_ipc_cld_exit* exit) {
    (void)context;
    (void)exit;
    post(NULL, SIGCHLD);
}

void signals_reset(void) {
    for (int number = 1; number < SIGNALS; number++)
        if (g_os.handlers[number] != SIG_IGN)
            g_os.handlers[number] = SIG_DFL;
}

/* Takes the lowest pending signal of this thread; 0 if there is none. */
static int take(void (**handler)(int)) {
    int number = 0;
    pthread_mutex_lock(&g_os.lock);
    bool leaves = g_os.request != NONE;
    uint64_t ready = (g_self->pending | g_os.pending) & ~g_self->mask;
    if (ready && !leaves) {
        number = __builtin_ctzll(ready) + 1;
        *(g_self->pending & ML_BIT(number) ? &g_self->pending : &g_os.pending) &= ~ML_BIT(number);
        *handler = g_os.handlers[number];
    }
    pthread_mutex_unlock(&g_os.lock);
    if (leaves)
        thread_leave();
    return number;
}

static uint64_t set_mask(uint64_t mask) {
    pthread_mutex_lock(&g_os.lock);
    uint64_t old = g_self->mask;
    g_self->mask = mask & ~(ML_BIT(SIGKILL) | ML_BIT(SIGSTOP));
    pthread_mutex_unlock(&g_os.lock);
    return old;
}

bool signals_take(void) {
    bool handled = false;
    void (*handler)(int);
    for (int number; (number = take(&handler)) != 0;) {
        if (handler == SIG_DFL && !is_ignored_by_default(number)) {
            request(END, 0, number);
            thread_leave();
        }
        if (handler == SIG_DFL || handler == SIG_IGN)
            continue;
        uint64_t old = set_mask(g_self->mask | ML_BIT(number));
        handler(number);
        set_mask(old);
        handled = true;
    }
    return handled;
}

/* ---- Calls ---- */

int ml_signal(int number, void (*handler)(int)) {
    if (number < 1 || number >= SIGNALS || number == SIGKILL || number == SIGSTOP)
        return -EINVAL;
    pthread_mutex_lock(&g_os.lock);
    g_os.handlers[number] = handler;
    pthread_mutex_unlock(&g_os.lock);
    return 0;
}

uint64_t ml_sigmask(uint64_t mask) {
    uint64_t old = set_mask(mask);
    signals_take();
    return old;
}

int ml_sigsuspend(uint64_t mask) {
    uint64_t old = set_mask(mask);
    eventfd_t woken;
    while (!signals_take()) {
        call_wait(-1, 0);
        eventfd_read(g_self->wake_fd, &woken);
    }
    set_mask(old);
    signals_take();
    return -EINTR;
}

static int send_signal(enum kill_type type, IDTYPE process, IDTYPE id, int number) {
    if (number < 0 || number >= SIGNALS)
        return -EINVAL;
    struct libos_ipc_pid_kill kill = {(IDTYPE)g_os.pid, process, id, number, type};
    call_begin();
    int result = libos_ipc_kill(&kill, NULL);
    call_again(result);
    return result;
}

int ml_kill(int pid, int number) {
    if (pid > 0)
        return send_signal(KILL_PROCESS, 0, (IDTYPE)pid, number);
    int group = pid < 0 ? -pid : ml_getpgid(0);
    return group < 0 ? group : send_signal(KILL_PGROUP, 0, (IDTYPE)group, number);
}

int ml_tgkill(int pid, int tid, int number) {
    return send_signal(KILL_THREAD, (IDTYPE)pid, (IDTYPE)tid, number);
}
