/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Open files and descriptors. */
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "os.h"

pthread_mutex_t g_files = PTHREAD_MUTEX_INITIALIZER;
struct descriptor g_fds[FDS];
/* Protects positions that are not shared. Held during calls of the library, so only threads of the application take it. */
static pthread_mutex_t g_positions = PTHREAD_MUTEX_INITIALIZER;
static atomic_uint g_files_made;

/* The highest byte of the numbers of the sync handles of positions. */
#define POSITION (UINT64_C(0x52) << 56)

/* ---- Open files ---- */

struct file* file_new(int host_fd, int flags) {
    struct stat status;
    struct file* file = calloc(1, sizeof(*file));
    if (!file || fstat(host_fd, &status) < 0)
        os_fail("an open file", ENOMEM);
    file->host_fd = host_fd;
    file->flags = flags;
    file->is_regular = S_ISREG(status.st_mode);
    /* A file with several names is one file for locks. */
    snprintf(file->key, sizeof(file->key), "%lx:%lx", (unsigned long)status.st_dev, (unsigned long)status.st_ino);
    file->id = (uint64_t)g_process_ipc_ids.self_vmid << 24 | ++g_files_made;
    return file;
}

struct file* file_use(int fd) {
    struct file* file = NULL;
    pthread_mutex_lock(&g_files);
    if (fd >= 0 && fd < FDS && g_fds[fd].file) {
        file = g_fds[fd].file;
        file->users++;
    }
    pthread_mutex_unlock(&g_files);
    return file;
}

/* The last user closes the open file, which removes its locks unless another process has it open, too. */
void file_release(struct file* file) {
    pthread_mutex_lock(&g_files);
    bool is_last = --file->users == 0;
    pthread_mutex_unlock(&g_files);
    if (!is_last)
        return;
    if (file->is_regular)
        libos_ipc_close_open_file(file->id);
    shared_close(&file->position);
    close(file->host_fd);
    free(file);
}

int file_open_position(struct file* file, int64_t offset) {
    int result = shared_open(&file->position, POSITION | file->id);
    if (result == 0)
        result = shared_lock(&file->position, NULL);
    if (result == 0) {
        /* The library keeps a value while a process has it open. The first one stores the position, plus one. */
        bool is_first = file->position.value == 0;
        file->position.value += is_first ? offset + 1 : 0;
        shared_unlock(&file->position, is_first);
    } else
        shared_close(&file->position);
    return result;
}

int file_give(struct file* file, IDTYPE vmid) {
    int result = 0;
    if (!file->is_regular)
        return 0;
    pthread_mutex_lock(&g_positions);
    if (!file->position.handle)
        result = file_open_position(file, file->offset);
    pthread_mutex_unlock(&g_positions);
    return result ? result : libos_ipc_give_open_file(file->id, vmid);
}

int files_list(struct file* files[FDS]) {
    int count = 0;
    for (int fd = 0; fd < FDS; fd++) {
        int i = 0;
        while (i < count && files[i] != g_fds[fd].file)
            i++;
        if (g_fds[fd].file && i == count)
            files[count++] = g_fds[fd].file;
    }
    return count;
}

/* ---- Descriptors ---- */

int file_install(struct file* file, bool is_cloexec) {
    int fd = 0;
    pthread_mutex_lock(&g_files);
    while (fd < FDS && g_fds[fd].file)
        fd++;
    if (fd < FDS) {
        g_fds[fd] = (struct descriptor){file, is_cloexec};
        file->users++;
    }
    pthread_mutex_unlock(&g_files);
    return fd < FDS ? fd : -EMFILE;
}

/* Releases the open file of a descriptor that was closed. The record locks of this process on the file end with each such
 * descriptor. */
static void release_descriptor(struct file* file) {
    if (file->is_regular)
        libos_ipc_close_file(file->key, (IDTYPE)g_os.pid);
    file_release(file);
}

int ml_close(int fd) {
    struct file* file = file_use(fd);
    if (!file)
        return -EBADF;
    pthread_mutex_lock(&g_files);
    bool is_open = g_fds[fd].file == file;
    if (is_open)
        g_fds[fd].file = NULL;
    pthread_mutex_unlock(&g_files);
    file_release(file);
    if (is_open)
        release_descriptor(file);
    return is_open ? 0 : -EBADF;
}

void files_close(bool all) {
    for (int fd = 0; fd < FDS; fd++)
        if (all || g_fds[fd].is_cloexec)
            ml_close(fd);
}

int ml_dup2(int fd, int to) {
    struct file *file = file_use(fd), *old;
    if (!file)
        return -EBADF;
    if (fd == to || to < 0 || to >= FDS) {
        file_release(file);
        return fd == to ? to : -EBADF;
    }
    pthread_mutex_lock(&g_files);
    old = g_fds[to].file;
    g_fds[to] = (struct descriptor){file, false};
    pthread_mutex_unlock(&g_files);
    if (old)
        release_descriptor(old);
    return to;
}

