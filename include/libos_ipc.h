/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * libos-ipc for a library OS in C: one family out of several processes.
 *
 * Link with liblibos_ipc.a (see libos_ipc.pc). What to do, in this order:
 *
 *   1. fill `struct libos_ipc_platform` (how to reach other processes, wait and tell the time) and
 *      `struct libos_ipc_callbacks` (what the library OS is told and asked), and hand both to
 *      libos_ipc_setup();
 *   2. in a child, set `g_process_ipc_ids`; in the first process leave it zero;
 *   3. init_ipc(), then init_ipc_worker();
 *   4. use the calls below; at the end terminate_ipc_worker().
 *
 * Every function that returns `int` returns 0 or a negative Linux error number, if nothing else is
 * said. Those that hold for most calls:
 *   -EINVAL     an argument is out of its range, or the library was not set up yet
 *   -ESRCH      the process is not there, or went away before it answered
 *   -ENOTCONN   the leader is gone, and with it what only it can do
 *   -ENOMEM     a limit of `struct libos_ipc_limits` is reached; nothing was done
 *   -ETIMEDOUT  libos_ipc_limits.call_limit_ms passed before the answer came
 *   -ESHUTDOWN  terminate_ipc_worker() was called
 *   -EIO        the platform gave no stream or event
 * Calls that say "blocks" wait for another process. All calls may be made from any thread, on
 * small stacks (32 KiB are enough), with any thread register; none may be made from a callback, if
 * nothing else is said. Nothing is kept of what a pointer points to after the call.
 *
 * The bytes between processes are those of the C implementation that these names come from: processes
 * of both, and of the Rust library, can be members of one family.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Members that end a struct with as many elements as there are: C has them, C++ as an extension. */
#ifdef __cplusplus
#define LIBOS_IPC_OPEN_ENDED __extension__
#else
#define LIBOS_IPC_OPEN_ENDED
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* A pid, tid or VMID. Never 0, where 0 is not said to mean something. */
#ifndef LIBOS_IPC_HAS_IDTYPE
#define LIBOS_IPC_HAS_IDTYPE
typedef uint32_t IDTYPE;
#endif

/* ---- What the library OS provides: the platform ------------------------------------------------ */

/* What a watched stream is watched for, or is ready for. */
enum libos_ipc_readiness {
    LIBOS_IPC_READ = 1,    /* bytes, or the end, can be read */
    LIBOS_IPC_WRITE = 2,   /* bytes can be written */
    LIBOS_IPC_HANG_UP = 4, /* the other side closed it, or it broke */
};

/* A stream that is ready. */
struct libos_ipc_ready {
    uint64_t token;     /* as it was given to `watch`, or LIBOS_IPC_LISTENER */
    uint32_t readiness; /* enum libos_ipc_readiness, or'ed */
    uint32_t reserved;  /* 0 */
};

/* The token of whoever waits to be accepted. */
#define LIBOS_IPC_LISTENER UINT64_MAX

/* No time limit. */
#define LIBOS_IPC_FOREVER UINT64_MAX

/* What ended `wait_readable`. */
enum libos_ipc_woken { LIBOS_IPC_WOKEN_READABLE, LIBOS_IPC_WOKEN_EVENT, LIBOS_IPC_WOKEN_TIME };

/*
 * How the library reaches the outside. All functions may be called from any thread at any time, but
 * `wait` is only ever in use by one. None is called with a lock of the library held. All get
 * `context` first. Every function is needed where nothing else is said.
 *
 * Streams are reliable and in order, and used one way: who opened it writes, who accepted it reads.
 * They never block. Readiness is level-triggered: what is ready and watched for is reported by each
 * `wait` until it is not ready any more. Times are nanoseconds of `now`'s clock.
 */
struct libos_ipc_platform {
    void* context;

    /* Memory for everything the library keeps, aligned to 16 bytes, best zero and untouched, of
     * libos_ipc_memory_size() bytes at least. It stays the library's. */
    void* memory;
    size_t memory_size;

    /* For results that the caller frees, and nothing else: malloc(3) and free(3). NULL where the
     * library OS doesn't ask for such results: then these calls fail with -ENOMEM. */
    void* (*allocate)(void* context, size_t size);
    void (*release)(void* context, void* memory);

    /* A monotonic clock in nanoseconds. Cheap. */
    uint64_t (*now)(void* context);

