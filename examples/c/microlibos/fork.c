/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The start of a child: a checkpoint, a new process of the host, and the child's report that it has joined the family. */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "os.h"

static bool g_next_fork_fails;

void ml_fail_next_fork(void) {
    g_next_fork_fails = true;
}

static void save_signals(struct checkpoint* checkpoint) {
    pthread_mutex_lock(&g_os.lock);
    checkpoint->mask = g_self->mask;
    for (int number = 1; number < SIGNALS; number++) {
        if (g_os.handlers[number] == SIG_IGN)
            checkpoint->ignored |= ML_BIT(number);
        else if (g_os.handlers[number] != SIG_DFL) {
            checkpoint->handled |= ML_BIT(number);
            checkpoint->handlers[number] = (uintptr_t)g_os.handlers[number] - (uintptr_t)g_program->start;
        }
    }
    pthread_mutex_unlock(&g_os.lock);
}

/* Stores the descriptors, and keeps each open file in use until the child has it. */
static int save_files(struct checkpoint* checkpoint, struct file* files[FDS]) {
    pthread_mutex_lock(&g_files);
    int count = checkpoint->count = files_list(files);
    for (int i = 0; i < count; i++) {
        struct saved_file* saved = &checkpoint->files[i];
        *saved = (struct saved_file){files[i]->host_fd, files[i]->flags, files[i]->is_regular, "", files[i]->id, files[i]->offset};
        memcpy(saved->key, files[i]->key, sizeof(saved->key));
        files[i]->users++;
    }
    for (int fd = 0; fd < FDS; fd++) {
        int i = 0;
        while (i < count && files[i] != g_fds[fd].file)
            i++;
        checkpoint->fds[fd].file = i < count ? i : -1;
        checkpoint->fds[fd].is_cloexec = g_fds[fd].is_cloexec;
    }
    pthread_mutex_unlock(&g_files);
    return count;
}

static void keep_on_exec(int fd) {
    fcntl(fd, F_SETFD, 0);
}

/* Starts the process. Between fork and exec it makes only calls that are safe in a copy of one thread. */
static int start_process(const struct checkpoint* checkpoint, int saved, int status) {
    char numbers[2][16];
    char* arguments[] = {"microlibos", "--child", numbers[0], numbers[1], NULL};
    snprintf(numbers[0], sizeof(numbers[0]), "%d", saved);
    snprintf(numbers[1], sizeof(numbers[1]), "%d", status);
    pid_t host = fork();
    if (host == 0) {
        for (int i = 0; i < checkpoint->count; i++)
            keep_on_exec(checkpoint->files[i].host_fd);
        keep_on_exec(saved);
        keep_on_exec(status);
        execv(g_path, arguments);
        _exit(127);
    }
    return host < 0 ? -errno : 0;
}

/* Writes the checkpoint to a file without a name, starts the process, and waits until it has joined the family. */
static int start_child(const struct checkpoint* checkpoint) {
    int status[2], answer = -EAGAIN, result = 0;
    int saved = memfd_create("checkpoint", MFD_CLOEXEC);
    if (saved < 0 || pipe2(status, O_CLOEXEC) < 0) {
        close(saved);
        return -EAGAIN;
    }
    if (write(saved, checkpoint, sizeof(*checkpoint)) != sizeof(*checkpoint))
        result = -ENOMEM;
    if (result == 0)
        result = start_process(checkpoint, saved, status[1]);
    close(status[1]);
    close(saved);
    /* A child that cannot join states the reason; one that ends before has closed its end. */
    if (result == 0 && read(status[0], &answer, sizeof(answer)) != sizeof(answer))
        answer = -EAGAIN;
    close(status[0]);
    return result ? result : answer;
}

int ml_fork(ml_entry entry, const void* argument, size_t size) {
    struct file* files[FDS];
    struct checkpoint* checkpoint = calloc(1, sizeof(*checkpoint));
    if (!checkpoint || size > ARGUMENT)
        os_fail("a checkpoint", E2BIG);
    call_begin();
    int result = libos_ipc_start_child(&checkpoint->identity);
    if (result == 0) {
        snprintf(checkpoint->base, sizeof(checkpoint->base), "%s", g_base);
        snprintf(checkpoint->program, sizeof(checkpoint->program), "%s", g_program->path);
        checkpoint->entry = (uintptr_t)entry - (uintptr_t)g_program->start;
        checkpoint->size = size;
        memcpy(checkpoint->argument, argument, size);
        save_signals(checkpoint);
        int count = save_files(checkpoint, files);
        for (int i = 0; i < count && result == 0; i++)
            result = file_give(files[i], checkpoint->identity.ids.self_vmid);
        if (result == 0)
            result = g_next_fork_fails ? -EAGAIN : start_child(checkpoint);
        g_next_fork_fails = false;
        for (int i = 0; i < count; i++)
            file_release(files[i]);
        /* The family forgets a child that did not start: its pid, and that it holds open files. */
        if (result != 0)
            libos_ipc_bury(checkpoint->identity.ids.self_vmid);
    }
    if (result == 0)
        result = (int)checkpoint->identity.pid;
    free(checkpoint);
    call_again(0);
    return result == -ENOMEM ? -EAGAIN : result;
}

/* ---- In the child ---- */

void checkpoint_read(int fd, struct checkpoint* checkpoint) {
    if (pread(fd, checkpoint, sizeof(*checkpoint), 0) != sizeof(*checkpoint))
        os_fail("the checkpoint", errno);
    close(fd);
}

void checkpoint_restore(const struct checkpoint* checkpoint) {
    struct file* files[FDS];
    for (int i = 0; i < checkpoint->count; i++) {
        const struct saved_file* saved = &checkpoint->files[i];
        fcntl(saved->host_fd, F_SETFD, FD_CLOEXEC);
        files[i] = file_new(saved->host_fd, saved->flags);
        files[i]->is_regular = saved->is_regular;
        memcpy(files[i]->key, saved->key, sizeof(saved->key));
        files[i]->id = saved->id;
        if (saved->is_regular && file_open_position(files[i], saved->offset) != 0)
            os_fail("a position", ENOMEM);
    }
    for (int fd = 0; fd < FDS; fd++)
        if (checkpoint->fds[fd].file >= 0) {
            struct file* file = files[checkpoint->fds[fd].file];
            g_fds[fd] = (struct descriptor){file, checkpoint->fds[fd].is_cloexec};
            file->users++;
        }
    for (int number = 1; number < SIGNALS; number++)
        if (checkpoint->ignored & ML_BIT(number))
            g_os.handlers[number] = SIG_IGN;
        else if (checkpoint->handled & ML_BIT(number)) {
            uintptr_t address = (uintptr_t)g_program->start + checkpoint->handlers[number];
            memcpy(&g_os.handlers[number], &address, sizeof(address));
        }
}
