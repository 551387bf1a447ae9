/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The loader and supervisor. `microlibos PROGRAM.so ARGUMENTS` begins a family with that program; `microlibos --child` is
 * how a process of the family starts another one. The main thread of the host is the supervisor: it ends the process and
 * replaces the program. So a thread that never makes a call cannot delay the end of its process.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "os.h"

char g_base[64], g_path[4096];
static struct checkpoint g_checkpoint; /* in a child */

_Noreturn void os_fail(const char* what, int error) {
    fprintf(stderr, "microlibos: process %d: %s: %s\n", g_os.pid, what, strerror(error));
    abort();
}

static void check(int result, const char* what) {
    if (result < 0)
        os_fail(what, -result);
}

/* An ordinary program causes no warning: `make check` compares this output, too. One that fills the family on purpose
 * causes those about this limit. */
static void print_log(void* context, enum libos_ipc_log_level level, const char* message) {
    (void)context;
    if (getenv("ML_PROCESSES") && strstr(message, "libos_ipc_limits.peers"))
        return;
    if (level <= LIBOS_IPC_LOG_WARNING)
        dprintf(1, "process %d: %s\n", g_os.pid, message);
}

static void fatal(void* context, const char* message) {
    (void)context;
    fprintf(stderr, "microlibos: process %d: fatal: %s\n", g_os.pid, message);
    abort();
}

static void self(void* context, struct libos_ipc_self* self) {
    (void)context;
    *self = (struct libos_ipc_self){(IDTYPE)g_os.pid, g_checkpoint.identity.parent_pid, getuid()};
}

static int64_t metadata(void* context, IDTYPE pid, enum pid_meta_code code, void* data, size_t size) {
    (void)context;
    if (pid != (IDTYPE)g_os.pid)
        return -ESRCH;
    if (code == PID_META_CRED) {
        uint32_t ids[2] = {getuid(), getgid()};
        memcpy(data, ids, sizeof(ids));
        return sizeof(ids);
    }
    const char* path = code == PID_META_EXEC ? g_program->path : "/";
    int length = snprintf(data, size, "%s", path);
    return length + 1;
}

/* Makes this process a member. The calls that the header allows before init_ipc() come before it, as in a library OS that
 * starts its subsystems in this order. */
static int join_family(bool is_first) {
    static const struct libos_ipc_callbacks callbacks = {
        .signal = signals_deliver, .metadata = metadata, .child_died = signals_child_died, .self = self, .log = print_log,
        .fatal = fatal};
    struct libos_ipc_platform platform;
    struct libos_ipc_limits limits;
    const char* process_limit = getenv("ML_PROCESSES");
    IDTYPE pid;
    libos_ipc_default_limits(&limits);
    limits.sync_handles = 64;
    /* Each thread may wait in a call. */
    limits.waiters = THREADS + 1;
    if (is_first && process_limit)
        limits.peers = (uint32_t)atoi(process_limit);
    size_t size = libos_ipc_memory_size(&limits, is_first);
    void* memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return -ENOMEM;
    check(libos_ipc_posix_platform(&platform, g_base, memory, size), "the platform");
    check(libos_ipc_setup(&platform, &callbacks, &limits), "libos_ipc_setup");
    g_process_ipc_ids = g_checkpoint.identity.ids;
    check(init_fs_lock(), "init_fs_lock");
    check(init_sync_client(), "init_sync_client");
    if (is_first)
        check(init_sync_server(), "init_sync_server");
    check(init_ipc(), "init_ipc");
    check(init_ipc_worker(), "init_ipc_worker");
    /* A signal may arrive as soon as this process has joined. */
    if (!is_first)
        checkpoint_restore(&g_checkpoint);
    g_os.pid = (int)g_checkpoint.identity.pid;
    int result = libos_ipc_join(g_checkpoint.identity.pid, g_checkpoint.identity.parent_pid, &pid);
    if (result == 0)
        g_os.pid = (int)pid;
    return result;
}

static int run_main(void* argument) {
    struct program* program = argument;
    return program->run(program->argc, program->argv);
}

static int run_entry(void* unused) {
    (void)unused;
    uintptr_t address = (uintptr_t)g_program->start + g_checkpoint.entry;
    ml_entry entry;
    memcpy(&entry, &address, sizeof(entry));
    return entry(g_checkpoint.argument, g_checkpoint.size);
}