    /* Makes this process reachable as `vmid`: from now on others can connect. 0 or -errno. */
    int (*listen)(void* context, IDTYPE vmid);
    /* Opens a stream to the process that listens as `vmid`. 0; -EAGAIN if it should be tried again
     * soon (its backlog is full); -EACCES if somebody listens there who is not of this family; any
     * other -errno: nobody is there. */
    int (*connect)(void* context, IDTYPE vmid, void** stream);
    /* Takes the next stream that somebody opened to this process. 0; -EAGAIN if there is none;
     * -EACCES if one was turned away; any other -errno: out of descriptors or memory for now. */
    int (*accept)(void* context, void** stream);
    /* Moves at most `size` bytes, and says how many; 0 from `read` is the end. -EAGAIN if nothing
     * can be moved for now, -EINTR if it should be tried again at once, any other -errno: broken. */
    int64_t (*read)(void* context, void* stream, void* buffer, size_t size);
    int64_t (*write)(void* context, void* stream, const void* data, size_t size);
    /* Closes it, also if a forked process has a copy (shutdown(2)). It is not watched any more. */
    void (*close)(void* context, void* stream);

    /* Begins to watch a stream for `interest` (enum libos_ipc_readiness, or'ed) under the name
     * `token`, changes what it is watched for, ends that. They take effect also for a `wait` under
     * way. A hang-up is reported to whoever watches for anything. 0 or -errno. */
    int (*watch)(void* context, void* stream, uint64_t token, uint32_t interest);
    void (*rewatch)(void* context, void* stream, uint64_t token, uint32_t interest);
    void (*unwatch)(void* context, void* stream);
    /* The same for LIBOS_IPC_LISTENER, which is watched for from the start. */
    void (*watch_listener)(void* context, bool on);
    /* Waits until something watched is ready, `wake` was called or it is `until` (in the past: only
     * looks; LIBOS_IPC_FOREVER); fills in at most `most` and says how many. May come back early. */
    size_t (*wait)(void* context, struct libos_ipc_ready* ready, size_t most, uint64_t until);
    /* Ends the `wait` under way, or else the next. */
    void (*wake)(void* context);

    /* An event: clear at first. Only made in init_ipc(), and never closed. 0 or -errno. */
    int (*event_create)(void* context, void** event);
    void (*event_set)(void* context, void* event);
    void (*event_clear)(void* context, void* event);
    bool (*event_is_set)(void* context, void* event);
    /* Waits until the event is set or it is `until`, and comes back at once then. May come back early. */
    void (*event_wait)(void* context, void* event, uint64_t until);
    /* Waits until the stream can be read or hung up, the event is set, or it is `until`, and comes back
     * at once whichever it is: enum libos_ipc_woken. Time limits, interrupts and what threads hand
     * to each other are as prompt as this is. Not used without threads: may be NULL then. */
    int (*wait_readable)(void* context, void* stream, void* event, uint64_t until);

    /* Starts a thread that runs `run(argument)`; 0 or -errno. NULL: there are no threads, and
     * whoever calls moves the bytes, in blocking calls and in libos_ipc_turn(). */
    int (*thread_create)(void* context, void (*run)(void* argument), void* argument);
    /* Gives the processor to another thread. May be NULL. */
    void (*yield)(void* context);
};

/* ---- What the library OS is told and asked ------------------------------------------------------ */

enum kill_type { KILL_THREAD, KILL_PROCESS, KILL_PGROUP, KILL_ALL };
enum pid_meta_code { PID_META_CRED, PID_META_EXEC, PID_META_CWD, PID_META_ROOT };

/* How a child ended. */
struct libos_ipc_cld_exit {
    IDTYPE ppid, pid;
    IDTYPE uid;
    unsigned int exitcode;
    unsigned int term_signal; /* 0 if it was no signal */
} __attribute__((packed));

/* A signal. */
struct libos_ipc_pid_kill {
    IDTYPE sender; /* the pid that sends it, as its process says; 0 for none */
    IDTYPE pid;    /* the process whose thread it is for (KILL_THREAD) */
    IDTYPE id;     /* the thread, process or group it is for; nothing for KILL_ALL */
    int signum;
    enum kill_type type;
};

/* Who a process is among processes, for libos_ipc_callbacks.self. */
struct libos_ipc_self {
    IDTYPE pid, ppid, uid;
};

enum libos_ipc_log_level { LIBOS_IPC_LOG_ERROR, LIBOS_IPC_LOG_WARNING, LIBOS_IPC_LOG_INFO };

