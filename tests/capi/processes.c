/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The life of processes: join, fork, wait, groups, sessions, orphans, signals for groups. Each step is also made with the
 * calls of the host kernel, by native(), and both must give the same results. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libos_ipc.h"
#include "libos_ipc_posix.h"
#include "check.h"

static _Alignas(16) unsigned char g_memory[LIBOS_IPC_MEMORY_LEADER];
static struct libos_ipc_platform g_platform;
static const char *g_program, *g_base;
static IDTYPE g_pid;
static pthread_mutex_t g_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t g_changed = PTHREAD_COND_INITIALIZER;
static int g_signal, g_died;
static IDTYPE g_last_dead, g_last_parent;

static int deliver(void* context, const struct libos_ipc_pid_kill* kill) {
    (void)context;
    if (kill->signum != 0) {
        pthread_mutex_lock(&g_mutex);
        g_signal = kill->signum;
        pthread_cond_broadcast(&g_changed);
        pthread_mutex_unlock(&g_mutex);
    }
    return 0;
}

static void child_died(void* context, const struct libos_ipc_cld_exit* exit) {
    (void)context;
    pthread_mutex_lock(&g_mutex);
    g_died++;
    g_last_dead = exit->pid;
    g_last_parent = exit->ppid;
    pthread_cond_broadcast(&g_changed);
    pthread_mutex_unlock(&g_mutex);
}

static IDTYPE g_new_parent;
static void parent_ended(void* context, IDTYPE parent) {
    (void)context;
    pthread_mutex_lock(&g_mutex);
    g_new_parent = parent;
    pthread_cond_broadcast(&g_changed);
    pthread_mutex_unlock(&g_mutex);
}

static void self(void* context, struct libos_ipc_self* self) {
    (void)context;
    *self = (struct libos_ipc_self){g_pid, 0, 1000};
}

static char g_last_log[256];
static void print_log(void* context, enum libos_ipc_log_level level, const char* message) {
    (void)context;
    if (level == LIBOS_IPC_LOG_ERROR)
        snprintf(g_last_log, sizeof(g_last_log), "%s", message);
}

static void start(void) {
    static const struct libos_ipc_callbacks callbacks = {
        .signal = deliver, .child_died = child_died, .self = self, .log = print_log,
        .parent_ended = parent_ended};
    IS(libos_ipc_posix_platform(&g_platform, g_base, g_memory, sizeof(g_memory)), 0);
    IS(libos_ipc_setup(&g_platform, &callbacks, NULL), 0);
    IS(init_ipc(), 0);
    IS(init_ipc_worker(), 0);
}

/* Starts a process that plays the role. */
static pid_t start_with(const char* role, const struct libos_ipc_identity* child) {
    char numbers[4][16];
    snprintf(numbers[0], 16, "%u", child->ids.self_vmid);
    snprintf(numbers[1], 16, "%u", child->ids.parent_vmid);
    snprintf(numbers[2], 16, "%u", child->pid);
    snprintf(numbers[3], 16, "%u", child->parent_pid);
    pid_t host = fork();
    if (host == 0) {
        execl("/proc/self/exe", g_program, g_base, role, numbers[0], numbers[1], numbers[2], numbers[3],
              (char*)NULL);
        _exit(1);
    }
    return host;
}

static IDTYPE start_child(const char* role) {
    struct libos_ipc_identity child;
    IS(libos_ipc_start_child(&child), 0);
    IS(child.parent_pid, g_pid);
    IS(child.ids.parent_vmid, g_process_ipc_ids.self_vmid);
    start_with(role, &child);
    return child.pid;
}

static void wait_for_signal(void) {
    pthread_mutex_lock(&g_mutex);
    while (g_signal == 0)
        pthread_cond_wait(&g_changed, &g_mutex);
    pthread_mutex_unlock(&g_mutex);
}

/* Waits until the process that started this one has ended, and checks that the subreaper is the new parent. */
static void wait_for_parent(IDTYPE first) {
    IDTYPE parent;
    struct libos_ipc_process process;
    IS(libos_ipc_watch_parent(true, &parent), 0);
    pthread_mutex_lock(&g_mutex);
    while (parent == first && g_new_parent == 0)
        pthread_cond_wait(&g_changed, &g_mutex);
    pthread_mutex_unlock(&g_mutex);
    IS(libos_ipc_get_process(0, &process), 0);
    IS(process.parent, parent == first ? g_new_parent : parent);
    IS(process.parent != first, 1);
    IS(libos_ipc_watch_parent(false, &parent), 0);
    IS(parent, process.parent);
}

