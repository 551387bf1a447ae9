/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Holders of an open file: the steps of a shell for `(flock 9; work) 9>file`, in the leader and in a member. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libos_ipc.h"
#include "libos_ipc_posix.h"
#include "check.h"

#define ROUNDS 20

static _Alignas(16) unsigned char g_memory[LIBOS_IPC_MEMORY_LEADER];
static const char *g_program, *g_base;
static IDTYPE g_pid, g_parent_pid;

static void self(void* context, struct libos_ipc_self* self) {
    (void)context;
    *self = (struct libos_ipc_self){g_pid, g_parent_pid, 0};
}

static void start(void) {
    static const struct libos_ipc_callbacks callbacks = {.self = self};
    struct libos_ipc_platform platform;
    IS(libos_ipc_posix_platform(&platform, g_base, g_memory, sizeof(g_memory)), 0);
    IS(libos_ipc_setup(&platform, &callbacks, NULL), 0);
    IS(init_ipc(), 0);
    IS(init_ipc_worker(), 0);
}

static void end(void) {
    terminate_ipc_worker();
    libos_ipc_posix_platform_end();
}

/* flock(2) with LOCK_NB. */
static int lock(uint64_t handle, int type) {
    struct libos_file_lock lock = {FILE_LOCK_FLOCK, type, 0, FS_LOCK_EOF, g_pid, handle};
    return file_lock_set("/file", &lock, false);
}

/* A child process. */
struct child {
    pid_t host;
    int to_child, from_child; /* the parent's ends of two pipes */
};
/* The child's ends of the pipes. The numbers are higher than those of all descriptors of these processes, so that
   dup2() replaces none of them and clears FD_CLOEXEC, which it does not do for a descriptor onto itself. */
enum { HEARS = 100, SAYS = 101 };

/* Starts a process that inherits the open file and performs the action `what` on it. */
static struct child start_child(const char* what, uint64_t handle) {
    IDTYPE vmid, pid;
    int from[2], to[2];
    IS(pipe2(from, O_CLOEXEC), 0);
    IS(pipe2(to, O_CLOEXEC), 0);
    IS(to[1] < HEARS, 1);
    IS(ipc_get_new_vmid(&vmid), 0);
    pid = get_new_id(vmid);
    IS(libos_ipc_give_open_file(handle, vmid), 0);
    char numbers[5][24];
    snprintf(numbers[0], 24, "%u", vmid);
    snprintf(numbers[1], 24, "%u", pid);
    snprintf(numbers[2], 24, "%u", g_process_ipc_ids.self_vmid);
    snprintf(numbers[3], 24, "%u", g_pid);
    snprintf(numbers[4], 24, "%llu", (unsigned long long)handle);
    pid_t host = fork();
    if (host == 0) {
        dup2(to[0], HEARS);
        dup2(from[1], SAYS);
        execl("/proc/self/exe", g_program, g_base, what, numbers[0], numbers[1], numbers[2], numbers[3],
              numbers[4], (char*)NULL);
        _exit(1);
    }
    close(to[0]);
    close(from[1]);
    return (struct child){host, from[0], to[1]};
}

/* Tells the child to end, and waits for its end. */
static void end_child(struct child child) {
    int status = 1;
    close(child.from_child);
    IS(waitpid(child.host, &status, 0) == child.host, 1);
    IS(status, 0);
    close(child.to_child);
}

/* The leader sees the end of a process later than its parent on the host does. */
static void wait_until_free(uint64_t other) {
    for (int tries = 0; lock(other, 1) != 0; tries++) {
        IS(tries < 60000, 1);
        usleep(1000);
    }
}

static void shell(void) {
    const uint64_t base = (uint64_t)g_process_ipc_ids.self_vmid << 32;
    for (int round = 0; round < ROUNDS; round++) {
        const uint64_t ours = base + 2 * round, other = base + 2 * round + 1;
        /* The child locks and ends. The parent has the file open and never locks it. */
        end_child(start_child("locks", ours));
        IS(lock(other, 1), -EAGAIN);
        usleep(2000);
        IS(lock(other, 1), -EAGAIN);
        IS(libos_ipc_close_open_file(ours), 0);
        wait_until_free(other);
        IS(lock(other, 2), 0);
        /* The parent locks. The child has the file open and never locks it. */
        IS(lock(ours, 1), 0);
        end_child(start_child("closes", ours));
        IS(lock(other, 1), -EAGAIN);
        IS(libos_ipc_close_open_file(ours), 0);
        IS(lock(other, 1), 0);
        IS(libos_ipc_close_open_file(other), 0);
        /* The parent closes the file. The child keeps the lock until it ends. */
        IS(lock(ours, 1), 0);
        struct child child = start_child("keeps", ours);
        IS(libos_ipc_close_open_file(ours), 0);
        IS(lock(other, 1), -EAGAIN);
        char said;
        IS(read(child.to_child, &said, 1), 1);
        IS(lock(other, 1), -EAGAIN);
        end_child(child);
        wait_until_free(other);
        IS(libos_ipc_close_open_file(other), 0);
    }
    /* A process that never starts, and a process that receives a descriptor. */
    IDTYPE vmid;
    IS(ipc_get_new_vmid(&vmid), 0);
    IS(lock(base, 1), 0);
    IS(libos_ipc_give_open_file(base, vmid), 0);
    IS(libos_ipc_close_open_file(base), 0);
    IS(lock(base + 1, 1), -EAGAIN);
    IS(libos_ipc_take_back_open_file(base, vmid), 0);
    IS(lock(base + 1, 1), 0);
    IS(libos_ipc_give_open_file(base + 1, STARTING_VMID), 0);
    IS(libos_ipc_close_open_file(base + 1), 0);
    IS(libos_ipc_give_open_file(base, 0), -EINVAL);
}

static int member(char** arguments) {
    const uint64_t handle = strtoull(arguments[7], NULL, 10);
    g_process_ipc_ids = (struct libos_ipc_ids){(IDTYPE)atol(arguments[3]), (IDTYPE)atol(arguments[5]),
                                               STARTING_VMID};
    g_pid = (IDTYPE)atol(arguments[4]);
    g_parent_pid = (IDTYPE)atol(arguments[6]);
    start();
    IS(init_id_ranges(g_pid), 0);
    if (strcmp(arguments[2], "locks") == 0) {
        IS(lock(handle, 1), 0);
        IS(ipc_cld_exit_send(0, 0), 0);
    } else if (strcmp(arguments[2], "closes") == 0) {
        IS(libos_ipc_close_open_file(handle), 0);
        /* An open file that this process never held. */
        IS(libos_ipc_close_open_file(handle + 77), 0);
    } else if (strcmp(arguments[2], "shell") == 0) {
        shell();
    } else {
        IS(libos_ipc_hold_open_file(handle), 0);
        IS(write(SAYS, "x", 1), 1);
        char heard;
        IS(read(HEARS, &heard, 1), 0);
    }
    end();
    return 0;
}

int main(int argc, char** argv) {
    g_program = argv[0];
    g_base = argv[1];
    if (argc == 8)
        return member(argv);
    if (argc != 2)
        return 2;
    start();
    g_pid = get_new_id(0);
    shell();
    end_child(start_child("shell", 5));
    end();
    return 0;
}