/*
 * Called by the worker (or whoever turns the library), and by a thread that signals or asks about
 * its own process; with no lock of the library held. They must not block. Those that are NULL are
 * as if there were nothing to say. `context` is that of the platform.
 */
struct libos_ipc_callbacks {
    /* Delivers a signal here. 0, -ESRCH if there is no such target, -EPERM if the sender may not. */
    int (*signal)(void* context, const struct libos_ipc_pid_kill* kill);
    /* Tells something about a pid of this process: for PID_META_CRED two uint32_t, user and group;
     * else a path that ends with NUL. Returns the number of bytes put into `data` (NUL counted, at
     * most `size`, which is 4096), -ESRCH if there is no such pid, -ENOENT if there is nothing to
     * tell. */
    int64_t (*metadata)(void* context, IDTYPE pid, enum pid_meta_code code, void* data, size_t size);
    /* A child has ended: as it said, or with term_signal 30 (SIGPWR) if its connection ended before
     * that. Once for each child. A process is a child if an ID was handed to its VMID
     * (get_new_id(), ipc_change_id_owner()) before it connected; that is its pid. */
    void (*child_died)(void* context, const struct libos_ipc_cld_exit* exit);
    /* A process that was connected is gone. After child_died, if it was a child. */
    void (*disconnected)(void* context, IDTYPE vmid);
    /* Whether a child with that pid has ended and was not waited for: such one can be signalled. */
    bool (*is_zombie)(void* context, IDTYPE pid);
    /* This process, for ipc_cld_exit_send(). */
    void (*self)(void* context, struct libos_ipc_self* self);
    /* The name by which a file's locks go: equal bytes, same file. Writes at most `size` (4095)
     * bytes to `key` and returns how many, or -errno. NULL: the path itself. */
    int64_t (*file_key)(void* context, const char* path, char* key, size_t size);
    /* What is worth a person's attention. */
    void (*log)(void* context, enum libos_ipc_log_level level, const char* message);
    /* The library has found a fault of its own and can't go on. Must not return. */
    void (*fatal)(void* context, const char* message);
};

/* ---- Setting up ---------------------------------------------------------------------------------- */

/* Every limit, as a number of things. libos_ipc_default_limits() gives those for a family of 64. */
struct libos_ipc_limits {
    uint32_t peers;             /* other processes this one is connected with */
    uint32_t strangers;         /* streams that were accepted, before their process has said who it is */
    uint32_t waiters;           /* calls that wait */
    uint32_t frame_length;      /* the longest message, in bytes */
    uint32_t send_queue;        /* bytes that wait to be sent to one process */
    uint32_t ranges;            /* ID ranges of the family; at the leader */
    uint32_t own_ranges;        /* ID ranges of this process */
    uint32_t children;          /* children that live */
    uint32_t answers;           /* ipc_pid_getmeta() at once */
    uint32_t locks;             /* file locks of the family, at the leader, as are */
    uint32_t locked_files;      /*   files with locks, */
    uint32_t waiting_for_locks; /*   requests that wait, */
    uint32_t lock_handles;      /*   and open files with locks */
    uint32_t sync_handles;      /* sync handles of this process */
    uint32_t sync_data;         /* the most data of one, in bytes */
    uint32_t served_handles;    /* sync handles of the family; at the leader */
    uint32_t sync_clients;      /* processes that use them, each counted for each; at the leader */
    uint32_t spin_us;           /* how long who waits looks again before it sleeps; 0: not at all */
    uint32_t call_limit_ms;     /* how long a call waits for an answer; 0: as long as it takes */
    uint32_t connect_limit_ms;  /* how long a process with a full backlog is waited for */
    bool wrap_ids;              /* IDs that were released are given out again after the highest (default) */
};

void libos_ipc_default_limits(struct libos_ipc_limits* limits);

/* The memory that a process with these limits (NULL: the default ones) needs, in bytes. With the
 * default limits it is less than LIBOS_IPC_MEMORY_LEADER and LIBOS_IPC_MEMORY_MEMBER. */
size_t libos_ipc_memory_size(const struct libos_ipc_limits* limits, bool is_leader);
#define LIBOS_IPC_MEMORY_LEADER (2304 * 1024)
#define LIBOS_IPC_MEMORY_MEMBER (1536 * 1024)

