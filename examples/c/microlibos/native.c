/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The calls of ml.h as the host's own system calls. */
#include "ml.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char* g_directory;
static bool g_next_fork_fails;
/* The number of living children, and its limit, for programs that are run with a limit of processes. */
static int g_children, g_max_children = 1 << 20;

static int result(long value) {
    return value < 0 ? -errno : (int)value;
}

/* ---- Processes ---- */

int ml_fork(ml_entry entry, const void* argument, size_t size) {
    if (g_next_fork_fails || g_children >= g_max_children) {
        g_next_fork_fails = false;
        return -EAGAIN;
    }
    pid_t pid = fork();
    if (pid == 0) {
        alarm(60);
        g_children = 0;
        _exit(entry(argument, size));
    }
    __atomic_fetch_add(&g_children, pid > 0, __ATOMIC_SEQ_CST);
    return result(pid);
}

void ml_fail_next_fork(void) {
    g_next_fork_fails = true;
}

int ml_exec(const char* program, char* const argv[]) {
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s", g_directory, program);
    return result(execv(path, argv));
}

void ml_exit(int status) {
    _exit(status);
}

int ml_wait(enum ml_which which, int id, int options, struct ml_end* end) {
    static const idtype_t kinds[] = {P_ALL, P_PID, P_PGID};
    siginfo_t info = {0};
    if (waitid(kinds[which], (id_t)id, &info, WEXITED | options) < 0)
        return -errno;
    bool exited = info.si_code == CLD_EXITED;
    *end = (struct ml_end){info.si_pid, exited ? info.si_status : 0, info.si_pid && !exited ? info.si_status : 0};
    __atomic_fetch_sub(&g_children, info.si_pid && !(options & WNOWAIT), __ATOMIC_SEQ_CST);
    return 0;
}

int ml_getpid(void) {
    return getpid();
}

int ml_getppid(void) {
    return getppid();
}

int ml_getpgid(int pid) {
    return result(getpgid(pid));
}

int ml_setpgid(int pid, int group) {
    return result(setpgid(pid, group));
}

int ml_getsid(int pid) {
    return result(getsid(pid));
}

int ml_setsid(void) {
    return result(setsid());
}

int ml_subreaper(void) {
    return result(prctl(PR_SET_CHILD_SUBREAPER, 1));
}

/* ---- Threads ---- */

static struct thread {
    pthread_t thread;
    int (*run)(void*);
    void* argument;
    int tid, result;
} g_threads[256];
static int g_used;

static void* run_thread(void* argument) {
    struct thread* thread = argument;
    __atomic_store_n(&thread->tid, (int)syscall(SYS_gettid), __ATOMIC_SEQ_CST);
    thread->result = thread->run(thread->argument);
    return NULL;
}

int ml_thread(int (*run)(void*), void* argument) {
    struct thread* thread = &g_threads[__atomic_fetch_add(&g_used, 1, __ATOMIC_SEQ_CST)];
    thread->run = run;
    thread->argument = argument;
    int error = pthread_create(&thread->thread, NULL, run_thread, thread);
    if (error)
        return -error;
    int tid;
    while (!(tid = __atomic_load_n(&thread->tid, __ATOMIC_SEQ_CST)))
        sched_yield();
    return tid;
}

int ml_join(int tid) {
    for (int i = 0; i < g_used; i++)
        if (g_threads[i].tid == tid) {
            pthread_join(g_threads[i].thread, NULL);
            return g_threads[i].result;
        }
    return -ESRCH;
}

/* ---- Signals ---- */

int ml_signal(int number, void (*handler)(int)) {
    struct sigaction action = {.sa_handler = handler};
    return result(sigaction(number, &action, NULL));
}

static sigset_t set_of(uint64_t mask) {
    sigset_t set;
    sigemptyset(&set);
    for (int number = 1; number <= 31; number++)
        if (mask & ML_BIT(number))
            sigaddset(&set, number);
    return set;
}

uint64_t ml_sigmask(uint64_t mask) {
    sigset_t set = set_of(mask), old;
    uint64_t bits = 0;
    pthread_sigmask(SIG_SETMASK, &set, &old);
    for (int number = 1; number <= 31; number++)
        bits |= sigismember(&old, number) ? ML_BIT(number) : 0;
    return bits;
}