/* The first process: standard input, output and error are its first open files. */
static void begin(int argc, char** argv) {
    snprintf(g_base, sizeof(g_base), "@microlibos-%d", (int)getpid());
    g_program = program_new(argv[1], argc - 1, argv + 1);
    check(program_load(g_program), argv[1]);
    check(join_family(true), "libos_ipc_join");
    for (int fd = 0; fd < 3; fd++) {
        struct file* file = file_new(fcntl(fd, F_DUPFD_CLOEXEC, 3), O_RDWR);
        file->is_regular = false;
        file_install(file, false);
    }
    thread_start(g_os.pid, 0, run_main, g_program);
}

/* Begins a child. It reads its checkpoint from the descriptor `saved`, and reports to `status` whether it has joined. */
static void begin_child(int saved, int status) {
    char* none[] = {NULL};
    fcntl(status, F_SETFD, FD_CLOEXEC);
    checkpoint_read(saved, &g_checkpoint);
    memcpy(g_base, g_checkpoint.base, sizeof(g_base));
    g_program = program_new(g_checkpoint.program, 0, none);
    check(program_load(g_program), g_program->path);
    int result = join_family(false);
    if (write(status, &result, sizeof(result)) != sizeof(result) || result != 0)
        _exit(1);
    close(status);
    thread_start(g_os.pid, g_checkpoint.mask, run_entry, NULL);
}

/* Ends this process in the family, and then on the host. Other processes see this in the order of a kernel: first the end of
 * files and locks, then the notice for the parent. */
static _Noreturn void end(void) {
    threads_await_calls();
    files_close(true);
    int result = libos_ipc_exit(getuid(), (unsigned int)g_os.status & 0xff, (unsigned int)g_os.signal);
    if (result < 0)
        os_fail("libos_ipc_exit", -result);
    libos_ipc_leave(NULL);
    terminate_ipc_worker();
    libos_ipc_posix_platform_end();
    _exit(g_os.signal ? 128 + g_os.signal : g_os.status & 0xff);
}

/* Replaces the program, after all of its threads have left. */
static void execute(void) {
    pthread_mutex_lock(&g_os.lock);
    while (g_os.running > 0 && g_os.request == EXEC)
        pthread_cond_wait(&g_os.changed, &g_os.lock);
    bool ends = g_os.request == END;
    pthread_mutex_unlock(&g_os.lock);
    if (ends)
        end();
    for (int i = 0; i < THREADS; i++) {
        if (g_os.threads[i].used && g_os.threads[i].tid != g_os.pid)
            release_id((IDTYPE)g_os.threads[i].tid);
        g_os.threads[i].used = false;
    }
    program_unload(g_program);
    g_program = g_os.next;
    g_os.next = NULL;
    files_close(false);
    signals_reset();
    check(program_load(g_program), g_program->path);
    check(libos_ipc_set_process_flag(LIBOS_IPC_EXECUTED, true), "libos_ipc_set_process_flag");
    pthread_mutex_lock(&g_os.lock);
    ends = g_os.request == END;
    g_os.request = NONE;
    pthread_mutex_unlock(&g_os.lock);
    if (ends)
        end();
    thread_start(g_os.pid, g_os.next_mask, run_main, g_program);
}

int main(int argc, char** argv) {
    /* A process that hangs does not outlive a check. */
    alarm(60);
    if (argc < 2) {
        fprintf(stderr, "usage: microlibos PROGRAM.so ARGUMENTS...\n");
        return 2;
    }
    /* The name /proc/self/exe itself would be the path of valgrind when a child is executed under valgrind. */
    if (readlink("/proc/self/exe", g_path, sizeof(g_path) - 1) < 0)
        os_fail("/proc/self/exe", errno);
    /* The host reaps its own processes, and reports writes to closed pipes as errors. */
    signal(SIGCHLD, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    if (argc == 4 && !strcmp(argv[1], "--child"))
        begin_child(atoi(argv[2]), atoi(argv[3]));
    else
        begin(argc, argv);
    for (;;) {
        pthread_mutex_lock(&g_os.lock);
        while (g_os.request == NONE)
            pthread_cond_wait(&g_os.changed, &g_os.lock);
        enum request request = g_os.request;
        pthread_mutex_unlock(&g_os.lock);
        if (request == END)
            end();
        execute();
    }
}
