/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * How many functions of the platform a lock request takes, in the process that asks and in the leader, all threads counted.
 * The table of the stock platform is replaced by one that counts. The process runs itself again as the member.
 *
 *     host_calls BASE          prints a table, and fails if a bound is exceeded
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libos_ipc.h"
#include "libos_ipc_posix.h"
#include "check.h"

#define REQUESTS 2000
/* The bounds, for each request. In the mode `reads` a caller changes the interest in a stream twice, which ends the poll(2) in
 * the stock platform's `wait`, so that the worker calls it again; a platform over epoll(7) would have 5 calls. In the mode
 * `worker` a request takes 6 calls if the caller sleeps, as each does on a busy machine, and fewer if the answer comes before.
 * A wait that ends for nothing now and then adds some. */
#define READS_LIMIT 6.2
#define WORKER_LIMIT 6.2
#define LEADER_LIMIT 4.0
#define DELEGATED_LIMIT 0.05

#define FUNCTIONS(X) \
    X(now) X(read) X(write) X(rewatch) X(wait) X(wake) X(event_set) X(event_clear) X(event_is_set) X(event_wait) \
    X(wait_readable) X(yield) X(event_create) X(watch) X(unwatch)
#define NUMBER(name) F_##name,
enum { FUNCTIONS(NUMBER) F_COUNT };
#define NAME(name) #name,
static const char* const g_names[] = {FUNCTIONS(NAME)};

enum { LEADER, MEMBER };
/* Shared by both processes. */
static struct counters {
    atomic_ulong calls[2][F_COUNT];
} * g_shared;
static int g_who;
static struct libos_ipc_platform g_inner;

static void count(int function) {
    atomic_fetch_add(&g_shared->calls[g_who][function], 1);
}

#define COUNTED(type, name, parameters, arguments) \
    static type name##_counted parameters {        \
        count(F_##name);                           \
        return g_inner.name arguments;             \
    }
COUNTED(uint64_t, now, (void* c), (c))
COUNTED(int64_t, read, (void* c, void* s, void* b, size_t n), (c, s, b, n))
COUNTED(int64_t, write, (void* c, void* s, const void* b, size_t n), (c, s, b, n))
COUNTED(void, rewatch, (void* c, void* s, uint64_t t, uint32_t i), (c, s, t, i))
COUNTED(size_t, wait, (void* c, struct libos_ipc_ready* r, size_t n, uint64_t u), (c, r, n, u))
COUNTED(void, wake, (void* c), (c))
COUNTED(void, event_set, (void* c, void* e), (c, e))
COUNTED(void, event_clear, (void* c, void* e), (c, e))
COUNTED(bool, event_is_set, (void* c, void* e), (c, e))
COUNTED(void, event_wait, (void* c, void* e, uint64_t u), (c, e, u))
COUNTED(int, wait_readable, (void* c, void* s, void* e, uint64_t u), (c, s, e, u))
COUNTED(void, yield, (void* c), (c))
COUNTED(int, event_create, (void* c, void** e), (c, e))
COUNTED(int, watch, (void* c, void* s, uint64_t t, uint32_t i), (c, s, t, i))
COUNTED(void, unwatch, (void* c, void* s), (c, s))

static _Alignas(16) unsigned char g_memory[32 * 1024 * 1024];