/* What the library stands on from now on. The tables are copied; `limits` may be NULL. To be called
 * once, before init_ipc(). -EINVAL if something is missing, -EALREADY the second time. */
int libos_ipc_setup(const struct libos_ipc_platform* platform,
                    const struct libos_ipc_callbacks* callbacks,
                    const struct libos_ipc_limits* limits);

/* Where the host is not trusted (a library built with the feature `secure`): all streams of this process
 * are encrypted, authentic and safe from replay, between processes that have the same `instance` and
 * `key`; nobody else gets in. A child gets both from its parent, over a way that the host can't look into.
 * `random` (called with the platform's context, from any thread, must not block) fills all of a buffer
 * with random numbers that nobody can guess, and returns 0 or -errno. Streams of the platform must carry
 * bytes both ways then, and be watched for either. With that feature, with a key or without, a process
 * needs about 10 KiB more memory for each peer: ask libos_ipc_memory_size().
 *
 * To be called between libos_ipc_setup() and init_ipc(); without it streams are plain. The key is copied:
 * wipe yours. -EINVAL for NULL or before the set-up, -EALREADY if it is too late, -ENOSYS if the library was
 * built without the feature. */
int libos_ipc_set_family_key(uint64_t instance, const uint8_t* key,
                             int (*random)(void* context, void* buffer, size_t size));

/* Who this process is: all 0 in the first, which leads the family; in a child what its parent says,
 * set before init_ipc(). Read once, in init_ipc_ids(). */
struct libos_ipc_ids {
    IDTYPE self_vmid;
    IDTYPE parent_vmid;
    IDTYPE leader_vmid; /* 0 in the leader itself */
};
extern struct libos_ipc_ids g_process_ipc_ids;
#define STARTING_VMID 1

/* Makes this process a member: takes the memory and listens. Calls init_ipc_ids(). -EALREADY the
 * second time, also while another thread is at it, -ENOMEM if the memory is too small, -EINVAL if limits
 * contradict each other. */
int init_ipc(void);
/* Checks g_process_ipc_ids, and makes the first process the leader (self_vmid = STARTING_VMID). */
int init_ipc_ids(void);
/* Starts the worker, the thread that moves the bytes. Nothing to do where there are no threads. */
int init_ipc_worker(void);
/* Leaves the family: calls that wait fail with -ESHUTDOWN, what was to be sent goes out (for half a
 * second at most), all streams are closed, the worker returns. Blocks until then. */
void terminate_ipc_worker(void);
/* Where there are no threads: moves what can be moved, and waits until `until` if there is nothing.
 * To be called between other calls, so that other processes are answered. False once the family was
 * left. */
bool libos_ipc_turn(uint64_t until);

/* How full something is. */
struct libos_ipc_fill {
    uint64_t now, most, limit;
};

struct libos_ipc_statistics {
    uint64_t frames_in, frames_out; /* whole messages */
    uint64_t bytes_in, bytes_out;
    uint64_t accepted, connected; /* streams */
    uint64_t disconnects;         /* processes that went away */
    uint64_t late_answers;        /* to calls that had ended */
    uint64_t unknown_codes;       /* messages that were skipped */
    uint64_t undone;              /* requests that couldn't be done, to which no answer is due */
    uint64_t refused;             /* connections that were closed for a fault of the other side */
    struct libos_ipc_fill peers, waiters, ranges, own_ranges, children, locks, locked_files,
        waiting_for_locks, lock_handles, sync_handles, served_handles, sync_clients, send_queue;
};

/* What was counted since init_ipc(). */
int libos_ipc_get_statistics(struct libos_ipc_statistics* statistics);

/* ---- What happened last ------------------------------------------------------------------------- */

/* Says the last 256 events to libos_ipc_callbacks.log, a line each, at LIBOS_IPC_LOG_INFO: messages in
 * (<-) and out (->), processes that came, went and were refused, calls that began and ended. The
 * number at the start is the time of libos_ipc_platform.now, in seconds. Takes no lock: it may be
 * called when something is wrong, from any thread and from callbacks, and is, before
 * libos_ipc_callbacks.fatal. -EINVAL before init_ipc(). */
int libos_ipc_dump_events(void);

/* ---- Connections and messages ------------------------------------------------------------------- */

