/*
 * What the existing C implementation sends, byte for byte: each message and each answer once, with
 * the structs as that has them, laid out by the C compiler. It shares nothing with the library.
 *
 * Prints a line for each: a name, and the frame in hexadecimal.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef uint32_t IDTYPE;

enum {
    RESP, GET_NEW_VMID, CHILDEXIT, ALLOC_ID_RANGE, RELEASE_ID_RANGE, CHANGE_ID_OWNER, GET_ID_OWNER,
    PID_KILL, PID_GETMETA, SYNC_REQUEST_UPGRADE, SYNC_REQUEST_DOWNGRADE, SYNC_REQUEST_CLOSE,
    SYNC_CONFIRM_UPGRADE, SYNC_CONFIRM_DOWNGRADE, SYNC_CONFIRM_CLOSE, FILE_LOCK_SET, FILE_LOCK_GET,
    FILE_LOCK_CLEAR_PID,
};

enum kill_type { KILL_THREAD, KILL_PROCESS, KILL_PGROUP, KILL_ALL };
enum pid_meta_code { PID_META_CRED, PID_META_EXEC, PID_META_CWD, PID_META_ROOT };
enum file_lock_family { POSIX_LOCK = 1, FLOCK_LOCK = 2 };

struct header {
    size_t size;
    uint64_t seq;
    unsigned char code;
} __attribute__((packed));

struct id_range { IDTYPE start, end; };
struct id_owner { IDTYPE id, owner; };

struct cld_exit {
    IDTYPE ppid, pid;
    IDTYPE uid;
    unsigned int exitcode;
    unsigned int term_signal;
} __attribute__((packed));

struct pid_kill {
    IDTYPE sender;
    IDTYPE pid;
    IDTYPE id;
    int signum;
    enum kill_type type;
};

struct pid_getmeta {
    IDTYPE pid;
    enum pid_meta_code code;
} __attribute__((packed));

struct pid_retmeta {
    size_t datasize;
    int ret_val;
    char data[];
} __attribute__((packed));

struct sync {
    uint64_t id;
    size_t data_size;
    int state;
    unsigned char data[];
};

struct file_lock {
    enum file_lock_family family;
    int type;
    uint64_t start;
    uint64_t end;
    IDTYPE pid;
    uint64_t handle_id;
    bool wait;
    char path[];
};

struct file_lock_resp {
    int result;
    enum file_lock_family family;
    int type;
    uint64_t start;
    uint64_t end;
    IDTYPE pid;
    uint64_t handle_id;
};

#define SEQ 0x0102030405060708u

static unsigned char frame[4096];

/* The message is zeroed first: what C leaves of its stack in padding is of no interest here. */
static void *begin(unsigned char code, size_t payload) {
    struct header header = {.size = sizeof(header) + payload, .seq = SEQ, .code = code};
    memset(frame, 0, sizeof(frame));
    memcpy(frame, &header, sizeof(header));
    return frame + sizeof(header);
}

static void end(const char *name) {
    struct header header;
    memcpy(&header, frame, sizeof(header));
    printf("%s ", name);
    for (size_t at = 0; at < header.size; at++)
        printf("%02x", frame[at]);
    printf("\n");
}

/* A message whose payload is one struct. */
static void one(const char *name, unsigned char code, const void *payload, size_t size) {
    memcpy(begin(code, size), payload, size);
    end(name);
}

#define ONE(name, code, type, ...)                     \
    do {                                               \
        type payload;                                  \
        memset(&payload, 0, sizeof(payload));          \
        payload = (type)__VA_ARGS__;                   \
        one(name, code, &payload, sizeof(payload));    \
    } while (0)

static void sync_message(const char *name, unsigned char code, int state, const char *data) {
    struct sync sync = {.id = 0x1112131415161718u, .data_size = strlen(data), .state = state};
    unsigned char *to = begin(code, sizeof(sync) + sync.data_size);
    memcpy(to, &sync, offsetof(struct sync, data));
    memcpy(to + offsetof(struct sync, data), data, sync.data_size);
    end(name);
}

static void lock_message(const char *name, unsigned char code, enum file_lock_family family, int type,
                         bool wait, const char *path) {
    struct file_lock lock = {
        .family = family,
        .type = type,
        .start = 0x2122232425262728u,
        .end = UINT64_MAX,
        .pid = 0x31323334,
        .handle_id = 0x4142434445464748u,
        .wait = wait,
    };
    unsigned char *to = begin(code, sizeof(lock) + strlen(path) + 1);
    memcpy(to, &lock.family, sizeof(lock.family));
    memcpy(to + offsetof(struct file_lock, type), &lock.type, sizeof(lock.type));
    memcpy(to + offsetof(struct file_lock, start), &lock.start, sizeof(lock.start));
    memcpy(to + offsetof(struct file_lock, end), &lock.end, sizeof(lock.end));
    memcpy(to + offsetof(struct file_lock, pid), &lock.pid, sizeof(lock.pid));
    memcpy(to + offsetof(struct file_lock, handle_id), &lock.handle_id, sizeof(lock.handle_id));
    memcpy(to + offsetof(struct file_lock, wait), &lock.wait, sizeof(lock.wait));
    memcpy(to + offsetof(struct file_lock, path), path, strlen(path) + 1);
    end(name);
}