/* A member that alone locks a file sends no message for that, unless it may decide about no file. */
static void lock_without_messages(void) {
    struct libos_ipc_statistics before, after;
    struct libos_file_lock lock = {FILE_LOCK_POSIX, 1, 0, 9, g_pid, 0}, found;
    IS(file_lock_set("/own", &lock, false), 0);
    IS(libos_ipc_get_statistics(&before), 0);
    for (int round = 0; round < 100; round++) {
        lock.type = round % 2 ? 1 : 2;
        IS(file_lock_set("/own", &lock, true), 0);
        lock.type = 1;
        IS(file_lock_get("/own", &lock, &found), 0);
        IS(found.type, 2);
    }
    IS(libos_ipc_close_file("/own", g_pid), 0);
    IS(libos_ipc_close_file("/never", g_pid), 0);
    IS(libos_ipc_get_statistics(&after), 0);
    IS(after.frames_out - before.frames_out, 0);
}

/* The worker calls child_died at about the time at which libos_ipc_wait() returns. */
static void wait_for_deaths(int count) {
    pthread_mutex_lock(&g_mutex);
    while (g_died < count)
        pthread_cond_wait(&g_changed, &g_mutex);
    IS(g_died, count);
    pthread_mutex_unlock(&g_mutex);
}

static IDTYPE group(IDTYPE pid) {
    IDTYPE group = 0;
    IS(libos_ipc_getpgid(pid, &group), 0);
    return group;
}

static void wait_until_running(IDTYPE pid) {
    struct libos_ipc_process process;
    for (int tries = 0; tries < 120000; tries++) {
        IS(libos_ipc_get_process(pid, &process), 0);
        if (process.state == LIBOS_IPC_RUNNING)
            return;
        usleep(500);
    }
    IS(0, 1);
}

/* The same steps in the host's kernel. Returns a text of the results, from which pids are left out. */
static void native(char* text) {
    int status, to[2];
    siginfo_t info;
    setpgid(0, 0);
    text += sprintf(text, "none: %d; ", waitid(P_ALL, 0, &info, WEXITED) ? errno : 0);
    IS(pipe(to), 0);
    pid_t child = fork();
    if (child == 0) {
        char byte;
        if (read(to[0], &byte, 1) != 1)
            _exit(1);
        _exit(7);
    }
    info.si_pid = 99;
    text += sprintf(text, "living: %d ", waitid(P_PID, (id_t)child, &info, WEXITED | WNOHANG));
    text += sprintf(text, "pid %d; ", info.si_pid);
    text += sprintf(text, "group: %d ", getpgid(child) == getpgrp());
    text += sprintf(text, "%d ", setpgid(child, child));
    text += sprintf(text, "%d ", getpgid(child) == child);
    text += sprintf(text, "old: %d ", waitid(P_PGID, (id_t)getpgrp(), &info, WEXITED | WNOHANG) ? errno : 0);
    text += sprintf(text, "new: %d; ", waitid(P_PGID, (id_t)child, &info, WEXITED | WNOHANG) ? errno : 0);
    IS(write(to[1], "x", 1), 1);
    for (int i = 0; i < 2; i++) {
        text += sprintf(text, "peek: %d ", waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT));
        text += sprintf(text, "%d %d; ", info.si_pid == child, info.si_status);
    }
    text += sprintf(text, "zombie: %d; ", kill(child, 10) ? errno : 0);
    text += sprintf(text, "reap: %d ", waitid(P_ALL, 0, &info, WEXITED));
    text += sprintf(text, "%d %d; ", info.si_pid == child, info.si_status);
    text += sprintf(text, "again: %d ", waitid(P_PID, (id_t)child, &info, WEXITED) ? errno : 0);
    text += sprintf(text, "%d ", kill(child, 10) ? errno : 0);
    text += sprintf(text, "%d; ", getpgid(child) < 0 ? errno : 0);
    /* An orphan gets the subreaper as its parent. */
    IS(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
    child = fork();
    if (child == 0) {
        if (fork() == 0) {
            char byte;
            if (read(to[0], &byte, 1) != 1)
                _exit(1);
            _exit(9);
        }
        _exit(8);
    }
    text += sprintf(text, "middle: %d ", waitpid(child, &status, 0) == child);
    text += sprintf(text, "%d; ", WEXITSTATUS(status));
    text += sprintf(text, "orphan: %d ", waitid(P_ALL, 0, &info, WEXITED | WNOHANG));
    IS(write(to[1], "x", 1), 1);
    text += sprintf(text, "%d ", waitid(P_ALL, 0, &info, WEXITED));
    text += sprintf(text, "%d; ", info.si_status);
    text += sprintf(text, "setsid: %d ", setsid() < 0 ? errno : 0);
    text += sprintf(text, "setpgid: %d; ", setpgid(getppid(), 0) ? errno : 0);
}