/* Codes of messages. */
enum {
    IPC_MSG_RESP = 0,
    IPC_MSG_GET_NEW_VMID,
    IPC_MSG_CHILDEXIT,
    IPC_MSG_ALLOC_ID_RANGE,
    IPC_MSG_RELEASE_ID_RANGE,
    IPC_MSG_CHANGE_ID_OWNER,
    IPC_MSG_GET_ID_OWNER,
    IPC_MSG_PID_KILL,
    IPC_MSG_PID_GETMETA,
    IPC_MSG_SYNC_REQUEST_UPGRADE,
    IPC_MSG_SYNC_REQUEST_DOWNGRADE,
    IPC_MSG_SYNC_REQUEST_CLOSE,
    IPC_MSG_SYNC_CONFIRM_UPGRADE,
    IPC_MSG_SYNC_CONFIRM_DOWNGRADE,
    IPC_MSG_SYNC_CONFIRM_CLOSE,
    IPC_MSG_FILE_LOCK_SET,
    IPC_MSG_FILE_LOCK_GET,
    IPC_MSG_FILE_LOCK_CLEAR_PID,
    IPC_MSG_CODE_BOUND,
};

/* Opens the connection to `dest`, if there is none. Doesn't wait for the other side: that nobody is
 * there shows in the calls that follow. Not needed before them: they connect by themselves. */
int connect_to_process(IDTYPE dest);
/* Closes the connection with `dest`, both ways, if there is one. Calls that wait for its answer get
 * -ESRCH; what waits to be sent is dropped. */
void remove_outgoing_ipc_connection(IDTYPE dest);

/* What every message begins with. */
struct ipc_msg_header {
    size_t size; /* of the whole message, in bytes */
    uint64_t seq;
    unsigned char code;
} __attribute__((packed));

struct libos_ipc_msg {
    struct ipc_msg_header header;
    LIBOS_IPC_OPEN_ENDED char data[];
} __attribute__((packed));

/* The size of a message with that much payload. */
static inline size_t get_ipc_msg_size(size_t payload) {
    return sizeof(struct libos_ipc_msg) + payload;
}

/* Fills in the header of a message, or of an answer to message `seq`, of `size` bytes in all. */
void init_ipc_msg(struct libos_ipc_msg* msg, unsigned char code, size_t size);
void init_ipc_response(struct libos_ipc_msg* msg, uint64_t seq, size_t size);

/* Sends a message and doesn't wait for an answer. Only what the protocol has (a code below
 * IPC_MSG_CODE_BOUND, a payload of its form) is sent: else -EINVAL. Blocks only while the queue to
 * `dest` is full. The message is not changed. */
int ipc_send_message(IDTYPE dest, struct libos_ipc_msg* msg);
/* Sends a request, and blocks until it is answered. `*resp` is then the answer's payload, to be
 * freed as libos_ipc_platform.allocate says; NULL: it is dropped. The message is not changed.
 * -EINVAL if no answer is due to its code, or it is for this process itself. */
int ipc_send_msg_and_get_response(IDTYPE dest, struct libos_ipc_msg* msg, void** resp);
/* Sends a message to all connected processes but `exclude_vmid` (0: to all). Never blocks.
 * -EAGAIN if the queue to some of them was full: these don't get it. */
int ipc_broadcast(struct libos_ipc_msg* msg, IDTYPE exclude_vmid);

/* ---- VMIDs and IDs ------------------------------------------------------------------------------- */

/* A VMID for a new process. Blocks. -EAGAIN when all are used up. */
int ipc_get_new_vmid(IDTYPE* vmid);

/* How long a range is at most. */
#define MAX_RANGE_SIZE 0x20
/* A fresh range of IDs, owned by this process: both ends included. Blocks. -EAGAIN if there is none
 * left. */
int ipc_alloc_id_range(IDTYPE* out_start, IDTYPE* out_end);
/* Gives a range back: a whole one, as it was allocated, or as ipc_change_id_owner() left it. */
int ipc_release_id_range(IDTYPE start, IDTYPE end);
/* Gives one ID of this process to another, and splits its range: what was before, the ID itself and
 * what was behind are three ranges, each to be released by itself. Blocks. -EPERM if the ID is not
 * this process's. If `new_owner` is not connected yet, it is a child from now on, and `id` its pid:
 * see libos_ipc_callbacks.child_died. */
int ipc_change_id_owner(IDTYPE id, IDTYPE new_owner);
/* The VMID of the process that owns an ID; 0 if nobody does. Blocks. */
int ipc_get_id_owner(IDTYPE id, IDTYPE* out_owner);

