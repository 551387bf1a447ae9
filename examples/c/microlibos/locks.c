/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Locks of files, and open files that are sent to other processes. */
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "os.h"

/* Converts l_start and l_len to the first and the last byte. */
static int range_of(const struct flock* lock, struct libos_file_lock* range) {
    int64_t first = lock->l_start, last = lock->l_start + lock->l_len - 1;
    if (lock->l_len < 0) {
        first = lock->l_start + lock->l_len;
        last = lock->l_start - 1;
    }
    if (lock->l_whence != SEEK_SET || first < 0)
        return -EINVAL;
    range->start = (uint64_t)first;
    range->end = lock->l_len == 0 ? FS_LOCK_EOF : (uint64_t)last;
    return 0;
}

/* Finds a lock that conflicts with the wanted one. */
static int find_conflict(struct file* file, struct libos_file_lock* wanted, struct flock* lock) {
    struct libos_file_lock found;
    int result = file_lock_get(file->key, wanted, &found);
    if (result != 0)
        return result;
    lock->l_type = (short)found.type;
    if (found.type == F_UNLCK)
        return 0;
    lock->l_pid = (pid_t)found.pid;
    lock->l_start = (off_t)found.start;
    lock->l_len = found.end == FS_LOCK_EOF ? 0 : (off_t)(found.end - found.start + 1);
    return 0;
}

static int lock_file(struct file* file, int command, struct flock* lock, const struct libos_ipc_call_limit* limit) {
    bool is_of_file = command == F_OFD_SETLK || command == F_OFD_SETLKW || command == F_OFD_GETLK;
    struct libos_file_lock wanted = {is_of_file ? FILE_LOCK_OFD : FILE_LOCK_POSIX, lock->l_type, 0, 0, (IDTYPE)g_os.pid, file->id};
    int access = file->flags & O_ACCMODE, result = range_of(lock, &wanted);
    if (result != 0 || (is_of_file && lock->l_pid != 0))
        return -EINVAL;
    if (command == F_GETLK || command == F_OFD_GETLK)
        return find_conflict(file, &wanted, lock);
    if ((lock->l_type == F_RDLCK && access == O_WRONLY) || (lock->l_type == F_WRLCK && access == O_RDONLY))
        return -EBADF;
    return libos_ipc_file_lock_set_within(file->key, &wanted, command == F_SETLKW || command == F_OFD_SETLKW, limit);
}

static int lock_with_flock(struct file* file, int operation, const struct libos_ipc_call_limit* limit) {
    int kind = operation & ~LOCK_NB;
    int type = kind == LOCK_SH ? F_RDLCK : kind == LOCK_EX ? F_WRLCK : F_UNLCK;
    struct libos_file_lock wanted = {FILE_LOCK_FLOCK, type, 0, FS_LOCK_EOF, (IDTYPE)g_os.pid, file->id};
    return libos_ipc_file_lock_set_within(file->key, &wanted, !(operation & LOCK_NB), limit);
}

int ml_lock(int fd, int command, struct flock* lock) {
    int result;
    do {
        struct libos_ipc_call_limit limit = call_begin();
        struct file* file = file_use(fd);
        result = !file ? -EBADF : !file->is_regular ? -EINVAL : lock_file(file, command, lock, &limit);
        if (file)
            file_release(file);
    } while (call_again(result));
    return result;
}

int ml_flock(int fd, int operation) {
    int result;
    do {
        struct libos_ipc_call_limit limit = call_begin();
        struct file* file = file_use(fd);
        result = !file ? -EBADF : !file->is_regular ? -EINVAL : lock_with_flock(file, operation, &limit);
        if (file)
            file_release(file);
    } while (call_again(result));
    return result;
}

/* The programs call this only when their other threads wait for nothing else. The first process, which leads, counts the
 * requests that wait in the table of locks; another one the calls that have begun, whose requests may still be under way. */
int ml_lock_waiters(int fd) {
    struct libos_ipc_statistics statistics;
    (void)fd;
    int result = libos_ipc_get_statistics(&statistics);
    bool leads = g_process_ipc_ids.self_vmid == STARTING_VMID;
    return result < 0 ? result : (int)(leads ? statistics.waiting_for_locks.now : statistics.waiters.now);
}

int ml_messages(void) {
    struct libos_ipc_statistics statistics;
    int result = libos_ipc_get_statistics(&statistics);
    return result < 0 ? result : (int)statistics.frames_out;
}

/* ---- Descriptors in messages ---- */

union control {
    struct cmsghdr header;
    char space[CMSG_SPACE(sizeof(int))];
};

static int send_file(struct file* socket, struct file* file) {
    struct saved_file saved = {.flags = file->flags, .id = file->id, .offset = file->position.value - 1};
    union control control = {.header = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    struct iovec data = {&saved, sizeof(saved)};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    memcpy(CMSG_DATA(&control.header), &file->host_fd, sizeof(file->host_fd));
    return sendmsg(socket->host_fd, &message, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* The receiver holds the open file from now on, so its lock does not end between the two processes. */
static int give_and_send(struct file* socket, struct file* file, int pid) {
    struct libos_ipc_process process;
    int result = libos_ipc_get_process((IDTYPE)pid, &process);
    if (result == 0)
        result = file_give(file, process.vmid);
    if (result == 0 && (result = send_file(socket, file)) != 0 && file->is_regular)
        libos_ipc_take_back_open_file(file->id, process.vmid);
    return result;
}

int ml_send_fd(int socket, int pid, int fd) {
    call_begin();
    struct file *to = file_use(socket), *file = file_use(fd);
    int result = to && file ? give_and_send(to, file, pid) : -EBADF;
    if (to)
        file_release(to);
    if (file)
        file_release(file);
    call_again(0);
    return result;
}

/* Finds the open file if this process has it already, as it arrived in another message or was sent by this process. */
static struct file* find_open(uint64_t id) {
    struct file *files[FDS], *found = NULL;
    pthread_mutex_lock(&g_files);
    for (int count = files_list(files), i = 0; i < count && !found; i++)
        if (files[i]->id == id)
            found = files[i];
    if (found)
        found->users++;
    pthread_mutex_unlock(&g_files);
    return found;
}

static int receive_file(struct file* socket) {
    struct saved_file saved;
    union control control;
    struct iovec data = {&saved, sizeof(saved)};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    int host_fd, result = call_wait(socket->host_fd, POLLIN);
    if (result != 0)
        return result;
    ssize_t size = recvmsg(socket->host_fd, &message, MSG_CMSG_CLOEXEC);
    if (size < 0)
        return errno == EAGAIN ? -EINTR : -errno;
    if (size != sizeof(saved) || message.msg_controllen < sizeof(control.header))
        return -EPIPE;
    memcpy(&host_fd, CMSG_DATA(&control.header), sizeof(host_fd));
    struct file* file = find_open(saved.id);
    if (file)
        close(host_fd);
    else {
        file = file_new(host_fd, saved.flags & ~O_CLOEXEC);
        file->id = saved.id;
        file->users++;
        result = file->is_regular ? file_open_position(file, saved.offset) : 0;
    }
    if (result == 0 && file->is_regular)
        result = libos_ipc_hold_open_file(saved.id);
    if (result == 0)
        result = file_install(file, false);
    file_release(file);
    return result;
}

int ml_receive_fd(int socket) {
    int result;
    do {
        call_begin();
        struct file* file = file_use(socket);
        result = file ? receive_file(file) : -EBADF;
        if (file)
            file_release(file);
    } while (call_again(result));
    return result;
}
