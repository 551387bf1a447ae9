/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Calls that wait for ever unless an interrupt, a time limit or the end of the process ends them: in the leader, and in a
 * member that it starts. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libos_ipc.h"
#include "libos_ipc_posix.h"
#include "check.h"

#define ROUNDS 50

static _Alignas(16) unsigned char g_memory[LIBOS_IPC_MEMORY_LEADER];
static struct libos_ipc_platform g_platform;
static const char *g_program, *g_base;
static IDTYPE g_pid;

/* In the leader, a pipe from the member. The leader answers no signal until the member has closed the pipe. */
static int g_from_member;
/* The member's end of that pipe. No other descriptor of these processes has so high a number, so that dup2() replaces
   none of them and clears FD_CLOEXEC. */
enum { TO_LEADER = 100 };
static IDTYPE g_parent_pid;
static int g_waits_seen;

static int deliver(void* context, const struct libos_ipc_pid_kill* kill) {
    char byte;
    (void)context;
    return kill->signum == 10 && read(g_from_member, &byte, 1) != 0 ? -EPERM : 0;
}

static void print_log(void* context, enum libos_ipc_log_level level, const char* line) {
    (void)context;
    g_waits_seen += level == LIBOS_IPC_LOG_INFO && strstr(line, "a child's end") != NULL;
}

static void start(void) {
    static const struct libos_ipc_callbacks callbacks = {.signal = deliver, .log = print_log};
    IS(libos_ipc_posix_platform(&g_platform, g_base, g_memory, sizeof(g_memory)), 0);
    IS(libos_ipc_setup(&g_platform, &callbacks, NULL), 0);
    IS(init_ipc(), 0);
    IS(init_ipc_worker(), 0);
}

/* A lock of another process holds the file, and another thread uses the handle. */
static struct libos_file_lock g_theirs = {FILE_LOCK_POSIX, 1, 0, FS_LOCK_EOF, 4000, 0};
static struct sync_handle* g_handle;

enum call { LOCK_FILE, LOCK_OFD, LOCK_SYNC, WAIT_CHILD, WAIT_GROUP, WAIT_CHANGE, CALLS, KILL = CALLS };

static int make(enum call call, const struct libos_ipc_call_limit* limit) {
    struct libos_file_lock ours = {call == LOCK_FILE ? FILE_LOCK_POSIX : FILE_LOCK_OFD, 1, 5, 5, g_pid, 77};
    struct libos_ipc_pid_kill kill = {g_pid, 0, g_parent_pid, 10, KILL_PROCESS};
    struct libos_ipc_cld_exit exit;
    uint64_t data, seen;
    unsigned int news;
    switch (call) {
        case LOCK_FILE:
        case LOCK_OFD:
            return libos_ipc_file_lock_set_within("/f", &ours, true, limit);
        case LOCK_SYNC:
            return libos_ipc_sync_lock_within(g_handle, SYNC_STATE_SHARED, &data, sizeof(data), &news, limit);
        case WAIT_CHANGE:
            news = (unsigned int)-libos_ipc_sync_changes(g_handle, &seen);
            return news ? -(int)news : libos_ipc_sync_wait(g_handle, seen, limit);
        case WAIT_CHILD:
            return libos_ipc_wait(LIBOS_IPC_WAIT_ANY, 0, 0, &exit, limit);
        case WAIT_GROUP:
            return libos_ipc_wait(LIBOS_IPC_WAIT_GROUP, 0, LIBOS_IPC_WNOWAIT, &exit, limit);
        case KILL:
            return libos_ipc_kill(&kill, limit);
        default:
            return -ENOTSUP;
    }
}

struct waiting {
    enum call call;
    struct libos_ipc_interrupt interrupt;
    int result;
    pthread_t thread;
};

static void* wait_for_interrupt(void* argument) {
    struct waiting* waiting = argument;
    struct libos_ipc_call_limit limit = {0, &waiting->interrupt};
    waiting->result = make(waiting->call, &limit);
    return NULL;
}

static void begin(struct waiting* waiting, enum call call) {
    memset(waiting, 0, sizeof(*waiting));
    waiting->call = call;
    IS(pthread_create(&waiting->thread, NULL, wait_for_interrupt, waiting), 0);
}