/* What was handed to a process that could not be started goes back to the leader, and it is no child any
 * more. */
int libos_ipc_bury(IDTYPE vmid);

/* The allocator of single IDs above that. It asks the leader once in MAX_RANGE_SIZE IDs. Those that go to
 * other processes come out of a range of their own. */

/* In a child: takes over the ID that its parent handed to it; 0: none. */
int init_id_ranges(IDTYPE preload_tid);
/* A fresh ID; if `move_ownership_to` is not 0, one that is that process's from the start, as with
 * ipc_change_id_owner(), and not to be released here. 0 if there is none: the log says why. */
IDTYPE get_new_id(IDTYPE move_ownership_to);
/* Ends the use of an ID that get_new_id() or init_id_ranges() gave. */
void release_id(IDTYPE id);

/* ---- Processes ----------------------------------------------------------------------------------- */

/* Tells the parent how this process ends, if it has one. Blocks only while the queue is full. */
int ipc_cld_exit_send(unsigned int exitcode, unsigned int term_signal);

/* Send a signal; `sig` 0 only asks whether it could be sent. They block for the answer of the
 * process that owns the target: 0, -ESRCH, -EPERM as it says. A group is asked of the process that
 * owns the ID `pgid`. All: every process but this one; the leader passes it on, nobody waits. */
int ipc_kill_process(IDTYPE sender, IDTYPE target, int sig);
int ipc_kill_thread(IDTYPE sender, IDTYPE dest_pid, IDTYPE target, int sig);
int ipc_kill_pgroup(IDTYPE sender, IDTYPE pgid, int sig);
int ipc_kill_all(IDTYPE sender, int sig);

/* A question about a pid, and its answer. */
struct libos_ipc_pid_getmeta {
    IDTYPE pid;
    enum pid_meta_code code;
} __attribute__((packed));

struct libos_ipc_pid_retmeta {
    size_t datasize;
    int ret_val; /* 0 */
    LIBOS_IPC_OPEN_ENDED char data[];
} __attribute__((packed));

/* Asks about a pid anywhere in the family. Blocks. `*data` is to be freed as
 * libos_ipc_platform.allocate says; nothing is allocated if this fails: -ESRCH if there is no such
 * pid, -ENOENT if there is nothing to tell. A path ends with NUL, which datasize counts. */
int ipc_pid_getmeta(IDTYPE pid, enum pid_meta_code code, struct libos_ipc_pid_retmeta** data);

/* ---- Sync handles: data that processes share coherently ----------------------------------------- */

/* What a process has of a handle. */
enum {
    SYNC_STATE_NONE,
    SYNC_STATE_INVALID,
    SYNC_STATE_SHARED,    /* it may read the data, as may others */
    SYNC_STATE_EXCLUSIVE, /* it may change it, alone */
    SYNC_STATE_NUM,
};

/* An open handle: a name, not an address. A closed one is refused. */
struct sync_handle;

/* Nothing is left to do in these two after init_ipc(): they fail if that has not been called, and
 * the first if this process is not the leader. */
int init_sync_server(void);
int init_sync_client(void);
/* Closes all handles, and what was changed goes to the others. To be called when no thread uses them
 * any more, before terminate_ipc_worker(). Blocks. */
int shutdown_sync_client(void);

/* Opens a handle: that of the number `id`, or with 0 a fresh one, whose number has its highest bit set
 * and is never used again in the family. -EINVAL if this process has it open, -ENOMEM at the limit.
 * Sends nothing. */
int sync_create(struct sync_handle** handle, uint64_t id);
/* The number that a handle goes by in all processes; 0 for one that is closed. */
uint64_t libos_ipc_sync_id(struct sync_handle* handle);
/* Closes a handle that no thread has locked. Blocks. */
void sync_destroy(struct sync_handle* handle);
/* Locks a handle: for SYNC_STATE_SHARED no other process changes the data, for SYNC_STATE_EXCLUSIVE no
 * other process uses it; either way one thread of this process at a time. If the data has changed
 * since this process last had it, it is copied to `data` (as much as there is) and the result is
 * true. What a process has stays with it until another wants it: to lock it again takes no message.
 * Blocks. If it can't be had (the leader is gone) the log says so, and the result is false:
 * libos_ipc_sync_lock() tells. That a process died changing the data is only logged, too, and kept
 * for the next libos_ipc_sync_lock() of any process. */