int ml_set_cloexec(int fd, bool on) {
    pthread_mutex_lock(&g_files);
    bool is_open = fd >= 0 && fd < FDS && g_fds[fd].file;
    if (is_open)
        g_fds[fd].is_cloexec = on;
    pthread_mutex_unlock(&g_files);
    return is_open ? 0 : -EBADF;
}

/* Makes an open file of a new descriptor of the host, and a descriptor of it. */
static int install_new(int host_fd, int flags) {
    struct file* file = file_new(host_fd, flags);
    file->users++;
    int fd = file_install(file, flags & O_CLOEXEC);
    file_release(file);
    return fd;
}

int ml_open(const char* path, int flags) {
    int host_fd = open(path, flags | O_CLOEXEC, 0600);
    return host_fd < 0 ? -errno : install_new(host_fd, flags);
}

static int install_pair(int fds[2], const int host_fds[2], int first_flags, int second_flags) {
    fds[0] = install_new(host_fds[0], first_flags);
    fds[1] = install_new(host_fds[1], second_flags);
    return fds[0] < 0 ? fds[0] : fds[1] < 0 ? fds[1] : 0;
}

int ml_pipe(int fds[2], int flags) {
    int host_fds[2];
    if (pipe2(host_fds, O_CLOEXEC | O_NONBLOCK) < 0)
        return -errno;
    return install_pair(fds, host_fds, O_RDONLY | flags, O_WRONLY | flags);
}

int ml_socketpair(int fds[2]) {
    int host_fds[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, host_fds) < 0)
        return -errno;
    return install_pair(fds, host_fds, O_RDWR, O_RDWR);
}

/* ---- Reading and writing ---- */

/* Writes data to a regular file at a position if `writes`, or else reads it, and moves the position. */
static ssize_t transfer(struct file* file, void* data, size_t size, bool writes, int64_t* position) {
    ssize_t count = writes ? pwrite(file->host_fd, data, size, *position) : pread(file->host_fd, data, size, *position);
    *position += count > 0 ? count : 0;
    return count < 0 ? -errno : count;
}

/* Reads or writes at the position that all descriptors of the open file share, also in other processes. */
static int64_t transfer_in_file(struct file* file, void* data, size_t size, bool writes) {
    pthread_mutex_lock(&g_positions);
    bool is_shared = file->position.handle;
    int64_t result = is_shared ? 0 : transfer(file, data, size, writes, &file->offset);
    pthread_mutex_unlock(&g_positions);
    if (!is_shared)
        return result;
    result = shared_lock(&file->position, NULL);
    if (result == 0) {
        int64_t position = file->position.value - 1;
        result = transfer(file, data, size, writes, &position);
        file->position.value = position + 1;
        shared_unlock(&file->position, result > 0);
    }
    return result;
}

/* Waits until a pipe or socket is ready, and reads from it or writes to it. */
static int64_t transfer_in_stream(struct file* file, void* data, size_t size, bool writes) {
    ssize_t count = -EAGAIN;
    while (count == -EAGAIN) {
        int result = call_wait(file->host_fd, writes ? POLLOUT : POLLIN);
        if (result != 0)
            return result;
        count = writes ? write(file->host_fd, data, size) : read(file->host_fd, data, size);
        count = count < 0 ? -errno : count;
    }
    return count;
}

static int64_t transfer_data(int fd, void* data, size_t size, bool writes) {
    int64_t result;
    do {
        call_begin();
        struct file* file = file_use(fd);
        if (!file || (file->flags & O_ACCMODE) == (writes ? O_RDONLY : O_WRONLY))
            result = -EBADF;
        else
            result = file->is_regular ? transfer_in_file(file, data, size, writes)
                                      : transfer_in_stream(file, data, size, writes);
        if (file)
            file_release(file);
    } while (call_again(result));
    return result;
}

int64_t ml_read(int fd, void* data, size_t size) {
    return transfer_data(fd, data, size, false);
}

int64_t ml_write(int fd, const void* data, size_t size) {
    return transfer_data(fd, (void*)(uintptr_t)data, size, true);
}

int64_t ml_seek(int fd, int64_t offset) {
    int64_t result;
    do {
        call_begin();
        struct file* file = file_use(fd);
        result = !file ? -EBADF : file->is_regular ? 0 : -ESPIPE;
        if (result == 0) {
            pthread_mutex_lock(&g_positions);
            file->offset = offset; /* counts unless the position is shared */
            pthread_mutex_unlock(&g_positions);
        }
        if (result == 0 && file->position.handle && (result = shared_lock(&file->position, NULL)) == 0) {
            file->position.value = offset + 1;
            shared_unlock(&file->position, true);
        }
        if (file)
            file_release(file);
    } while (call_again(result));
    return result < 0 ? result : offset;
}