static int ended(enum libos_ipc_wait_for which, IDTYPE id, int options, struct libos_ipc_cld_exit* exit) {
    int result = libos_ipc_wait(which, id, options, exit, NULL);
    return -result;
}

static void inside(char* text) {
    struct libos_ipc_cld_exit exit;
    struct libos_ipc_process process = {0};
    int processes = 0;
    text += sprintf(text, "none: %d; ", ended(LIBOS_IPC_WAIT_ANY, 0, 0, &exit));
    IDTYPE child = start_child("seven");
    exit.pid = 99;
    text += sprintf(text, "living: %d ", ended(LIBOS_IPC_WAIT_PID, child, LIBOS_IPC_WNOHANG, &exit));
    text += sprintf(text, "pid %d; ", (int)exit.pid);
    text += sprintf(text, "group: %d ", group(child) == group(0));
    text += sprintf(text, "%d ", -libos_ipc_setpgid(child, child));
    text += sprintf(text, "%d ", group(child) == child);
    text += sprintf(text, "old: %d ", ended(LIBOS_IPC_WAIT_GROUP, 0, LIBOS_IPC_WNOHANG, &exit));
    text += sprintf(text, "new: %d; ", ended(LIBOS_IPC_WAIT_GROUP, child, LIBOS_IPC_WNOHANG, &exit));
    wait_until_running(child);
    while (libos_ipc_next_process(&process) == 0)
        processes += process.pid == child || process.pid == g_pid;
    IS(processes, 2);
    IS(ipc_kill_pgroup(g_pid, child, 10), 0);
    for (int i = 0; i < 2; i++) {
        text += sprintf(text, "peek: %d ", ended(LIBOS_IPC_WAIT_PID, child, LIBOS_IPC_WNOWAIT, &exit));
        text += sprintf(text, "%d %d; ", exit.pid == child, (int)exit.exitcode);
    }
    IS(exit.uid, 1234);
    IS(exit.ppid, g_pid);
    text += sprintf(text, "zombie: %d; ", -ipc_kill_process(g_pid, child, 10));
    text += sprintf(text, "reap: %d ", ended(LIBOS_IPC_WAIT_ANY, 0, 0, &exit));
    text += sprintf(text, "%d %d; ", exit.pid == child, (int)exit.exitcode);
    text += sprintf(text, "again: %d ", ended(LIBOS_IPC_WAIT_PID, child, 0, &exit));
    text += sprintf(text, "%d ", -ipc_kill_process(g_pid, child, 10));
    IDTYPE none;
    text += sprintf(text, "%d; ", -libos_ipc_getpgid(child, &none));
    IS(libos_ipc_set_process_flag(LIBOS_IPC_SUBREAPER, true), 0);
    IS(libos_ipc_get_process(0, &process), 0);
    IS(process.flags & LIBOS_IPC_SUBREAPER, LIBOS_IPC_SUBREAPER);
    child = start_child("middle");
    text += sprintf(text, "middle: %d ", ended(LIBOS_IPC_WAIT_PID, child, 0, &exit) == 0);
    text += sprintf(text, "%d; ", (int)exit.exitcode);
    text += sprintf(text, "orphan: %d ", ended(LIBOS_IPC_WAIT_ANY, 0, LIBOS_IPC_WNOHANG, &exit));
    /* The only other process of this process's group is the orphan. */
    struct libos_ipc_pid_kill kill = {g_pid, 0, group(0), 12, KILL_PGROUP};
    process = (struct libos_ipc_process){0};
    IDTYPE orphan = 0;
    while (libos_ipc_next_process(&process) == 0)
        if (process.parent == g_pid)
            orphan = process.pid;
    wait_until_running(orphan);
    IS(libos_ipc_kill(&kill, NULL), 0);
    text += sprintf(text, "%d ", ended(LIBOS_IPC_WAIT_ANY, 0, 0, &exit));
    text += sprintf(text, "%d; ", (int)exit.exitcode);
    IS(exit.pid, orphan);
    IS(exit.ppid, g_pid);
    wait_for_deaths(3);
    IS(g_last_dead, orphan);
    IS(g_last_parent, g_pid);
    IDTYPE session;
    text += sprintf(text, "setsid: %d ", -libos_ipc_setsid(&session));
    text += sprintf(text, "setpgid: %d; ", -libos_ipc_setpgid(exit.pid, 0));
}