bool sync_lock(struct sync_handle* handle, int state, void* data, size_t data_size)
    __attribute__((warn_unused_result));
/* Gives it back; if it was SYNC_STATE_EXCLUSIVE, with what the data is now (NULL: it is as it was). */
void sync_unlock(struct sync_handle* handle, void* data, size_t data_size);
/* As sync_lock(), and tells: 0 and in `*news` what is new, or -errno, and then it is not locked. */
enum libos_ipc_sync_news {
    LIBOS_IPC_SYNC_UPDATED = 1,    /* the data has changed, and was copied */
    LIBOS_IPC_SYNC_OWNER_DIED = 2, /* a process died while it could change the data: it is what that
                                      process last gave back. All are told until one that is told has
                                      locked it SYNC_STATE_EXCLUSIVE */
};
int libos_ipc_sync_lock(struct sync_handle* handle, int state, void* data, size_t data_size,
                        unsigned int* news);

/* What the messages about handles carry. */
struct libos_ipc_sync {
    uint64_t id;
    size_t data_size;
    int state;
    LIBOS_IPC_OPEN_ENDED unsigned char data[];
};

/* ---- File locks: fcntl(2) and flock(2) ------------------------------------------------------------ */

enum libos_file_lock_family {
    FILE_LOCK_UNKNOWN,
    FILE_LOCK_POSIX, /* of a process: fcntl(2) */
    FILE_LOCK_FLOCK, /* of an open file: flock(2) */
};

/* To the end of the file, however long it gets. */
#define FS_LOCK_EOF UINT64_MAX

struct libos_file_lock {
    enum libos_file_lock_family family;
    int type;           /* F_RDLCK 0, F_WRLCK 1, F_UNLCK 2, as in Linux */
    uint64_t start;     /* the first byte */
    uint64_t end;       /* the last byte */
    IDTYPE pid;         /* whose lock it is */
    uint64_t handle_id; /* the open file that it belongs to; FILE_LOCK_FLOCK */
};

/* Nothing is left to do in this one after init_ipc(). */
int init_fs_lock(void);
/* Sets, changes or drops a lock. -EAGAIN if another's is in the way and `wait` is false; if it is
 * true, blocks until the lock is to be had. -EDEADLK if that would be for ever, -ENOLCK at the
 * leader's limits. */
int file_lock_set(const char* path, struct libos_file_lock* file_lock, bool wait);
/* The lock that is in the way of this one, of several the one that starts lowest:
 * `out_file_lock->type` is F_UNLCK if there is none. Blocks for the leader's answer. */
int file_lock_get(const char* path, struct libos_file_lock* file_lock,
                  struct libos_file_lock* out_file_lock);
/* Drops all locks of a process: when it exits. Sends nothing if this process never set one. */
int file_lock_clear_pid(IDTYPE pid);

/* Who holds an open file (libos_file_lock.handle_id): its FILE_LOCK_FLOCK locks go with the last process that
 * holds it. A process holds an open file when it has locked it, or was handed it, until it closes it
 * or ends. All four block, and are done when they return. -ENOSYS where the leader is a process of the C
 * implementation, which does not know who has an open file: there a lock stays until somebody unlocks
 * it.
 *
 * Before a process starts another that inherits its open files (fork(2), exec(3)), or sends another a
 * descriptor, it gives each of them to that process: then the lock is never without a holder, whoever closes
 * or ends first. A process that gives an open file holds it itself from then on, even if it has never
 * locked it: so what a child locks and leaves locked stays locked until the parent has closed the open
 * file, too (in a shell, `(flock 9; work) 9>file`). */

/* Gives an open file to another process: one that this process is about to start, with the VMID of
 * ipc_get_new_vmid(), or any other. -ESRCH if it has left, -ENOLCK at the limit `lock_handles`: then
 * nothing has changed. What was given to a process that never comes is held until libos_ipc_bury(), or
 * until this process ends. */
int libos_ipc_give_open_file(uint64_t handle_id, IDTYPE to);
/* Takes that back, if the descriptor could not be sent, or the process not be started. Does nothing if
 * the other process has it already. */
int libos_ipc_take_back_open_file(uint64_t handle_id, IDTYPE from);
/* A descriptor of the open file has come in a message: to be called once for each, before it is used or
 * closed. The descriptor may come before the leader's word that it was given: a close before both is not
 * noticed, and the lock stays until this process ends. A process need not call it for what it inherited. */