static void start(const char* base, bool caller_reads, uint32_t delegated_files) {
    static const struct libos_ipc_callbacks callbacks = {0};
    char path[128];
    snprintf(path, sizeof(path), "%s.counters", base);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    IS(fd >= 0 && ftruncate(fd, sizeof(*g_shared)) == 0, 1);
    g_shared = mmap(NULL, sizeof(*g_shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    IS(g_shared != MAP_FAILED, 1);
    memset(g_shared->calls[g_who], 0, sizeof(g_shared->calls[g_who]));
    IS(libos_ipc_posix_platform(&g_inner, base, g_memory, sizeof(g_memory)), 0);
    struct libos_ipc_platform platform = g_inner;
#define REPLACE(name) platform.name = name##_counted;
    FUNCTIONS(REPLACE)
    if (!caller_reads)
        platform.wait_readable = NULL;
    struct libos_ipc_limits limits;
    libos_ipc_default_limits(&limits);
    limits.delegated_files = delegated_files;
    IS(libos_ipc_setup(&platform, &callbacks, &limits), 0);
    IS(init_ipc(), 0);
    IS(init_ipc_worker(), 0);
}

static unsigned long created(void) {
    return atomic_load(&g_shared->calls[g_who][F_event_create]);
}

static void request(int type) {
    struct libos_file_lock lock = {FILE_LOCK_POSIX, type, 0, 9, g_process_ipc_ids.self_vmid, 0};
    IS(file_lock_set("/a/file/with/a/path", &lock, false), 0);
}

/* Makes the requests, and returns the calls for each at the member and at the leader. */
static void measure(const char* title, double calls[2]) {
    unsigned long before[2][F_COUNT];
    request(1);
    request(2);
    for (int who = 0; who < 2; who++)
        for (int f = 0; f < F_COUNT; f++)
            before[who][f] = atomic_load(&g_shared->calls[who][f]);
    for (int i = 0; i < REQUESTS; i++)
        request(1 + i % 2);
    printf("%s\n", title);
    for (int who = MEMBER; who >= LEADER; who--) {
        unsigned long total = 0;
        printf("  %-7s", who == MEMBER ? "member" : "leader");
        for (int f = 0; f < F_COUNT; f++) {
            unsigned long made = atomic_load(&g_shared->calls[who][f]) - before[who][f];
            total += made;
            if (made > REQUESTS / 20)
                printf(" %s %.2f", g_names[f], (double)made / REQUESTS);
        }
        calls[who] = (double)total / REQUESTS;
        printf(" = %.2f\n", calls[who]);
    }
    fflush(stdout);
}

static int member(char** arguments) {
    const char* mode = arguments[2];
    const bool is_delegated = !strcmp(mode, "delegated"), reads = !strcmp(mode, "reads");
    g_who = MEMBER;
    g_process_ipc_ids = (struct libos_ipc_ids){(IDTYPE)atoi(arguments[3]), 1, 1};
    start(arguments[1], strcmp(mode, "worker"), is_delegated ? 8 : 0);
    IS(created() <= 4, 1);
    double calls[2];
    measure(mode, calls);
    int failed = calls[MEMBER] > (is_delegated ? DELEGATED_LIMIT : reads ? READS_LIMIT : WORKER_LIMIT);
    failed |= calls[LEADER] > (is_delegated ? DELEGATED_LIMIT : LEADER_LIMIT);
    /* One thread waits at a time, so it needs one event more. */
    failed |= created() > 6;
    terminate_ipc_worker();
    libos_ipc_posix_platform_end();
    return failed;
}

int main(int argc, char** argv) {
    if (argc == 4)
        return member(argv);
    int failed = 0;
    static const char* const modes[] = {"reads", "worker", "delegated"};
    start(argv[1], true, 0);
    IS(created() <= 4, 1);
    for (int mode = 0; mode < 3; mode++) {
        IDTYPE vmid;
        char number[16];
        int status = 1;
        IS(ipc_get_new_vmid(&vmid), 0);
        snprintf(number, sizeof(number), "%u", vmid);
        pid_t host = fork();
        if (host == 0) {
            execl("/proc/self/exe", argv[0], argv[1], modes[mode], number, (char*)NULL);
            _exit(1);
        }
        IS(waitpid(host, &status, 0) == host, 1);
        failed |= status != 0;
    }
    terminate_ipc_worker();
    libos_ipc_posix_platform_end();
    printf("host calls: %s\n", failed ? "too many" : "ok");
    return failed;
}