static void compare(void) {
    char in_host[1024] = "", in_library[1024] = "";
    int results[2], status;
    IS(pipe(results), 0);
    pid_t host = fork();
    if (host == 0) {
        native(in_host);
        _exit(write(results[1], in_host, sizeof(in_host)) != sizeof(in_host));
    }
    IS(waitpid(host, &status, 0) == host, 1);
    IS(status, 0);
    IS(read(results[0], in_host, sizeof(in_host)), sizeof(in_host));
    close(results[0]);
    close(results[1]);
    inside(in_library);
    if (strcmp(in_host, in_library)) {
        fprintf(stderr, "kernel:  %s\nlibrary: %s\n", in_host, in_library);
        exit(1);
    }
}

/* Children that were started with the calls of IDs, and one that never starts. */
static void other_children(bool joins) {
    struct libos_ipc_identity child = {.ids = {0, g_process_ipc_ids.self_vmid, STARTING_VMID}, .parent_pid = g_pid};
    struct libos_ipc_cld_exit exit;
    const int died = joins ? 3 : 4;
    IS(ipc_get_new_vmid(&child.ids.self_vmid), 0);
    child.pid = get_new_id(child.ids.self_vmid);
    start_with(joins ? "sends" : "unjoined", &child);
    IS(ended(LIBOS_IPC_WAIT_PID, child.pid, 0, &exit), 0);
    IS(exit.exitcode, joins ? 4 : 5);
    IS(exit.uid, 1000);
    wait_for_deaths(died + 1);
    IS(libos_ipc_start_child(&child), 0);
    IS(libos_ipc_bury(child.ids.self_vmid), 0);
    IS(ended(LIBOS_IPC_WAIT_ANY, 0, 0, &exit), ECHILD);
    struct libos_ipc_process process;
    IS(libos_ipc_get_process(child.pid, &process), -ESRCH);
    IS(libos_ipc_wait(LIBOS_IPC_WAIT_PID, 0, 0, &exit, NULL), -EINVAL);
    IS(libos_ipc_wait(LIBOS_IPC_WAIT_ANY, 0, 2, &exit, NULL), -EINVAL);
    IS(libos_ipc_set_process_flag((enum libos_ipc_process_flag)3, true), -EINVAL);
}

/* A child that gets no pid from its parent, and joins with an ID that it has allocated. */
static void child_with_own_pid(void) {
    struct libos_ipc_identity child = {.ids = {0, g_process_ipc_ids.self_vmid, STARTING_VMID}};
    struct libos_ipc_cld_exit exit;
    int result;
    IS(ipc_get_new_vmid(&child.ids.self_vmid), 0);
    start_with("ranges", &child);
    /* Until it joins it is no child. */
    while ((result = ended(LIBOS_IPC_WAIT_ANY, 0, 0, &exit)) == ECHILD)
        usleep(500);
    IS(result, 0);
    IS(exit.exitcode, 6);
    IS(exit.ppid, g_pid);
}

static void end(void) {
    terminate_ipc_worker();
    libos_ipc_posix_platform_end();
    while (wait(NULL) > 0) {
    }
}