int libos_ipc_hold_open_file(uint64_t handle_id);
/* The last descriptor of the open file in this process was closed. Sends nothing if this process has
 * never locked, held or given it, except for a question to the leader once in a process's life. */
int libos_ipc_close_open_file(uint64_t handle_id);

/* What the messages about file locks carry. */
struct libos_ipc_file_lock {
    enum libos_file_lock_family family;
    int type;
    uint64_t start;
    uint64_t end;
    IDTYPE pid;
    uint64_t handle_id;
    bool wait;
    LIBOS_IPC_OPEN_ENDED char path[]; /* ends with NUL */
};
struct libos_ipc_file_lock_resp {
    int result;
    enum libos_file_lock_family family;
    int type;
    uint64_t start;
    uint64_t end;
    IDTYPE pid;
    uint64_t handle_id;
};

/* The same as the calls without `ipc_`, without libos_ipc_callbacks.file_key. */
int ipc_file_lock_set(const char* path, struct libos_file_lock* file_lock, bool wait);
int ipc_file_lock_get(const char* path, struct libos_file_lock* file_lock,
                      struct libos_file_lock* out_file_lock);
int ipc_file_lock_clear_pid(IDTYPE pid);

/* ---- The parts of the calls above ------------------------------------------------------------------
 *
 * The library calls none of these: its worker does what they do. They are for a library OS that moves
 * some messages itself.
 */

/* Sends the parts of a conversation about a sync handle: of a client, to the leader; of the leader,
 * to a client. `code` is one of IPC_MSG_SYNC_. */
int ipc_sync_client_send(int code, uint64_t id, int state, size_t data_size, void* data);
int ipc_sync_server_send(IDTYPE dest, int code, uint64_t id, int state, size_t data_size,
                         void* data);
/* Answers a request for a file lock that was put off. */
int ipc_file_lock_set_send_response(IDTYPE vmid, unsigned long seq, int result);

/* Each takes in a message as if it had just come from the connected process `src`: `data` is its payload
 * (NULL where there is none) and `seq` its number. It is checked as any other; an answer, if one is
 * due, goes to `src`. 0; -ESRCH if `src` is not connected; -EINVAL if it is malformed or `src` may
 * not say that, and then the connection is closed, as it would be; -EAGAIN if there is no room for
 * it now. */
int ipc_get_new_vmid_callback(IDTYPE src, void* data, uint64_t seq);
int ipc_cld_exit_callback(IDTYPE src, void* data, uint64_t seq);
int ipc_alloc_id_range_callback(IDTYPE src, void* data, uint64_t seq);
int ipc_release_id_range_callback(IDTYPE src, void* data, uint64_t seq);
int ipc_change_id_owner_callback(IDTYPE src, void* data, uint64_t seq);
int ipc_get_id_owner_callback(IDTYPE src, void* data, uint64_t seq);
int ipc_pid_kill_callback(IDTYPE src, void* data, uint64_t seq);
int ipc_pid_getmeta_callback(IDTYPE src, void* data, uint64_t seq);
int ipc_sync_request_upgrade_callback(IDTYPE src, void* data, unsigned long seq);
int ipc_sync_request_downgrade_callback(IDTYPE src, void* data, unsigned long seq);
int ipc_sync_request_close_callback(IDTYPE src, void* data, unsigned long seq);
int ipc_sync_confirm_upgrade_callback(IDTYPE src, void* data, unsigned long seq);
int ipc_sync_confirm_downgrade_callback(IDTYPE src, void* data, unsigned long seq);
int ipc_sync_confirm_close_callback(IDTYPE src, void* data, unsigned long seq);
int ipc_file_lock_set_callback(IDTYPE src, void* data, unsigned long seq);
int ipc_file_lock_get_callback(IDTYPE src, void* data, unsigned long seq);
int ipc_file_lock_clear_pid_callback(IDTYPE src, void* data, unsigned long seq);
/* The same for an answer: whoever waits for it gets it. `data` is the library's from now on, and given to
 * libos_ipc_platform.release. 0 also if nobody waits for it (any more). */
int ipc_response_callback(IDTYPE src, void* data, uint64_t seq);
/* A process is gone: if it is a child that has not ended yet, libos_ipc_callbacks.child_died is told,
 * with SIGPWR. May call callbacks. */
void ipc_child_disconnect_callback(IDTYPE vmid);

#ifdef __cplusplus
}
#endif