static void meta_answer(const char *name, int ret_val, const void *data, size_t size) {
    struct pid_retmeta meta = {.datasize = size, .ret_val = ret_val};
    unsigned char *to = begin(RESP, sizeof(meta) + size);
    memcpy(to, &meta, sizeof(meta));
    memcpy(to + sizeof(meta), data, size);
    end(name);
}

int main(void) {
    one("get_new_vmid", GET_NEW_VMID, "", 0);
    ONE("child_exit", CHILDEXIT, struct cld_exit,
        {.ppid = 1, .pid = 2, .uid = 1000, .exitcode = 3, .term_signal = 9});
    one("alloc_id_range", ALLOC_ID_RANGE, "", 0);
    ONE("release_id_range", RELEASE_ID_RANGE, struct id_range, {.start = 33, .end = 64});
    ONE("change_id_owner", CHANGE_ID_OWNER, struct id_owner, {.id = 40, .owner = 3});
    ONE("get_id_owner", GET_ID_OWNER, IDTYPE, {4194303});
    ONE("kill_thread", PID_KILL, struct pid_kill,
        {.sender = 1, .pid = 2, .id = 3, .signum = 10, .type = KILL_THREAD});
    ONE("kill_process", PID_KILL, struct pid_kill,
        {.sender = 1, .pid = 2, .id = 2, .signum = 15, .type = KILL_PROCESS});
    ONE("kill_pgroup", PID_KILL, struct pid_kill,
        {.sender = 1, .pid = 5, .id = 5, .signum = 64, .type = KILL_PGROUP});
    ONE("kill_all", PID_KILL, struct pid_kill, {.sender = 1, .signum = 1, .type = KILL_ALL});
    ONE("getmeta_cred", PID_GETMETA, struct pid_getmeta, {.pid = 7, .code = PID_META_CRED});
    ONE("getmeta_exec", PID_GETMETA, struct pid_getmeta, {.pid = 7, .code = PID_META_EXEC});
    ONE("getmeta_cwd", PID_GETMETA, struct pid_getmeta, {.pid = 7, .code = PID_META_CWD});
    ONE("getmeta_root", PID_GETMETA, struct pid_getmeta, {.pid = 7, .code = PID_META_ROOT});
    sync_message("sync_request_upgrade", SYNC_REQUEST_UPGRADE, 3, "");
    sync_message("sync_request_downgrade", SYNC_REQUEST_DOWNGRADE, 1, "");
    sync_message("sync_request_close", SYNC_REQUEST_CLOSE, 3, "data");
    sync_message("sync_confirm_upgrade", SYNC_CONFIRM_UPGRADE, 2, "datadata");
    sync_message("sync_confirm_downgrade", SYNC_CONFIRM_DOWNGRADE, 2, "d");
    sync_message("sync_confirm_close", SYNC_CONFIRM_CLOSE, 0, "");
    lock_message("lock_set", FILE_LOCK_SET, POSIX_LOCK, 1, true, "/data/accounts");
    lock_message("lock_drop", FILE_LOCK_SET, FLOCK_LOCK, 2, false, "");
    lock_message("lock_get", FILE_LOCK_GET, POSIX_LOCK, 0, false, "a");
    ONE("lock_clear_pid", FILE_LOCK_CLEAR_PID, IDTYPE, {99});

    ONE("answer_vmid", RESP, IDTYPE, {2});
    ONE("answer_id_range", RESP, struct id_range, {.start = 65, .end = 96});
    one("answer_change_id_owner", RESP, "", 0);
    ONE("answer_id_owner", RESP, IDTYPE, {3});
    ONE("answer_kill", RESP, int, {-3});
    unsigned int cred[2] = {1000, 1001};
    meta_answer("answer_cred", 0, cred, sizeof(cred));
    meta_answer("answer_path", 0, "/bin/sh", sizeof("/bin/sh"));
    meta_answer("answer_no_pid", -3, "", 0);
    ONE("answer_lock_set", RESP, int, {-11});
    ONE("answer_lock_free", RESP, struct file_lock_resp, {.type = 2});
    ONE("answer_lock_held", RESP, struct file_lock_resp,
        {.family = POSIX_LOCK, .type = 1, .start = 5, .end = UINT64_MAX, .pid = 77, .handle_id = 0});
    ONE("answer_lock_failed", RESP, struct file_lock_resp, {.result = -37});
    return 0;
}