static int member(char** arguments) {
    const char* role = arguments[2];
    struct libos_ipc_identity identity = {.ids = {(IDTYPE)atol(arguments[3]), (IDTYPE)atol(arguments[4]), STARTING_VMID},
                                          .pid = (IDTYPE)atol(arguments[5]),
                                          .parent_pid = (IDTYPE)atol(arguments[6])};
    g_process_ipc_ids = identity.ids;
    start();
    if (!strcmp(role, "unjoined")) {
        g_pid = identity.pid;
        IS(init_id_ranges(g_pid), 0);
        /* The parent has accepted the stream of this process when it answers. A notice on a stream that waits to be accepted
         * may come after the leader's report that the process has died. */
        IS(ipc_kill_process(g_pid, identity.parent_pid, 0), 0);
        IS(ipc_cld_exit_send(5, 0), 0);
        /* The leader sees this process. */
        release_id(g_pid);
        end();
        return 0;
    }
    if (!strcmp(role, "sends")) {
        /* An ID that was accepted before is a pid that joins. The process releases it as it ends, before and after. */
        IS(init_id_ranges(identity.pid), 0);
        IS(libos_ipc_join(identity.pid, identity.parent_pid, &g_pid), 0);
        release_id(g_pid);
        IS(ipc_cld_exit_send(4, 0), 0);
        release_id(g_pid);
        IS(g_last_log[0], 0);
        end();
        return 0;
    }
    if (!strcmp(role, "ranges")) {
        IDTYPE first, last, group;
        IS(ipc_alloc_id_range(&first, &last), 0);
        IS(libos_ipc_join(first + 5, 0, &g_pid), 0);
        IS(g_pid, first + 5);
        IS(libos_ipc_getpgid(0, &group), 0);
        IS(group != g_pid, 1);
        IS(ipc_cld_exit_send(6, 0), 0);
        end();
        return 0;
    }
    IS(libos_ipc_join(identity.pid, identity.parent_pid, &g_pid), 0);
    IS(g_pid, identity.pid);
    struct libos_ipc_identity own;
    IS(libos_ipc_get_identity(&own), 0);
    IS(memcmp(&own, &identity, sizeof(own)), 0);
    if (!strcmp(role, "seven") || !strcmp(role, "nine")) {
        if (!strcmp(role, "nine"))
            wait_for_parent(identity.parent_pid);
        wait_for_signal();
        IS(libos_ipc_exit(1234, !strcmp(role, "seven") ? 7 : 9, 0), 0);
    } else if (!strcmp(role, "middle")) {
        start_child("nine");
        IS(libos_ipc_exit(0, 8, 0), 0);
        /* The processes of the host must not wait for each other. */
        terminate_ipc_worker();
        libos_ipc_posix_platform_end();
        return 0;
    } else {
        IS(libos_ipc_setpgid(0, 0), 0);
        lock_without_messages();
        compare();
        other_children(true);
        other_children(false);
        IS(libos_ipc_exit(0, 3, 0), 0);
        IS(libos_ipc_leave(NULL), 0);
    }
    end();
    return 0;
}

int main(int argc, char** argv) {
    g_program = argv[0];
    g_base = argv[1];
    if (argc == 7)
        return member(argv);
    if (argc != 2)
        return 2;
    start();
    struct libos_ipc_identity child;
    struct libos_ipc_cld_exit exit;
    struct libos_ipc_process process;
    /* A process that has not joined is in no table. */
    IS(libos_ipc_start_child(&child), -ENOSYS);
    IS(libos_ipc_get_process(0, &process), -ENOSYS);
    IS(ended(LIBOS_IPC_WAIT_ANY, 0, 0, &exit), ECHILD);
    /* The first process joins with an ID that it has allocated. */
    IDTYPE pid = get_new_id(0);
    IS(libos_ipc_join(pid + 1000, 0, &g_pid), -EINVAL);
    IS(libos_ipc_join(pid, 0, &g_pid), 0);
    IS(g_pid, pid);
    IS(libos_ipc_join(pid, 0, &g_pid), -EINVAL);
    compare();
    other_children(true);
    other_children(false);
    child_with_own_pid();
    IDTYPE member = start_child("member");
    IS(ended(LIBOS_IPC_WAIT_PID, member, 0, &exit), 0);
    IS(exit.exitcode, 3);
    struct libos_ipc_statistics statistics;
    IS(libos_ipc_get_statistics(&statistics), 0);
    IS(statistics.children.now, 0);
    IS(statistics.broken_invariants, 0);
    IS(ipc_cld_exit_send(0, 0), 0);
    IS(libos_ipc_leave(NULL), 0);
    end();
    return 0;
}