int ml_sigsuspend(uint64_t mask) {
    sigset_t set = set_of(mask);
    return result(sigsuspend(&set));
}

int ml_kill(int pid, int number) {
    return result(kill(pid, number));
}

int ml_tgkill(int pid, int tid, int number) {
    return result(syscall(SYS_tgkill, pid, tid, number));
}

/* ---- Files ---- */

int ml_open(const char* path, int flags) {
    return result(open(path, flags, 0600));
}

int ml_pipe(int fds[2], int flags) {
    return result(pipe2(fds, flags));
}

int ml_socketpair(int fds[2]) {
    return result(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds));
}

int ml_close(int fd) {
    return result(close(fd));
}

int ml_dup2(int fd, int to) {
    return result(dup2(fd, to));
}

int ml_set_cloexec(int fd, bool on) {
    return result(fcntl(fd, F_SETFD, on ? FD_CLOEXEC : 0));
}

int64_t ml_read(int fd, void* data, size_t size) {
    return result(read(fd, data, size));
}

int64_t ml_write(int fd, const void* data, size_t size) {
    return result(write(fd, data, size));
}

int64_t ml_seek(int fd, int64_t offset) {
    return result(lseek(fd, offset, SEEK_SET));
}

union control {
    struct cmsghdr header;
    char space[CMSG_SPACE(sizeof(int))];
};

int ml_send_fd(int socket, int pid, int fd) {
    (void)pid;
    union control control = {.header = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
    char byte = 0;
    struct iovec data = {&byte, 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    long sent = sendmsg(socket, &message, MSG_NOSIGNAL);
    return sent < 0 ? -errno : 0;
}

int ml_receive_fd(int socket) {
    union control control;
    char byte;
    int fd;
    struct iovec data = {&byte, 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    long received = recvmsg(socket, &message, 0);
    if (received < 0)
        return -errno;
    if (received == 0 || message.msg_controllen < sizeof(control.header))
        return -EPIPE;
    memcpy(&fd, CMSG_DATA(&control.header), sizeof(fd));
    return fd;
}

int ml_lock(int fd, int command, struct flock* lock) {
    return result(fcntl(fd, command, lock));
}

int ml_flock(int fd, int operation) {
    return result(flock(fd, operation));
}

/* ---- Semaphores ---- */

static int change(int number, short by) {
    struct sembuf operation = {0, by, 0};
    return result(semop(number, &operation, 1));
}

int ml_sem_create(int value) {
    int number = semget(IPC_PRIVATE, 1, 0600);
    int done = number < 0 || value == 0 ? 0 : change(number, (short)value);
    return number < 0 ? -errno : done < 0 ? done : number;
}

int ml_sem_down(int number) {
    return change(number, -1);
}

int ml_sem_up(int number) {
    return change(number, 1);
}

int ml_sem_remove(int number) {
    return result(semctl(number, 0, IPC_RMID));
}

/* ---- For tests ---- */

/* The kernel lists each waiting request with an arrow and the inode. */
int ml_lock_waiters(int fd) {
    struct stat status;
    char line[256], inode[32];
    int found = 0;
    if (fstat(fd, &status) < 0)
        return -errno;
    snprintf(inode, sizeof(inode), ":%lu ", (unsigned long)status.st_ino);
    FILE* list = fopen("/proc/locks", "re");
    if (!list)
        return -errno;
    while (fgets(line, sizeof(line), list))
        found += strstr(line, "-> ") && strstr(line, inode);
    fclose(list);
    return found;
}

int ml_messages(void) {
    return 0;
}

int main(int argc, char** argv) {
    /* A process that hangs does not outlive a check. */
    alarm(60);
    const char* limit = getenv("ML_PROCESSES");
    g_directory = getenv("ML_DIRECTORY");
    if (limit)
        g_max_children = atoi(limit);
    /* Signals for the group stay among the processes of the program. After an exec the session exists. */
    if (!getenv("ML_STARTED"))
        setsid();
    setenv("ML_STARTED", "1", 1);
    signal(SIGPIPE, SIG_IGN);
    return ml_main(argc, argv);
}
