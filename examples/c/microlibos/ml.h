/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The system calls of microlibos, a small library OS on libos_ipc.h. A program for it defines ml_main() and makes only
 * these calls. Linked with native.c instead it makes the host's own system calls: both must give the same results.
 *
 * Calls return 0 or a positive result, and -errno if they fail. A call that blocks returns -EINTR after a signal handler
 * has run. Memory is not copied by ml_fork(): the child begins in a new process with `entry` and a copy of the argument.
 */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>

int ml_main(int argc, char** argv);

/* ---- Processes ---- */

typedef int (*ml_entry)(const void* argument, size_t size);
/* Starts a process that runs entry(argument, size), at most 1,024 bytes, and ends with its result. Returns the pid. */
int ml_fork(ml_entry entry, const void* argument, size_t size);
/* Makes the next ml_fork() of this process fail with -EAGAIN after half of its work. */
void ml_fail_next_fork(void);
/* Replaces the program by the one of that name, which runs ml_main(). */
int ml_exec(const char* program, char* const argv[]);
_Noreturn void ml_exit(int status);

/* How a child ended: by ml_exit(status), or by a signal if that is not 0. */
struct ml_end {
    int pid, status, signal;
};
enum ml_which { ML_ANY, ML_PID, ML_GROUP };
/* waitid(2) with the options WNOHANG and WNOWAIT. If no child has ended end->pid is 0. */
int ml_wait(enum ml_which which, int id, int options, struct ml_end* end);
int ml_getpid(void);
int ml_getppid(void);
int ml_getpgid(int pid);
int ml_setpgid(int pid, int group);
int ml_getsid(int pid);
int ml_setsid(void);
/* Makes this process the parent of orphans among its descendants. */
int ml_subreaper(void);

/* ---- Threads ---- */

/* Starts a thread and returns its ID. */
int ml_thread(int (*run)(void* argument), void* argument);
/* Waits for the end of a thread and returns the result of its function. */
int ml_join(int tid);

/* ---- Signals ---- */

#define ML_BIT(number) (UINT64_C(1) << ((number) - 1))
/* Sets what a signal does: SIG_DFL, SIG_IGN or a handler, without SA_RESTART. SIGPIPE is ignored at first. */
int ml_signal(int number, void (*handler)(int number));
/* Replaces the mask of blocked signals of this thread and returns the old one. */
uint64_t ml_sigmask(uint64_t mask);
/* Waits with this mask until a handler has run. */
int ml_sigsuspend(uint64_t mask);
/* kill(2): a process, the group -pid, or for 0 the group of the caller. */
int ml_kill(int pid, int number);
int ml_tgkill(int pid, int tid, int number);

/* ---- Files ---- */

int ml_open(const char* path, int flags); /* created with the mode 0600 */
int ml_pipe(int fds[2], int flags);       /* flags: 0 or O_CLOEXEC */
int ml_socketpair(int fds[2]);
int ml_close(int fd);
int ml_dup2(int fd, int to);
int ml_set_cloexec(int fd, bool on);
int64_t ml_read(int fd, void* data, size_t size);
int64_t ml_write(int fd, const void* data, size_t size);
int64_t ml_seek(int fd, int64_t offset);
/* Sends a descriptor to a process over a socket, with one byte; receives one. */
int ml_send_fd(int socket, int pid, int fd);
int ml_receive_fd(int socket);

/* The commands are F_SETLK, F_SETLKW, F_GETLK and the same of open files (F_OFD_...), with l_whence SEEK_SET. */
int ml_lock(int fd, int command, struct flock* lock);
int ml_flock(int fd, int operation);

/* ---- Semaphores ---- */

/* Creates a semaphore, which other processes use by its number. It ends with the process that created it. */
int ml_sem_create(int value);
int ml_sem_down(int number);
int ml_sem_up(int number);
int ml_sem_remove(int number);

/* ---- For tests ---- */

/* Returns the number of calls of this process that wait for a lock of that file. */
int ml_lock_waiters(int fd);
/* Returns the number of messages that this process has sent; 0 in the native build. */
int ml_messages(void);

/* Prints a line with one write. */
__attribute__((format(printf, 1, 2))) static inline void ml_print(const char* format, ...) {
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof(line) - 1, format, arguments);
    va_end(arguments);
    if (length > (int)sizeof(line) - 2)
        length = (int)sizeof(line) - 2;
    line[length++] = '\n';
    ml_write(1, line, (size_t)length);
}