/* An interrupt ends the call, whether it is raised before the thread waits or later. */
static void interrupts(enum call call) {
    static struct waiting waiting[8];
    for (int round = 0; round < ROUNDS; round++) {
        begin(&waiting[0], call);
        if (round % 2)
            usleep(300);
        IS(libos_ipc_interrupt_raise(&waiting[0].interrupt), 0);
        pthread_join(waiting[0].thread, NULL);
        IS(waiting[0].result, -EINTR);
        /* It stays raised until it is reset. */
        struct libos_ipc_call_limit limit = {0, &waiting[0].interrupt};
        IS(make(call, &limit), -EINTR);
        IS(libos_ipc_interrupt_reset(&waiting[0].interrupt), 0);
        limit.timeout_ns = 100000;
        IS(make(call, &limit), -ETIMEDOUT);
    }
    /* An interrupt ends only its own call. */
    for (int i = 0; i < 8; i++)
        begin(&waiting[i], call);
    /* The list of waiting calls has those that wait for a child. */
    for (g_waits_seen = 0; call == WAIT_CHILD && g_waits_seen < 8; usleep(500)) {
        g_waits_seen = 0;
        IS(libos_ipc_dump_calls(), 0);
    }
    for (int i = 7; i >= 0; i--) {
        IS(libos_ipc_interrupt_raise(&waiting[i].interrupt), 0);
        pthread_join(waiting[i].thread, NULL);
        IS(waiting[i].result, -EINTR);
    }
}

static void others(void) {
    struct libos_file_lock found, ours = {FILE_LOCK_OFD, 1, 5, 5, g_pid, 77};
    uint64_t seen, now, data = 1;
    unsigned int news;
    /* The interrupted calls hold no lock. */
    g_theirs.type = 2;
    IS(file_lock_set("/f", &g_theirs, false), 0);
    g_theirs.type = 1;
    IS(file_lock_get("/f", &g_theirs, &found), 0);
    IS(found.type, 2);
    /* A lock of an open file conflicts with that of a process, and with that of another open file. */
    IS(file_lock_set("/f", &ours, false), 0);
    IS(file_lock_set("/f", &g_theirs, false), -EAGAIN);
    IS(file_lock_get("/f", &g_theirs, &found), 0);
    IS(found.family, FILE_LOCK_POSIX);
    ours.handle_id = 78;
    IS(file_lock_set("/f", &ours, false), -EAGAIN);
    IS(file_lock_get("/f", &ours, &found), 0);
    IS(found.family, FILE_LOCK_POSIX);
    IS(found.pid, (IDTYPE)-1);
    IS(libos_ipc_close_open_file(77), 0);
    IS(file_lock_set("/f", &ours, false), 0);
    IS(libos_ipc_close_open_file(78), 0);
    /* A process that closes a file loses its locks there, and only there. */
    ours = (struct libos_file_lock){FILE_LOCK_POSIX, 1, 0, 9, g_pid, 0};
    IS(file_lock_set("/f", &ours, false), 0);
    IS(file_lock_set("/h", &ours, false), 0);
    IS(libos_ipc_close_file("/f", g_pid), 0);
    IS(file_lock_set("/f", &g_theirs, false), 0);
    IS(file_lock_set("/h", &g_theirs, false), -EAGAIN);
    IS(file_lock_clear_pid(g_pid), 0);
    IS(file_lock_clear_pid(g_theirs.pid), 0);
    /* The count of changes rises with a change, and a wait for another count ends at once. */
    IS(libos_ipc_sync_changes(g_handle, &seen), 0);
    IS(libos_ipc_sync_lock(g_handle, SYNC_STATE_SHARED, &data, sizeof(data), &news), 0);
    IS(libos_ipc_sync_upgrade(g_handle, NULL), 0);
    data++;
    sync_unlock(g_handle, &data, sizeof(data));
    IS(libos_ipc_sync_wait(g_handle, seen, NULL), 0);
    IS(libos_ipc_sync_changes(g_handle, &now), 0);
    IS(now != seen, 1);
    IS(libos_ipc_sync_upgrade(g_handle, NULL), -EINVAL);
    IS(libos_ipc_interrupt_raise(NULL), -EINVAL);
    IS(libos_ipc_interrupt_reset(NULL), -EINVAL);
}

/* The end of the process ends the waiting calls of its threads. */
static void ends(void) {
    struct waiting waiting[CALLS];
    for (enum call call = 0; call < CALLS; call++)
        begin(&waiting[call], call);
    IS(libos_ipc_exit(0, 0, 0), 0);
    for (enum call call = 0; call < CALLS; call++) {
        pthread_join(waiting[call].thread, NULL);
        IS(waiting[call].result, -ESHUTDOWN);
    }
    /* What the process holds is released already. */
    IS(file_lock_clear_pid(g_pid), 0);
    IS(libos_ipc_close_open_file(77), 0);
    IS(shutdown_sync_client(), 0);
    release_id(g_pid);
    IS(libos_ipc_exit(0, 0, 0), -ESHUTDOWN);
    IS(libos_ipc_join(0, 0, NULL), -ESHUTDOWN);
}

