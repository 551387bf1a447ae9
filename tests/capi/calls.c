/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* One process makes the calls of the header, in the right and in the wrong order, and checks their results. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libos_ipc.h"
#include "libos_ipc_posix.h"

static _Alignas(16) unsigned char g_memory[LIBOS_IPC_MEMORY_LEADER];
/* The stack of the calls. What they use is counted from the first function on, callbacks included: thread-local data of
 * the C library is above it. */
static _Alignas(4096) unsigned char g_stack[64 * 1024];
#define STACK_LIMIT (8 * 1024)
static size_t g_most;
static unsigned char* g_first_frame;
static bool g_polled;
static int g_failed;
static int g_signals, g_allocated;
static char g_last_log[256];

#define CHECK(condition)                                                        \
    do {                                                                        \
        if (!(condition)) {                                                     \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);     \
            g_failed = 1;                                                       \
        }                                                                       \
    } while (0)
#define IS(call, expected)                                                      \
    do {                                                                        \
        long long got = (call), wanted = (expected);                            \
        if (got != wanted) {                                                    \
            fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", __FILE__, __LINE__, #call, got, wanted); \
            g_failed = 1;                                                       \
        }                                                                       \
    } while (0)

static int deliver(void* context, const struct libos_ipc_pid_kill* kill) {
    (void)context;
    if (kill->type == KILL_THREAD)
        return -ESRCH;
    g_signals += kill->signum != 0;
    return kill->sender == 77 ? -EPERM : 0;
}

static int64_t get_metadata(void* context, IDTYPE pid, enum pid_meta_code code, void* data, size_t size) {
    (void)context, (void)pid, (void)size;
    if (code == PID_META_CWD)
        return -ENOENT;
    memcpy(data, "/bin/sh", 8);
    return 8;
}

static int64_t key_of(void* context, const char* path, char* key, size_t size) {
    (void)context, (void)size;
    size_t length = strlen(path);
    memcpy(key, path, length);
    return (int64_t)length;
}

static void print_log(void* context, enum libos_ipc_log_level level, const char* message) {
    (void)context, (void)level;
    snprintf(g_last_log, sizeof(g_last_log), "%s", message);
}

static void fatal(void* context, const char* message) {
    (void)context;
    fprintf(stderr, "fatal: %s\n", message);
    abort();
}

static void* allocate(void* context, size_t size) {
    (void)context;
    g_allocated++;
    return malloc(size);
}

static int (*g_listen)(void*, IDTYPE);
static int g_second = 1;

static void* init_once_more(void* result) {
    *(int*)result = init_ipc();
    return NULL;
}

/* A second thread calls init_ipc() during the first call. */
static int listen_meanwhile(void* context, IDTYPE vmid) {
    pthread_t thread;
    if (g_second == 1) {
        g_second = 0;
        CHECK(pthread_create(&thread, NULL, init_once_more, &g_second) == 0);
        pthread_join(thread, NULL);
    }
    return g_listen(context, vmid);
}

static void before_setup(void) {
    IDTYPE id;
    struct sync_handle* handle;
    struct libos_file_lock lock = {FILE_LOCK_POSIX, 1, 0, 0, 1, 0};
    IS(init_ipc(), -EINVAL);
    IS(init_ipc_worker(), -EINVAL);
    IS(init_sync_server(), 0);
    IS(init_sync_client(), 0);
    IS(init_fs_lock(), 0);
    IS(init_id_ranges(5), -EINVAL);
    IS(ipc_get_new_vmid(&id), -EINVAL);
    IS(libos_ipc_announce(9), -EINVAL);
    IS(ipc_kill_process(1, 1, 9), -EINVAL);
    IS(ipc_cld_exit_send(0, 0), -EINVAL);
    IS(sync_create(&handle, 0), -EINVAL);
    IS(file_lock_set("/f", &lock, false), -EINVAL);
    IS(file_lock_clear_pid(1), -EINVAL);
    IS(connect_to_process(2), -EINVAL);
    IS(get_new_id(0), 0);
    release_id(1);
    remove_outgoing_ipc_connection(1);
    ipc_child_disconnect_callback(1);
    terminate_ipc_worker();
    CHECK(!libos_ipc_turn(0));
}

static void setting_up(const char* base) {
    struct libos_ipc_callbacks callbacks = {.signal = deliver, .metadata = get_metadata, .file_key = key_of, .log = print_log, .fatal = fatal};
    struct libos_ipc_platform platform;
    struct libos_ipc_limits limits;
    libos_ipc_default_limits(&limits);
    IS(limits.wrap_ids, true);
    IS(limits.lease_limit_ms, 0);
    IS(limits.admission, LIBOS_IPC_ADMIT_ANY);
    IS(limits.quota, LIBOS_IPC_QUOTA_FAIR);
    limits.call_limit_ms = 5000;
    limits.sync_handles = 2;
    CHECK(libos_ipc_memory_size(NULL, true) <= LIBOS_IPC_MEMORY_LEADER);
    CHECK(libos_ipc_memory_size(NULL, false) <= LIBOS_IPC_MEMORY_MEMBER);
    IS(libos_ipc_posix_platform(&platform, base, g_memory, sizeof(g_memory)), 0);
    if (g_polled) {
        platform.thread_create = NULL;
        platform.wait_readable = NULL;
    }
    platform.allocate = allocate;
    g_listen = platform.listen;
    platform.listen = listen_meanwhile;
    IS(libos_ipc_setup(NULL, &callbacks, NULL), -EINVAL);
    IS(libos_ipc_setup(&platform, NULL, NULL), -EINVAL);
    struct libos_ipc_platform lacking = platform;
    lacking.rewatch = NULL;
    IS(libos_ipc_setup(&lacking, &callbacks, NULL), -EINVAL);
    CHECK(strstr(g_last_log, "rewatch"));
    IS(libos_ipc_setup(&platform, &callbacks, &limits), 0);
    IS(libos_ipc_setup(&platform, &callbacks, &limits), -EALREADY);
    /* The library has copied the tables. */
    memset(&platform, 0, sizeof(platform));
    memset(&callbacks, 0, sizeof(callbacks));
    g_process_ipc_ids = (struct libos_ipc_ids){2, 0, 1};
    IS(init_ipc(), -EINVAL);
    g_process_ipc_ids = (struct libos_ipc_ids){2, 2, 1};
    IS(init_ipc_ids(), -EINVAL);
    g_process_ipc_ids = (struct libos_ipc_ids){0, 0, 0};
    IS(init_ipc(), 0);
    IS(g_second, -EALREADY);
    IS(init_ipc(), -EALREADY);
    IS(g_process_ipc_ids.self_vmid, STARTING_VMID);
    IS(libos_ipc_announce(STARTING_VMID), -EINVAL);
    IS(libos_ipc_announce(0), -EINVAL);
    IS(libos_ipc_announce(1000), 0);
    IS(init_ipc_worker(), 0);
    IS(init_sync_server(), 0);
    IS(init_sync_client(), 0);
    IS(init_fs_lock(), 0);
}

static void ids(void) {
    IDTYPE vmid, start, end, owner;
    IS(ipc_get_new_vmid(&vmid), 0);
    IS(vmid, STARTING_VMID + 1);
    IS(ipc_alloc_id_range(&start, &end), 0);
    IS(end - start + 1, MAX_RANGE_SIZE);
    IS(ipc_get_id_owner(start, &owner), 0);
    IS(owner, STARTING_VMID);
    IS(ipc_change_id_owner(start + 1, vmid), 0);
    IS(ipc_get_id_owner(start + 1, &owner), 0);
    IS(owner, vmid);
    IS(ipc_change_id_owner(start + 1, vmid), -EPERM);
    IS(libos_ipc_bury(vmid), 0);
    IS(ipc_get_id_owner(start + 1, &owner), 0);
    IS(owner, 0);
    IS(ipc_release_id_range(start, start), 0);
    IS(ipc_release_id_range(start + 2, end), 0);
    IS(ipc_get_id_owner(end, &owner), 0);
    IS(owner, 0);
    CHECK(ipc_release_id_range(start + 2, end) < 0);
    IDTYPE id = get_new_id(0);
    CHECK(id != 0);
    IS(libos_ipc_ids_in_use(), 1);
    IS(libos_ipc_release_idle_ranges(), 0);
    IS(ipc_get_id_owner(id, &owner), 0);
    IS(owner, STARTING_VMID); /* The ID is in use, so its range stays. */
    release_id(id);
    IS(libos_ipc_ids_in_use(), 0);
    IS(libos_ipc_release_idle_ranges(), 0);
    IS(ipc_get_id_owner(id, &owner), 0);
    IS(owner, 0);
}

static void processes(void) {
    IDTYPE pid = get_new_id(0);
    struct libos_ipc_pid_retmeta* answer = NULL;
    IS(ipc_kill_process(pid, pid, 10), 0);
    IS(g_signals, 1);
    IS(ipc_kill_process(77, pid, 10), -EPERM);
    IS(ipc_kill_thread(pid, pid, pid, 10), -ESRCH);
    IS(ipc_kill_process(pid, 4000000, 10), -ESRCH);
    IS(ipc_kill_process(pid, pid, 65), -EINVAL);
    /* The family has no other process. */
    IS(ipc_kill_all(pid, 10), -ESRCH);
    IS(ipc_pid_getmeta(pid, PID_META_EXEC, &answer), 0);
    CHECK(answer && answer->datasize == 8 && !answer->ret_val && !strcmp(answer->data, "/bin/sh"));
    free(answer);
    IS(g_allocated, 1);
    IS(ipc_pid_getmeta(pid, PID_META_CWD, &answer), -ENOENT);
    IS(ipc_pid_getmeta(4000000, PID_META_EXEC, &answer), -ESRCH);
    IS(g_allocated, 1);
    IS(ipc_cld_exit_send(0, 0), 0);
    release_id(pid);
}

static void handles(void) {
    struct sync_handle *one, *two, *three;
    uint64_t data = 0, other = 42;
    IS(sync_create(&one, 7), 0);
    IS(libos_ipc_sync_id(one), 7);
    IS(sync_create(&two, 7), -EINVAL);
    IS(sync_create(&two, 0), 0);
    CHECK(libos_ipc_sync_id(two) >> 63);
    sync_unlock(one, &other, sizeof(other)); /* The handle is not locked, so the call changes nothing. */
    unsigned int news = 9;
    IS(libos_ipc_sync_lock(one, SYNC_STATE_SHARED, &data, sizeof(data), &news), 0);
    IS(data, 0);
    sync_unlock(one, NULL, 0);
    IS(sync_create(&three, 0), -ENOMEM);
    uint64_t first = 0, second = 0;
    IS(libos_ipc_sync_fencing(one, &first), -EINVAL);
    CHECK(!sync_lock(one, SYNC_STATE_EXCLUSIVE, &data, sizeof(data)));
    IS(libos_ipc_sync_fencing(one, &first), 0);
    IS(libos_ipc_sync_fencing(one, &second), 0);
    CHECK(first > 0 && second == first + 1);
    g_last_log[0] = 0;
    sync_unlock(one, &other, SIZE_MAX); /* The data is too long, so the library reads none of it. */
    CHECK(strstr(g_last_log, "not given back"));
    sync_unlock(one, &other, sizeof(other));
    news = 9;
    IS(libos_ipc_sync_lock(one, SYNC_STATE_SHARED, &data, sizeof(data), &news), 0);
    IS(news, 0);
    sync_unlock(one, NULL, 0);
    IS(libos_ipc_sync_lock(one, SYNC_STATE_NUM, &data, sizeof(data), &news), -EINVAL);
    sync_destroy(two);
    IS(libos_ipc_sync_id(two), 0);
    IS(libos_ipc_sync_lock(two, SYNC_STATE_SHARED, &data, sizeof(data), &news), -EINVAL);
    sync_unlock(two, NULL, 0);
    sync_destroy(two);
    IS(shutdown_sync_client(), 0);
    IS(libos_ipc_sync_id(one), 0);
}

static void locks(void) {
    struct libos_file_lock mine = {FILE_LOCK_POSIX, 1, 10, 19, 1, 0}, theirs = {FILE_LOCK_POSIX, 0, 0, FS_LOCK_EOF, 2, 0}, found;
    IS(file_lock_get("/f", &theirs, &found), 0);
    IS(found.type, 2);
    IS(file_lock_set("/f", &mine, false), 0);
    IS(file_lock_set("/f", &theirs, false), -EAGAIN);
    uint64_t first = 0, second = 0;
    IS(libos_ipc_file_lock_fencing("/f", &mine, &first), 0);
    IS(libos_ipc_file_lock_fencing("/f", &mine, &second), 0);
    CHECK(first > 0 && second > first);
    IS(libos_ipc_file_lock_fencing("/f", &theirs, &second), -EPERM);
    IS(libos_ipc_file_lock_fencing("/f", &mine, NULL), 0);
    struct libos_ipc_call_limit limit = {.timeout_ns = 1000000000};
    IS(libos_ipc_file_lock_get_within("/f", &theirs, &found, &limit), 0);
    CHECK(found.type == 1 && found.start == 10 && found.end == 19);
    IS(file_lock_get("/f", &theirs, &found), 0);
    CHECK(found.type == 1 && found.start == 10 && found.end == 19 && found.pid == 1);
    /* file_lock_get() returns the conflicting lock that starts lowest, for reading or writing. */
    static const struct libos_file_lock more[] = {{FILE_LOCK_POSIX, 1, 60, 69, 1, 0}, {FILE_LOCK_POSIX, 0, 2, 4, 1, 0},
                                                  {FILE_LOCK_POSIX, 1, 30, FS_LOCK_EOF, 1, 0}};
    for (int i = 0; i < 3; i++) {
        struct libos_file_lock one = more[i];
        IS(file_lock_set("/f", &one, false), 0);
    }
    struct libos_file_lock all = {FILE_LOCK_POSIX, 1, 0, FS_LOCK_EOF, 2, 0};
    IS(ipc_file_lock_get("/f", &all, &found), 0);
    CHECK(found.type == 0 && found.start == 2 && found.end == 4);
    all.start = 20;
    IS(file_lock_get("/f", &all, &found), 0);
    CHECK(found.type == 1 && found.start == 30 && found.end == FS_LOCK_EOF);
    IS(file_lock_set("/g", &theirs, false), 0);
    IS(ipc_file_lock_clear_pid(1), 0);
    IS(file_lock_set("/f", &theirs, true), 0);
    mine.start = 20;
    IS(file_lock_set("/f", &mine, false), -EINVAL);
    mine.family = FILE_LOCK_UNKNOWN;
    mine.start = 0;
    IS(file_lock_set("/f", &mine, false), -EINVAL);
    IS(file_lock_set(NULL, &mine, false), -EINVAL);
    IS(file_lock_clear_pid(2), 0);
}

static void messages(void) {
    union {
        struct libos_ipc_msg message;
        char bytes[128];
    } raw = {.bytes = {0}};
    void* answer = NULL;
    IDTYPE vmid;
    /* A new VMID, for a process that does not exist. */
    IS(ipc_get_new_vmid(&vmid), 0);
    IS(get_ipc_msg_size(4), sizeof(struct ipc_msg_header) + 4);
    init_ipc_msg(&raw.message, IPC_MSG_GET_NEW_VMID, get_ipc_msg_size(0));
    IS(ipc_send_msg_and_get_response(STARTING_VMID, &raw.message, &answer), -EINVAL);
    IS(ipc_send_msg_and_get_response(vmid, &raw.message, &answer), -ESRCH);
    CHECK(!answer);
    init_ipc_msg(&raw.message, IPC_MSG_CODE_BOUND, get_ipc_msg_size(0));
    IS(ipc_send_message(vmid, &raw.message), -EINVAL);
    init_ipc_msg(&raw.message, IPC_MSG_GET_ID_OWNER, get_ipc_msg_size(1));
    IS(ipc_send_message(vmid, &raw.message), -EINVAL);
    init_ipc_msg(&raw.message, IPC_MSG_GET_ID_OWNER, SIZE_MAX);
    IS(ipc_send_message(vmid, &raw.message), -ENOMEM);
    raw.message.header.size = 0;
    IS(ipc_send_message(vmid, &raw.message), -EINVAL);
    IS(ipc_get_new_vmid_callback(vmid, NULL, 1), -ESRCH);
    IS(ipc_pid_kill_callback(vmid, NULL, 1), -EINVAL);
}

/* Paths, keys and messages of any length take no more stack than short ones. */
static void long_ones(void) {
    static char path[4096];
    static union {
        struct libos_ipc_msg message;
        char bytes[4096];
    } raw;
    struct libos_file_lock mine = {FILE_LOCK_POSIX, 1, 0, 9, 1, 0}, found;
    struct libos_ipc_call_limit limit = {.timeout_ns = 1000000000};
    uint64_t number;
    memset(path, 'p', sizeof(path));
    const size_t lengths[] = {255, 256, 257, 300, 4000};
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        path[lengths[i]] = 0;
        mine.type = 1;
        IS(file_lock_set(path, &mine, false), 0);
        IS(libos_ipc_file_lock_fencing(path, &mine, &number), 0);
        mine.pid = 2;
        IS(file_lock_get(path, &mine, &found), 0);
        IS(found.pid, 1);
        IS(ipc_file_lock_get(path, &mine, &found), 0);
        IS(libos_ipc_file_lock_get_within(path, &mine, &found, &limit), 0);
        mine.pid = 1;
        IS(libos_ipc_close_file(path, 1), 0);
        IS(file_lock_set(path, &mine, true), 0);
        IS(ipc_file_lock_set(path, &mine, false), 0);
        mine.type = 2;
        IS(libos_ipc_file_lock_set_within(path, &mine, false, &limit), 0);
        path[lengths[i]] = 'p';
        size_t size = get_ipc_msg_size(sizeof(struct libos_ipc_file_lock) + lengths[i]);
        if (size > sizeof(raw))
            size = sizeof(raw);
        init_ipc_msg(&raw.message, IPC_MSG_FILE_LOCK_SET, size);
        struct libos_ipc_file_lock asked = {.family = FILE_LOCK_POSIX, .type = 1, .pid = 1};
        memset(raw.message.data, 'p', size - sizeof(raw.message));
        memcpy(raw.message.data, &asked, sizeof(asked));
        raw.bytes[size - 8] = 0;
        CHECK(ipc_send_message(4000, &raw.message) < 0);
        CHECK(ipc_send_msg_and_get_response(4000, &raw.message, NULL) < 0);
    }
    path[sizeof(path) - 1] = 0;
    IS(file_lock_set(path, &mine, false), 0);
}

static void at_the_end(void) {
    struct libos_ipc_statistics statistics;
    IS(libos_ipc_get_statistics(&statistics), 0);
    IS(statistics.locks.now, 0);
    IS(statistics.served_handles.now, 0);
    IS(statistics.waiters.now, 0);
    IS(statistics.children.now, 0);
    IS(statistics.broken_invariants, 0);
    terminate_ipc_worker();
    IDTYPE id;
    IS(ipc_get_new_vmid(&id), -ESHUTDOWN);
    /* A process that ends releases its IDs in any order. */
    g_last_log[0] = 0;
    release_id(1);
    IS(g_last_log[0], 0);
    terminate_ipc_worker();
}

/* Adds what the calls of one part used to the output, and paints the unused stack again. */
static void measure(const char* part) {
    size_t unused = 0;
    while (g_stack[unused] == 0xA5)
        unused++;
    size_t used = (size_t)(g_first_frame - g_stack) - unused;
    g_most = used > g_most ? used : g_most;
    printf("%s: %zu bytes of stack\n", part, used);
    memset(g_stack, 0xA5, (size_t)((unsigned char*)__builtin_frame_address(0) - g_stack) - 1024);
}

static void* run(void* base) {
    g_first_frame = __builtin_frame_address(0);
    before_setup();
    measure("before set-up");
    setting_up(base);
    measure("set-up");
    ids();
    measure("ids");
    processes();
    measure("processes");
    handles();
    measure("handles");
    locks();
    measure("locks");
    messages();
    measure("messages");
    long_ones();
    measure("long paths and messages");
    at_the_end();
    measure("end");
    libos_ipc_posix_platform_end();
    return NULL;
}

/* The argument `polled` runs the test without threads. */
int main(int argc, char** argv) {
    pthread_t thread;
    pthread_attr_t attributes;
    g_polled = argc == 3 && !strcmp(argv[2], "polled");
    if (argc < 2)
        return 2;
    memset(g_stack, 0xA5, sizeof(g_stack));
    pthread_attr_init(&attributes);
    pthread_attr_setstack(&attributes, g_stack, sizeof(g_stack));
    if (pthread_create(&thread, &attributes, run, argv[1]))
        return 2;
    pthread_join(thread, NULL);
    printf("%zu bytes of stack were used\n", g_most);
    CHECK(g_most <= STACK_LIMIT);
    return g_failed;
}