static void run(void) {
    struct libos_ipc_identity child;
    uint64_t data = 0;
    unsigned int news;
    IS(libos_ipc_start_child(&child), 0);
    IS(file_lock_set("/f", &g_theirs, false), 0);
    IS(sync_create(&g_handle, 0), 0);
    IS(libos_ipc_sync_lock(g_handle, SYNC_STATE_EXCLUSIVE, &data, sizeof(data), &news), 0);
    for (enum call call = 0; call < WAIT_CHANGE; call++)
        interrupts(call);
    sync_unlock(g_handle, &data, sizeof(data));
    interrupts(WAIT_CHANGE);
    others();
    IS(libos_ipc_bury(child.ids.self_vmid), 0);
    IS(make(WAIT_CHILD, NULL), -ECHILD);
}

static void interrupt_kill(void) {
    struct waiting waiting;
    struct libos_ipc_call_limit limit = {1000000, NULL};
    begin(&waiting, KILL);
    IS(libos_ipc_interrupt_raise(&waiting.interrupt), 0);
    pthread_join(waiting.thread, NULL);
    IS(waiting.result, -EINTR);
    IS(make(KILL, &limit), -ETIMEDOUT);
    close(TO_LEADER);
    IS(make(KILL, NULL), 0);
}

static int member(char** arguments) {
    g_process_ipc_ids = (struct libos_ipc_ids){(IDTYPE)atol(arguments[2]), STARTING_VMID, STARTING_VMID};
    start();
    IS(libos_ipc_join((IDTYPE)atol(arguments[3]) + 1, 0, NULL) < 0, 1);
    IS(libos_ipc_join((IDTYPE)atol(arguments[3]), (IDTYPE)atol(arguments[4]), &g_pid), 0);
    g_parent_pid = (IDTYPE)atol(arguments[4]);
    interrupt_kill();
    g_theirs.pid = 4001;
    run();
    struct libos_ipc_identity child;
    uint64_t data;
    unsigned int news;
    IS(libos_ipc_start_child(&child), 0);
    IS(file_lock_set("/f", &g_theirs, false), 0);
    IS(libos_ipc_sync_lock(g_handle, SYNC_STATE_EXCLUSIVE, &data, sizeof(data), &news), 0);
    ends();
    terminate_ipc_worker();
    libos_ipc_posix_platform_end();
    return 0;
}

int main(int argc, char** argv) {
    struct libos_ipc_identity child;
    struct libos_ipc_cld_exit ended;
    g_program = argv[0];
    g_base = argv[1];
    if (argc == 5)
        return member(argv);
    if (argc != 2)
        return 2;
    start();
    /* The first process joins with an ID in the middle of a range. */
    IDTYPE first, last, owner;
    IS(ipc_alloc_id_range(&first, &last), 0);
    IS(libos_ipc_join(first + 3, 0, &g_pid), 0);
    IS(g_pid, first + 3);
    IS(ipc_release_id_range(first, first + 2), 0);
    IS(ipc_get_id_owner(g_pid, &owner), 0);
    IS(owner, STARTING_VMID);
    run();
    IS(libos_ipc_start_child(&child), 0);
    char numbers[3][16];
    snprintf(numbers[0], 16, "%u", child.ids.self_vmid);
    snprintf(numbers[1], 16, "%u", child.pid);
    snprintf(numbers[2], 16, "%u", child.parent_pid);
    int ends[2];
    IS(pipe2(ends, O_CLOEXEC), 0);
    IS(ends[1] < TO_LEADER, 1);
    g_from_member = ends[0];
    pid_t host = fork();
    if (host == 0) {
        dup2(ends[1], TO_LEADER);
        execl("/proc/self/exe", g_program, g_base, numbers[0], numbers[1], numbers[2], (char*)NULL);
        _exit(1);
    }
    close(ends[1]);
    int status = 1;
    IS(waitpid(host, &status, 0) == host, 1);
    IS(status, 0);
    IS(libos_ipc_wait(LIBOS_IPC_WAIT_PID, child.pid, 0, &ended, NULL), 0);
    IS(ended.pid, child.pid);
    IS(libos_ipc_exit(0, 0, 0), 0);
    /* The child that the member has prepared, and that never starts, is still in the family. */
    struct libos_ipc_interrupt interrupt = {0};
    struct libos_ipc_call_limit limit = {1000000, &interrupt};
    IS(libos_ipc_leave(&limit), -ETIMEDOUT);
    IS(libos_ipc_interrupt_raise(&interrupt), 0);
    IS(libos_ipc_leave(&limit), -EINTR);
    terminate_ipc_worker();
    libos_ipc_posix_platform_end();
    return 0;
}
