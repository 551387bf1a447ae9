/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * libos-ipc for a library OS in C: makes several processes one family with common PIDs, signals, exits, file locks and
 * shared values.
 *
 * Link with liblibos_ipc.a (pkg-config libos_ipc). A process makes these steps, in this order:
 *
 *   1. fill in `struct libos_ipc_platform` (streams, waiting, time) and `struct libos_ipc_callbacks` (the functions of
 *      the library OS that the library calls), and pass both to libos_ipc_setup();
 *   2. in a child, set `libos_ipc_process_ids`; in the first process leave it zero;
 *   3. call libos_ipc_init(), then libos_ipc_init_worker();
 *   4. make the calls below; at the end call libos_ipc_terminate_worker().
 *
 * A process that needs the family's table of processes (wait(2), groups, sessions, orphans) also calls libos_ipc_join()
 * after step 3.
 *
 * A function that returns `int` returns 0 or a negative Linux error number, unless its comment states otherwise. Most
 * calls can return:
 *   -EINVAL     an argument is out of range, or the library is not set up
 *   -ESRCH      the process does not exist, or ended before it answered
 *   -ENOTCONN   the leader is gone, no other process leads in its place (libos_ipc_limits.heirs), and the call needs it: it
 *               may have had its effect or not
 *   -ENOLINK    this process was cut off from the leader (libos_ipc_callbacks.cut_off)
 *   -ENOMEM     a limit of `struct libos_ipc_limits` is reached; the call had no effect
 *   -ETIMEDOUT  libos_ipc_limits.call_limit_ms passed before the answer arrived
 *   -ESHUTDOWN  libos_ipc_exit() or libos_ipc_terminate_worker() was called
 *   -ENOSYS     the call needs libos_ipc_join() before, or a leader that is not a process of the C implementation
 *   -EIO        the platform provided no stream or event
 * A call whose comment says "Blocks" waits for another process. Any thread may make any call, with any value in the thread
 * register, with 8 KiB of stack and what the callbacks use; 4.5 KiB more if it has a key, message or path of more than 256
 * bytes and libos_ipc_platform.allocate gives no memory.
 * A callback, a signal handler and an interrupt handler must not make a call, unless its comment states otherwise. The
 * library keeps no pointer to the caller's data after a call.
 *
 * The messages between processes are those of the C implementation that this library stands in for. Processes of that
 * implementation, of this library and of the Rust crate can be members of one family. The names of that implementation are
 * in libos_ipc_seed.h, which this header includes unless LIBOS_IPC_PREFIXED is defined.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Marks flexible array members, which C++ has only as an extension. */
#ifdef __cplusplus
#define LIBOS_IPC_OPEN_ENDED __extension__
#else
#define LIBOS_IPC_OPEN_ENDED
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* A pid, tid or VMID. It is not 0, unless a comment gives 0 a meaning. */
typedef uint32_t libos_ipc_id_t;

/* ---- The platform, which the library OS provides ------------------------------------------------ */

/* Conditions of a stream. */
enum libos_ipc_readiness {
    LIBOS_IPC_READ = 1,    /* bytes, or the end, can be read */
    LIBOS_IPC_WRITE = 2,   /* bytes can be written */
    LIBOS_IPC_HANG_UP = 4, /* the peer closed the stream, or it broke */
};

/* A stream that is ready. */
struct libos_ipc_ready {
    uint64_t token;     /* the token passed to `watch`, or LIBOS_IPC_LISTENER */
    uint32_t readiness; /* bits of enum libos_ipc_readiness */
    uint32_t reserved;  /* 0 */
};

/* The token of the listening stream: a connection waits for `accept`. */
#define LIBOS_IPC_LISTENER UINT64_MAX

/* No time limit. */
#define LIBOS_IPC_FOREVER UINT64_MAX

/* The reason why `wait_readable` returned. */
enum libos_ipc_woken { LIBOS_IPC_WOKEN_READABLE, LIBOS_IPC_WOKEN_EVENT, LIBOS_IPC_WOKEN_TIME };

/*
 * The functions of the platform. Any thread may call them at any time, but only one thread at a time is in `wait`. The
 * library holds none of its locks while it calls one. Each function gets `context` first. Each is required, unless its
 * comment states otherwise.
 *
 * A stream is reliable and ordered. Only the side that connected writes, and only the side that accepted reads. Reads and
 * writes never block. Readiness is level-triggered: `wait` reports a watched stream again until it is no longer ready.
 * Times are nanoseconds of the clock `now`.
 */
struct libos_ipc_platform {
    void* context;

    /* The memory of the library, for as long as the process lives: at least libos_ipc_memory_size() bytes, aligned to
     * 16 bytes. The library touches only the pages that it uses. */
    void* memory;
    size_t memory_size;

    /* malloc(3) and free(3), for results that the caller frees, and for copies of keys, messages and paths of more than 256
     * bytes while a call lasts. They may be NULL: then calls with such a result fail with -ENOMEM, and such a copy is on the
     * stack. */
    void* (*allocate)(void* context, size_t size);
    void (*release)(void* context, void* memory);

    /* Returns the time of a monotonic clock in nanoseconds. Called only for time limits, and to spin. */
    uint64_t (*now)(void* context);

    /* Makes this process reachable as `vmid`: other processes can connect when it returns. 0 or -errno. */
    int (*listen)(void* context, libos_ipc_id_t vmid);
    /* Opens a stream to the process that listens as `vmid`. Returns 0; -EAGAIN if the library shall try again soon (a
     * full backlog); -EACCES if a process that is not of this family listens there; any other -errno if no process
     * listens there. */
    int (*connect)(void* context, libos_ipc_id_t vmid, void** stream);
    /* Accepts the next stream that another process opened to this one. Returns 0; -EAGAIN if there is none; -EACCES if
     * one was refused; any other -errno if descriptors or memory are exhausted for now. */
    int (*accept)(void* context, void** stream);
    /* Read or write at most `size` bytes and return how many; 0 from `read` is the end of the stream. -EAGAIN if the
     * call would block, -EINTR if the library shall try again at once, any other -errno if the stream is broken. */
    int64_t (*read)(void* context, void* stream, void* buffer, size_t size);
    int64_t (*write)(void* context, void* stream, const void* data, size_t size);
    /* Closes a stream, even if a forked process has a copy of its descriptor (shutdown(2)). The library has ended the
     * watch before. */
    void (*close)(void* context, void* stream);

    /* Begin to watch a stream for `interest` (bits of enum libos_ipc_readiness), change the interest, end the watch.
     * `wait` reports the stream by `token`. The calls take effect for a `wait` that another thread is in. A hang-up is
     * reported for any interest that is not 0. 0 or -errno. */
    int (*watch)(void* context, void* stream, uint64_t token, uint32_t interest);
    void (*rewatch)(void* context, void* stream, uint64_t token, uint32_t interest);
    void (*unwatch)(void* context, void* stream);
    /* Turns the report of LIBOS_IPC_LISTENER on or off. It is on at first. */
    void (*watch_listener)(void* context, bool on);
    /* Waits until a watched stream is ready, `wake` is called or the time is `until`. A time in the past only polls,
     * LIBOS_IPC_FOREVER sets no limit. Fills in at most `capacity` entries and returns how many. May return early. */
    size_t (*wait)(void* context, struct libos_ipc_ready* ready, size_t capacity, uint64_t until);
    /* Ends the `wait` that a thread is in, or else the next one. */
    void (*wake)(void* context);

    /* An event is set or clear, and clear at first. One is created when a thread first waits with it: at most one for each
     * thread that waits at a time, and one in libos_ipc_init(). They are never closed. 0 or -errno, and then the call returns
     * -EIO. */
    int (*event_create)(void* context, void** event);
    void (*event_set)(void* context, void* event);
    void (*event_clear)(void* context, void* event);
    /* Not called. May be NULL. */
    bool (*event_is_set)(void* context, void* event);
    /* Waits until the event is set or the time is `until`, and returns at once then. May return early. */
    void (*event_wait)(void* context, void* event, uint64_t until);
    /* Waits until the stream is readable or hung up, the event is set, or the time is `until`, and returns the reason
     * (enum libos_ipc_woken) at once. Time limits and interrupts of blocking calls are as exact as this function is. With
     * this function a thread reads the answer to its request itself, without a switch to the worker's thread. May be NULL:
     * then the worker reads all streams, and the thread waits in `event_wait`. */
    int (*wait_readable)(void* context, void* stream, void* event, uint64_t until);

    /* Starts a thread that runs `run(argument)`. 0 or -errno. NULL means that there are no threads: then blocking calls
     * and libos_ipc_turn() move the bytes. */
    int (*thread_create)(void* context, void (*run)(void* argument), void* argument);
    /* Lets another thread run (sched_yield(2)). May be NULL. */
    void (*yield)(void* context);
};

/* ---- The callbacks of the library OS ------------------------------------------------------------ */

enum libos_ipc_kill_type { LIBOS_IPC_KILL_THREAD, LIBOS_IPC_KILL_PROCESS, LIBOS_IPC_KILL_PGROUP, LIBOS_IPC_KILL_ALL };
enum libos_ipc_pid_meta_code { LIBOS_IPC_PID_META_CRED, LIBOS_IPC_PID_META_EXEC, LIBOS_IPC_PID_META_CWD, LIBOS_IPC_PID_META_ROOT };

/* How a child ended. */
struct libos_ipc_cld_exit {
    libos_ipc_id_t ppid, pid;
    libos_ipc_id_t uid;
    unsigned int exitcode;
    unsigned int term_signal; /* 0 if no signal ended it */
} __attribute__((packed));

/* A signal to deliver. */
struct libos_ipc_pid_kill {
    libos_ipc_id_t sender; /* the sender's pid, as its process states it; 0 for none */
    libos_ipc_id_t pid;    /* the process of the target thread (LIBOS_IPC_KILL_THREAD) */
    libos_ipc_id_t id;     /* the target thread, process or group; unused for LIBOS_IPC_KILL_ALL */
    int signum;
    enum libos_ipc_kill_type type;
};

/* The pid, parent and user of a process, for libos_ipc_callbacks.self. */
struct libos_ipc_self {
    libos_ipc_id_t pid, ppid, uid;
};

enum libos_ipc_log_level { LIBOS_IPC_LOG_ERROR, LIBOS_IPC_LOG_WARNING, LIBOS_IPC_LOG_INFO };

/*
 * The worker calls these (without threads: the thread in a blocking call or in libos_ipc_turn()), and so does a thread that
 * signals or queries its own process. The library holds none of its locks then. A callback must not block. Each may be
 * NULL: then the library continues as if it had done nothing. `context` is that of the platform.
 */
struct libos_ipc_callbacks {
    /* Delivers a signal in this process. Returns 0, -ESRCH if the target does not exist, -EPERM if the sender lacks
     * permission (kill(2)). */
    int (*signal)(void* context, const struct libos_ipc_pid_kill* kill);
    /* Returns metadata of a pid of this process: for LIBOS_IPC_PID_META_CRED two uint32_t, user and group; else a path that ends
     * with NUL. Returns the number of bytes written to `data` (with the NUL, at most `size`, which is 4096), -ESRCH if
     * there is no such pid, -ENOENT if it has no such metadata. */
    int64_t (*metadata)(void* context, libos_ipc_id_t pid, enum libos_ipc_pid_meta_code code, void* data, size_t size);
    /* A child has ended. `exit` is what the child stated, or has term_signal 30 (SIGPWR) if its connection ended without
     * an exit notice. Called once for each child. A process is a child if this process transferred an ID to its VMID
     * (libos_ipc_get_new_id(), libos_ipc_change_id_owner()) before it connected; that ID is its pid. In a process that joined
     * (libos_ipc_join()) the inherited orphans are children, too, and each child stays a zombie until libos_ipc_wait(). */
    void (*child_died)(void* context, const struct libos_ipc_cld_exit* exit);
    /* A connected process is gone. For a child this is called after child_died. */
    void (*disconnected)(void* context, libos_ipc_id_t vmid);
    /* Whether this process has a zombie child with that pid. A signal to a zombie succeeds. */
    bool (*is_zombie)(void* context, libos_ipc_id_t pid);
    /* States pid, parent and user of this process, for libos_ipc_cld_exit_send(). */
    void (*self)(void* context, struct libos_ipc_self* self);
    /* Converts a path to the key that identifies its file for locks: equal keys, same file. Writes at most `size` (4095)
     * bytes to `key` and returns how many, or -errno. NULL: the path is the key. */
    int64_t (*file_key)(void* context, const char* path, char* key, size_t size);
    /* Logs a message for a person. */
    void (*log)(void* context, enum libos_ipc_log_level level, const char* message);
    /* The library has found a fault of its own and cannot continue. Must not return. */
    void (*fatal)(void* context, const char* message);
    /* The parent has ended, and the process `parent` is the new one; 0 for none. Called for each parent after
     * libos_ipc_watch_parent(). */
    void (*parent_ended)(void* context, libos_ipc_id_t parent);
    /* With a family key: this process was cut off from the leader (libos_ipc_limits.silence_limit_ms), which may have given
     * its locks, leases and IDs to others. Calls for them return -ENOLINK from now on. Called once. */
    void (*cut_off)(void* context);
    /* Another process leads the family, this one if `leader` is its VMID (libos_ipc_limits.heirs). The calls go on.
     * `epoch` is 1 under the first leader, and one more after each succession. Called once for each. */
    void (*leader_changed)(void* context, libos_ipc_id_t leader, uint32_t epoch);
};

/* ---- Time limits and interrupts of calls --------------------------------------------------------- */

/* Interrupts a call from another thread. The storage is all zeros at first and is only changed by the two functions below;
 * it must live until the calls that use it have returned. One call at a time may use an interrupt: a library OS has one
 * for each thread. Before it looks for pending signals the thread resets its interrupt, then it makes the call. So a
 * signal that arrives in between interrupts the call. */
struct libos_ipc_interrupt {
    uint64_t storage[2];
};

/* The limit of a call. All zeros: as without a limit. */
struct libos_ipc_call_limit {
    uint64_t timeout_ns;                   /* the time from the beginning of the call, after which it returns -ETIMEDOUT; 0:
                                              what the call's comment states; LIBOS_IPC_FOREVER: no limit */
    struct libos_ipc_interrupt* interrupt; /* ends the call with -EINTR; NULL: none */
};

/* Ends the call that waits with this interrupt, or else the next one that does, with -EINTR. It stays raised until it is
 * reset. Does not block. May also be called from a callback, and from a signal handler if libos_ipc_platform.event_set and
 * `wake` may. -EINVAL for NULL and before libos_ipc_init(). */
int libos_ipc_interrupt_raise(struct libos_ipc_interrupt* interrupt);
/* Clears the interrupt for the next call. Does not block. May be called from anywhere. -EINVAL for NULL. */
int libos_ipc_interrupt_reset(struct libos_ipc_interrupt* interrupt);

/* ---- Set-up -------------------------------------------------------------------------------------- */

/* The limits. libos_ipc_default_limits() fills in those for a family of 256 processes. A call that reaches one logs its
 * name, at LIBOS_IPC_LOG_WARNING. */
struct libos_ipc_limits {
    uint32_t peers;             /* processes that this one is connected with; 0 (default): 256 in the process that leads the
                                   family, 64 in any other. The leader's table of processes has four times as many entries */
    uint32_t strangers;         /* accepted streams whose process has not sent its VMID yet */
    uint32_t waiters;           /* calls that wait at the same time for a lock, a shared value or the end of a process. 16 more
                                   places are set aside for calls that end by themselves, so a call that releases
                                   something does not fail because other threads wait */
    uint32_t frame_length;      /* length of the longest message in bytes */
    uint32_t send_queue;        /* bytes queued for one process */
    uint32_t ranges;            /* ID ranges of the family; used by the leader */
    uint32_t own_ranges;        /* ID ranges of this process */
    uint32_t children;          /* living children */
    uint32_t answers;           /* calls of libos_ipc_pid_getmeta() at the same time */
    uint32_t locks;             /* file locks of the family; used by the leader, as are */
    uint32_t locked_files;      /*   files with locks, */
    uint32_t waiting_for_locks; /*   waiting lock requests, */
    uint32_t lock_handles;      /*   and open files with locks */
    uint32_t sync_handles;      /* sync handles of this process */
    uint32_t sync_data;         /* the data of one sync handle in bytes */
    uint32_t served_handles;    /* sync handles of the family; used by the leader */
    uint32_t sync_clients;      /* pairs of a process and a handle that it has open; used by the leader */
    uint32_t spin_us;           /* how long a waiting call spins before it sleeps; 0: not at all (default) */
    uint32_t call_limit_ms;     /* how long a call waits for an answer; 0: without limit */
    uint32_t connect_limit_ms;  /* how long a process with a full backlog is retried */
    bool wrap_ids;              /* released IDs are allocated again after the highest one (default) */
    bool require_secure;        /* libos_ipc_init() fails with -ENOKEY if there is no key of libos_ipc_set_family_key(); not set
                                   by default */
    uint32_t delegated_files;   /* files whose LIBOS_IPC_LOCK_POSIX locks this process may decide about itself, while no
                                   other process locks them: then a lock takes no message. 0: none; unused by the leader */
    uint32_t quota;             /* how much of its tables the leader gives to one process: enum libos_ipc_quota */
    uint32_t lease_limit_ms;    /* how long a process may keep the lease of a sync handle that the leader has revoked because
                                   another process waits for it; after it, the leader closes the connection. 0: without
                                   limit (default); not for processes without extensions; used by the leader */
    uint32_t admission;         /* which processes may connect to the leader: enum libos_ipc_admission */
    uint32_t silence_limit_ms;  /* with a family key: how long this process uses locks of delegated files, leases and IDs
                                   without a sign of life from the leader; then it is cut off. A leader keeps what a lost
                                   process had a quarter longer, so no two have the same. 0: the default, 2000;
                                   LIBOS_IPC_NO_SILENCE_LIMIT: none, and what a lost process had is free at once. At most
                                   60000. Without threads, libos_ipc_turn() must be called four times in this time */
    uint32_t heirs;             /* which processes may lead the family after its leader: enum libos_ipc_heirs; the same in
                                   all processes of the family */
    libos_ipc_id_t listed_heirs[4]; /* with LIBOS_IPC_HEIRS_LISTED: their VMIDs, the first to lead first; 0: none */
    uint32_t heir_patience_ms;  /* how long the process that leads next may leave the leader's messages unread; after it, the
                                   leader chooses another (default 100); used by the leader */
    uint32_t stall_limit_ms;    /* how long the leader may give no sign of life before the platform ends it and another process
                                   leads: 0 (default): without limit; else at least 10 */
    uint32_t succession_limit_ms; /* how long a process waits for another leader before calls that need one fail with
                                   -ENOTCONN (default 5000) */
    uint32_t adoption;          /* what becomes of the children of the first process when another one leads: enum
                                   libos_ipc_adoption */
};
#define LIBOS_IPC_NO_SILENCE_LIMIT UINT32_MAX

/* The VMIDs that a process may connect to the leader with. One that the leader has given out is used by one process: when
 * that has ended, no other connects with it, unless the leader closed its connection by
 * libos_ipc_remove_outgoing_connection(). */
enum libos_ipc_admission {
    LIBOS_IPC_ADMIT_ANY,   /* also those that were not given out yet: the launcher may number the processes itself */
    LIBOS_IPC_ADMIT_KNOWN, /* only those of libos_ipc_get_new_vmid() and libos_ipc_start_child(), and those that the leader has
                              announced: for families whose members are not trusted */
};

/* The processes that may lead the family after its leader has left or died. Each decides about everything when it leads, so
 * it must be trusted as the leader is. */
enum libos_ipc_heirs {
    LIBOS_IPC_HEIRS_NONE,   /* none: the family ends with its leader (default) */
    LIBOS_IPC_HEIRS_ANY,    /* each process with threads that has the limits of the leader; the lowest VMID first */
    LIBOS_IPC_HEIRS_LISTED, /* those of libos_ipc_limits.listed_heirs */
};

/* What becomes of the children of the family's first process when another process leads. */
enum libos_ipc_adoption {
    LIBOS_IPC_ADOPTED_BY_NOBODY, /* they have no parent, and nobody learns of their ends (default) */
    LIBOS_IPC_ADOPTED_BY_LEADER, /* they are children of the process that leads then */
};

/* How the processes of a family share the tables of the leader. */
enum libos_ipc_quota {
    LIBOS_IPC_QUOTA_FAIR, /* a process gets at most a fair part of a table, about half of it if it is alone */
    LIBOS_IPC_QUOTA_OFF,  /* each process may fill a table; then the others get an error */
};

void libos_ipc_default_limits(struct libos_ipc_limits* limits);

/* Returns the bytes of memory that a process with these limits needs (NULL: the default limits). With the default limits
 * this is less than LIBOS_IPC_MEMORY_LEADER or LIBOS_IPC_MEMORY_MEMBER, except in a library with secure streams, which
 * needs up to half as much again. */
size_t libos_ipc_memory_size(const struct libos_ipc_limits* limits, bool is_leader);
#define LIBOS_IPC_MEMORY_LEADER (8192 * 1024)
#define LIBOS_IPC_MEMORY_MEMBER (1536 * 1024)

/* Sets the platform, the callbacks and the limits, and copies all three. `limits` may be NULL. To be called once, before
 * libos_ipc_init(). -EINVAL if a required function is missing, -EALREADY the second time. */
int libos_ipc_setup(const struct libos_ipc_platform* platform,
                    const struct libos_ipc_callbacks* callbacks,
                    const struct libos_ipc_limits* limits);

/* Makes all streams of this process secure, for a host that is not trusted: encrypted, authenticated and safe from replay.
 * Only processes with the same `instance` and `key` (32 bytes) can connect. A child gets both from its parent, over a
 * channel that the host cannot read. `random` fills a buffer with unpredictable random bytes and returns 0 or -errno; any
 * thread may call it with the platform's context, and it must not block. The streams of the platform must then carry bytes
 * in both directions and be watchable for both. A library that is built with the feature `secure` needs about 10 KiB more
 * memory for each peer, with or without a key: see libos_ipc_memory_size().
 *
 * To be called between libos_ipc_setup() and libos_ipc_init(). Without this call streams are plain, unless
 * libos_ipc_limits.require_secure is set: then libos_ipc_init() fails. The library copies the key,
 * so the caller can wipe its own. -EINVAL for NULL or before libos_ipc_setup(), -EALREADY after libos_ipc_init() or the second
 * time, -ENOSYS if the library was built without the feature. */
int libos_ipc_set_family_key(uint64_t instance, const uint8_t* key,
                             int (*random)(void* context, void* buffer, size_t size));

/* The identity of this process. The first process, which leads the family, leaves it 0. A child sets the numbers from its
 * parent before libos_ipc_init(). */
struct libos_ipc_ids {
    libos_ipc_id_t self_vmid;
    libos_ipc_id_t parent_vmid;
    libos_ipc_id_t leader_vmid; /* 0 in the leader itself */
};
extern struct libos_ipc_ids libos_ipc_process_ids;
#define LIBOS_IPC_STARTING_VMID 1

/* Makes this process a member: takes the memory and listens. Checks libos_ipc_process_ids as libos_ipc_init_ids() does. -EALREADY
 * the second time, also during the first call, -ENOMEM if the memory is too small, -EINVAL if limits contradict each
 * other, -ENOKEY if libos_ipc_limits.require_secure is set and there is no key. After an error it can be called again. */
int libos_ipc_init(void);
/* Checks libos_ipc_process_ids, and makes the first process the leader (self_vmid = LIBOS_IPC_STARTING_VMID). */
int libos_ipc_init_ids(void);
/* Returns the VMID of the process that leads the family, as far as this process knows: its own, or that of one that has
 * just ended, too. 0 before libos_ipc_init(). Does not block. May also be called from a callback. */
libos_ipc_id_t libos_ipc_leader(void);
/* Starts the worker, the thread that moves the bytes. Without threads it does nothing. */
int libos_ipc_init_worker(void);
/* Makes this process leave the family: waiting calls fail with -ESHUTDOWN, queued messages are sent (for at most half a
 * second), all streams are closed, the worker returns. Blocks until then. */
void libos_ipc_terminate_worker(void);
/* Without threads: moves the bytes that can be moved, and waits until `until` if there are none. To be called between other
 * calls, so that the process answers other processes. Returns false after libos_ipc_terminate_worker(). */
bool libos_ipc_turn(uint64_t until);

/* The usage of a pool: now, at its peak, and its limit. */
struct libos_ipc_fill {
    uint64_t now, most, limit;
};

struct libos_ipc_statistics {
    uint64_t frames_in, frames_out; /* whole messages */
    uint64_t bytes_in, bytes_out;
    uint64_t accepted, connected; /* streams */
    uint64_t disconnects;         /* connections that ended */
    uint64_t late_answers;        /* answers to calls that had ended */
    uint64_t unknown_codes;       /* skipped messages */
    uint64_t undone;              /* one-way requests that failed */
    uint64_t refused;             /* connections closed for a fault of the peer */
    struct libos_ipc_fill peers, waiters, ranges, own_ranges, children, locks, locked_files,
        waiting_for_locks, lock_handles, sync_handles, served_handles, sync_clients, send_queue;
    uint64_t broken_invariants;   /* errors in this library that its own checks found: 0, or a defect to report */
    /* At the leader: files delegated to processes, and processes in its table. */
    struct libos_ipc_fill delegations, processes;
    uint64_t refused_by_quota;    /* at the leader: requests refused because a process had its part of a table */
    uint64_t platform_faults;     /* results that a function of the platform may not return: 0, or a defect of the
                                     platform. The stream was taken to be broken */
    uint64_t successions;         /* times that another process began to lead, this one included */
    uint64_t epoch;               /* 1 under the first leader, and one more after each succession */
    uint64_t heir;                /* the VMID of the process that leads next, if it is ready for it; else 0 */
    /* At the leader: operations, and their bytes, that have not been written for the process that leads next. */
    uint64_t heir_lag_messages, heir_lag_bytes;
    uint64_t last_outage_ns;      /* from the end of the last leader to the first moment at which this process could send to
                                     the next one; 0: there was none */
};

/* Returns what the library has counted since libos_ipc_init(). */
int libos_ipc_get_statistics(struct libos_ipc_statistics* statistics);

/* ---- The last events ---------------------------------------------------------------------------- */

/* Logs the last 256 events to libos_ipc_callbacks.log, a line each, at LIBOS_IPC_LOG_INFO: messages received (<-) and sent
 * (->), processes that connected, disconnected and were refused, calls that began and ended. The number at the start is
 * the time of libos_ipc_platform.now, in seconds. It takes no lock, so any thread and any callback may call it at any
 * time. The library calls it before libos_ipc_callbacks.fatal. -EINVAL before libos_ipc_init() and after
 * libos_ipc_terminate_worker(). */
int libos_ipc_dump_events(void);
/* Logs the calls of this process that wait, a line each, at LIBOS_IPC_LOG_INFO: for what, of which process, and how long. For
 * a process that hangs. Any thread and any callback may call it. Does not block. -EINVAL before libos_ipc_init(). */
int libos_ipc_dump_calls(void);

/* ---- Connections and messages ------------------------------------------------------------------- */

/* Message codes. */
enum {
    LIBOS_IPC_MSG_RESP = 0,
    LIBOS_IPC_MSG_GET_NEW_VMID,
    LIBOS_IPC_MSG_CHILDEXIT,
    LIBOS_IPC_MSG_ALLOC_ID_RANGE,
    LIBOS_IPC_MSG_RELEASE_ID_RANGE,
    LIBOS_IPC_MSG_CHANGE_ID_OWNER,
    LIBOS_IPC_MSG_GET_ID_OWNER,
    LIBOS_IPC_MSG_PID_KILL,
    LIBOS_IPC_MSG_PID_GETMETA,
    LIBOS_IPC_MSG_SYNC_REQUEST_UPGRADE,
    LIBOS_IPC_MSG_SYNC_REQUEST_DOWNGRADE,
    LIBOS_IPC_MSG_SYNC_REQUEST_CLOSE,
    LIBOS_IPC_MSG_SYNC_CONFIRM_UPGRADE,
    LIBOS_IPC_MSG_SYNC_CONFIRM_DOWNGRADE,
    LIBOS_IPC_MSG_SYNC_CONFIRM_CLOSE,
    LIBOS_IPC_MSG_FILE_LOCK_SET,
    LIBOS_IPC_MSG_FILE_LOCK_GET,
    LIBOS_IPC_MSG_FILE_LOCK_CLEAR_PID,
    LIBOS_IPC_MSG_CODE_BOUND,
};

/* Opens the connection to `dest`, if there is none. Does not wait for the peer: if the peer does not exist, later calls
 * fail. Other calls connect by themselves, so this one is optional. */
int libos_ipc_connect_to_process(libos_ipc_id_t dest);
/* Closes the connection with `dest`, in both directions, if there is one. Calls that wait for its answer return -ESRCH.
 * Queued messages are dropped. */
void libos_ipc_remove_outgoing_connection(libos_ipc_id_t dest);

/* The header of every message. */
struct libos_ipc_msg_header {
    size_t size; /* of the whole message, in bytes */
    uint64_t seq;
    unsigned char code;
} __attribute__((packed));

struct libos_ipc_msg {
    struct libos_ipc_msg_header header;
    LIBOS_IPC_OPEN_ENDED char data[];
} __attribute__((packed));

/* Returns the size of a message with a payload of that many bytes. */
static inline size_t libos_ipc_msg_size(size_t payload) {
    return sizeof(struct libos_ipc_msg) + payload;
}

/* Fill in the header of a message, or of an answer to request `seq`. `size` counts the header, too. */
void libos_ipc_init_msg(struct libos_ipc_msg* msg, unsigned char code, size_t size);
void libos_ipc_init_response(struct libos_ipc_msg* msg, uint64_t seq, size_t size);

/* Sends a message and does not wait for an answer. -EINVAL if the message is not of the protocol: its code must be below
 * LIBOS_IPC_MSG_CODE_BOUND and its payload well-formed. Blocks only while the queue to `dest` is full. Does not change the
 * message. */
int libos_ipc_send_message(libos_ipc_id_t dest, struct libos_ipc_msg* msg);
/* Sends a request and blocks until it is answered. `*resp` is then the payload of the answer, allocated with
 * libos_ipc_platform.allocate; the caller frees it. If `resp` is NULL the answer is dropped. Does not change the message.
 * -EINVAL if its code has no answer, or `dest` is this process. */
int libos_ipc_send_msg_and_get_response(libos_ipc_id_t dest, struct libos_ipc_msg* msg, void** resp);
/* Sends a message to all connected processes except `exclude_vmid` (0: to all). Never blocks. -EAGAIN if the queue to some
 * of them was full: these do not get the message. */
int libos_ipc_broadcast(struct libos_ipc_msg* msg, libos_ipc_id_t exclude_vmid);

/* ---- VMIDs and IDs ------------------------------------------------------------------------------- */

/* Allocates a VMID for a new process. Blocks. -EAGAIN when all are used up, or this process has too many unused ones. */
int libos_ipc_get_new_vmid(libos_ipc_id_t* vmid);

/* The largest number of IDs in a range. */
#define LIBOS_IPC_MAX_RANGE_SIZE 0x20
/* Allocates a range of IDs, owned by this process. Both ends are included. Blocks. -EAGAIN if no range is left for it. */
int libos_ipc_alloc_id_range(libos_ipc_id_t* out_start, libos_ipc_id_t* out_end);
/* Releases a whole range, as libos_ipc_alloc_id_range() allocated it or as libos_ipc_change_id_owner() has split it. */
int libos_ipc_release_id_range(libos_ipc_id_t start, libos_ipc_id_t end);
/* Transfers one ID of this process to another, and splits its range into up to three: the IDs before it, the ID itself and
 * the IDs after it, each of which is released separately. Blocks. -EPERM if this process does not own the ID. If
 * `new_owner` is not connected yet, it becomes a child of this process with pid `id`: see
 * libos_ipc_callbacks.child_died. */
int libos_ipc_change_id_owner(libos_ipc_id_t id, libos_ipc_id_t new_owner);
/* In the leader: admits a process that will connect with a VMID which was not allocated, with LIBOS_IPC_ADMIT_KNOWN.
 * -EINVAL if a process has used that VMID. -ENOSYS in other processes. */
int libos_ipc_announce(libos_ipc_id_t vmid);
/* Returns the VMID of the process that owns an ID; 0 if none does. Blocks. */
int libos_ipc_get_id_owner(libos_ipc_id_t id, libos_ipc_id_t* out_owner);

/* Abandons a child that could not be started: the leader takes back the IDs that were transferred to it. If the message to
 * the leader finds no room, the worker sends it later; only if the table of children is full, too, this call blocks, for at
 * most libos_ipc_limits.connect_limit_ms, and then returns -EIO. */
int libos_ipc_bury(libos_ipc_id_t vmid);

/* An allocator of single IDs over the calls above. It sends one request for LIBOS_IPC_MAX_RANGE_SIZE IDs. IDs for other processes
 * come from a separate range. */

/* In a child: accepts the ID that its parent transferred to it; 0: none. */
int libos_ipc_init_id_ranges(libos_ipc_id_t preload_tid);
/* Allocates an ID. If `move_ownership_to` is not 0, transfers it to that process, as libos_ipc_change_id_owner() does; then
 * only that process releases it. Returns 0 if that fails, and logs the reason. May block. */
libos_ipc_id_t libos_ipc_get_new_id(libos_ipc_id_t move_ownership_to);
/* Releases an ID that libos_ipc_get_new_id() or libos_ipc_init_id_ranges() returned. Has no effect for the pid of a process that joined: the
 * end of the process releases it. */
void libos_ipc_release_id(libos_ipc_id_t id);
/* Releases every range of which this process uses no ID, also the one that IDs are allocated from. Blocks. */
int libos_ipc_release_idle_ranges(void);
/* Returns the number of IDs that this process has in use. */
size_t libos_ipc_ids_in_use(void);

/* ---- Processes ----------------------------------------------------------------------------------- */

/* The life of a process, which the leader's table of processes records. A process that never calls libos_ipc_join() may
 * use the rest of the header, but none of the calls up to libos_ipc_set_process_flag() except libos_ipc_get_identity() and
 * libos_ipc_leave(): they return -ENOSYS, and libos_ipc_wait() returns -ECHILD. */

/* The numbers with which a process joins its family. A library OS passes them to a child, and keeps them in the checkpoint
 * of a fork or an exec. */
struct libos_ipc_identity {
    struct libos_ipc_ids ids; /* for libos_ipc_process_ids, before libos_ipc_init() */
    libos_ipc_id_t pid;               /* for libos_ipc_join() */
    libos_ipc_id_t parent_pid;        /* for libos_ipc_join(); 0 for none */
    libos_ipc_id_t heir_vmid;         /* for libos_ipc_set_identity(): the process that was to lead next (libos_ipc_limits.heirs)
                                         when the parent started this one; 0 for none */
};

/* Sets libos_ipc_process_ids and the process that was to lead next: if the leader has ended before this process joins, this
 * process asks that one and its parent who leads. To be called before libos_ipc_init(), in place of setting
 * libos_ipc_process_ids. Does not block. -EINVAL for NULL, -EALREADY after libos_ipc_init(). */
int libos_ipc_set_identity(const struct libos_ipc_identity* identity);

/* Adds this process to the leader's table, as a child of the process `libos_ipc_process_ids.parent_vmid` in that process's
 * group and session; the first process begins a group and a session. To be called once, after libos_ipc_init_worker() and before
 * any other call about processes. `pid` is that of libos_ipc_start_child(), or any ID that this process owns
 * (libos_ipc_init_id_ranges(), libos_ipc_get_new_id(), libos_ipc_alloc_id_range()); 0 allocates one. `parent_pid` is reported to the parent when this
 * process ends; with 0 it is libos_ipc_callbacks.self.ppid. Stores the pid in `*own_pid`, which may be NULL. Blocks.
 * -EINVAL if this process joined before or does not own the pid, -EPROTO if `sync_data` differs from the leader's. If the
 * leader is a process of the C implementation this call succeeds, but the calls about groups, sessions and the table
 * return -ENOSYS, and orphans get no new parent. The children of a process that joined join, too: libos_ipc_wait() sees the
 * end of any other child only if that child has sent the leader a message. */
int libos_ipc_join(libos_ipc_id_t pid, libos_ipc_id_t parent_pid, libos_ipc_id_t* own_pid);
/* Returns the numbers of this process; pid 0 if it has not joined. Does not block. -EINVAL before libos_ipc_init(). */
int libos_ipc_get_identity(struct libos_ipc_identity* identity);
/* Prepares a child: allocates its VMID and its pid, and adds it to the tables. The library OS then starts the child with
 * these numbers. libos_ipc_bury(child->ids.self_vmid) undoes this call if the start fails; libos_ipc_wait() does not
 * report that child. Blocks. -ENOMEM at the limit `children` or, at the leader, of processes, -EAGAIN if the family has no
 * more IDs; then there is no child. fork(2). */
int libos_ipc_start_child(struct libos_ipc_identity* child);
/* As libos_ipc_start_child(), with a limit, which may be NULL: -EINTR and -ETIMEDOUT as `limit` states; then there is no
 * child. */
int libos_ipc_start_child_within(struct libos_ipc_identity* child, const struct libos_ipc_call_limit* limit);

/* The children that libos_ipc_wait() waits for. */
enum libos_ipc_wait_for {
    LIBOS_IPC_WAIT_ANY,   /* any child; `id` is unused */
    LIBOS_IPC_WAIT_PID,   /* the child with the pid `id` */
    LIBOS_IPC_WAIT_GROUP, /* any child in the group `id`; 0: the group of this process at the time of the call */
};
/* The options of libos_ipc_wait(), with the values of Linux. */
enum {
    LIBOS_IPC_WNOHANG = 1,          /* does not wait for an end */
    LIBOS_IPC_WNOWAIT = 0x01000000, /* leaves the child a zombie */
};
/* Waits until a child has ended, own or inherited, stores how, and reaps it: then its pid is free, unless it names a group
 * or session. Of several ended children it takes the one that ended first. Blocks, without a time limit unless `limit`
 * sets one; `limit` may be NULL. With LIBOS_IPC_WNOHANG it waits only for the leader's answers, and if no child has ended it
 * returns 0 and stores pid 0. -ECHILD if there is no such child, -EINTR and -ETIMEDOUT as `limit` states, -EINVAL for an
 * unknown option, -ENOTCONN also for children that have no connection with this process when the family has ended: nobody
 * will report their ends. waitid(2) with WEXITED. */
int libos_ipc_wait(enum libos_ipc_wait_for which, libos_ipc_id_t id, int options,
                   struct libos_ipc_cld_exit* exit, const struct libos_ipc_call_limit* limit);

/* Requests a call of libos_ipc_callbacks.parent_ended when the parent ends, and when each later parent ends; or cancels the
 * request. Stores the pid of the present parent, 0 for none: if it is not the parent that started this process, that one
 * has ended before this call. prctl(2), PR_SET_PDEATHSIG. Blocks. */
int libos_ipc_watch_parent(bool on, libos_ipc_id_t* parent_pid);
/* Ends this process for the family, as _exit(2) does: releases its file locks, open files, IDs and leases, then its parent
 * is told how it ended. `uid` is the user, `term_signal` the signal that ended it or 0. When this returns the leader has
 * done all that; waiting calls of other threads have returned -ESHUTDOWN, as all later calls do, but libos_ipc_leave() and
 * libos_ipc_terminate_worker(), which comes next. Later calls that only release something succeed and do nothing. Blocks.
 * -ESHUTDOWN if it has ended before. If a message finds no room in time the call returns that error and can be repeated. */
int libos_ipc_exit(unsigned int uid, unsigned int exitcode, unsigned int term_signal);
/* In the leader, after libos_ipc_exit(): serves the other processes until the last of them has ended. In any other process
 * it returns at once. If a leader calls libos_ipc_terminate_worker() without this, the calls of the others return -ENOTCONN.
 * Blocks, without a time limit unless `limit` sets one; `limit` may be NULL. -EINTR and -ETIMEDOUT as `limit` states: it
 * can be called again. */
int libos_ipc_leave(const struct libos_ipc_call_limit* limit);

enum libos_ipc_process_state {
    LIBOS_IPC_STARTING, /* its parent has started it, and it has not joined yet */
    LIBOS_IPC_RUNNING,
    LIBOS_IPC_ZOMBIE, /* it has ended, and its parent has not reaped it yet */
};
enum libos_ipc_process_flag {
    LIBOS_IPC_SUBREAPER = 1,         /* orphans among its descendants become its children: prctl(2) */
    LIBOS_IPC_EXECUTED = 2,          /* execve(2) succeeded: its parent cannot change its group any more */
    LIBOS_IPC_STOPPED = 4,           /* a signal has stopped it */
    LIBOS_IPC_IN_ORPHANED_GROUP = 8, /* its group is orphaned: setpgid(2) */
};
/* A process in the leader's table. */
struct libos_ipc_process {
    uint64_t start_seq; /* a process that started later has a higher number */
    libos_ipc_id_t pid;
    libos_ipc_id_t vmid;    /* 0 if it has ended */
    libos_ipc_id_t parent;  /* the parent's pid; 0 for none */
    libos_ipc_id_t group;   /* the process group */
    libos_ipc_id_t session; /* the session */
    uint32_t state; /* enum libos_ipc_process_state */
    uint32_t flags; /* bits of enum libos_ipc_process_flag */
    uint32_t reserved;
};

/* Returns the entry of a process; 0 stands for this one, the ID of a thread for its process. Blocks. -ESRCH if there is no
 * such process. */
int libos_ipc_get_process(libos_ipc_id_t pid, struct libos_ipc_process* process);
/* Replaces an entry by that of the process that started next; start_seq 0 stands for none, so the first process follows it.
 * For a listing like that of ps(1). Blocks. -ESRCH after the last process. */
int libos_ipc_next_process(struct libos_ipc_process* process);
/* Return the group and the session of a process; 0 stands for this one. Block. -ESRCH if there is no such process.
 * getpgid(2), getsid(2). */
int libos_ipc_getpgid(libos_ipc_id_t pid, libos_ipc_id_t* group);
int libos_ipc_getsid(libos_ipc_id_t pid, libos_ipc_id_t* session);
/* Moves this process (`pid` 0) or a child to a group of its session; `group` 0 stands for the pid itself. Blocks. -ESRCH,
 * -EPERM and -EACCES as setpgid(2), -EINVAL if `pid` is the ID of a thread. */
int libos_ipc_setpgid(libos_ipc_id_t pid, libos_ipc_id_t group);
/* Makes this process the leader of a new session and a new group, and stores the session, which may be NULL. Blocks. -EPERM
 * if a group has its pid. setsid(2). */
int libos_ipc_setsid(libos_ipc_id_t* session);
/* Sets or clears one flag of this process: LIBOS_IPC_SUBREAPER, LIBOS_IPC_EXECUTED or LIBOS_IPC_STOPPED. Blocks. -EINVAL for
 * any other value. */
int libos_ipc_set_process_flag(enum libos_ipc_process_flag flag, bool on);

/* Sends the exit notice of this process to its parent, if it has one. Blocks only while the queue is full. In a process
 * that joined it is libos_ipc_exit(), with the user of libos_ipc_callbacks.self. */
int libos_ipc_cld_exit_send(unsigned int exitcode, unsigned int term_signal);

/* Send a signal; `sig` 0 only tests whether it could be sent (kill(2)). The first three block for the answer of the process
 * that owns the target: 0, -ESRCH or -EPERM. A signal for a group is sent to every process of the group if this process
 * joined (libos_ipc_join()), and else to the process that owns the ID `pgid`.
 * libos_ipc_kill_all() sends the signal to every process but this one, over the leader, and does not wait for answers. */
int libos_ipc_kill_process(libos_ipc_id_t sender, libos_ipc_id_t target, int sig);
int libos_ipc_kill_thread(libos_ipc_id_t sender, libos_ipc_id_t dest_pid, libos_ipc_id_t target, int sig);
int libos_ipc_kill_pgroup(libos_ipc_id_t sender, libos_ipc_id_t pgid, int sig);
int libos_ipc_kill_all(libos_ipc_id_t sender, int sig);

/* Sends a signal as these four calls do, by kill->type; `limit` may be NULL. Blocks. -EINTR and -ETIMEDOUT as `limit`
 * states; then it is not known whether the signal was delivered. */
int libos_ipc_kill(const struct libos_ipc_pid_kill* kill, const struct libos_ipc_call_limit* limit);

/* The request and the answer of libos_ipc_pid_getmeta(). */
struct libos_ipc_pid_getmeta {
    libos_ipc_id_t pid;
    enum libos_ipc_pid_meta_code code;
} __attribute__((packed));

struct libos_ipc_pid_retmeta {
    size_t datasize;
    int ret_val; /* 0 */
    LIBOS_IPC_OPEN_ENDED char data[];
} __attribute__((packed));

/* Queries metadata of a pid of any process of the family. Blocks. `*data` is allocated with libos_ipc_platform.allocate,
 * and the caller frees it; nothing is allocated if the call fails. -ESRCH if there is no such pid, -ENOENT if it has no
 * such metadata. A path ends with NUL, which datasize counts. */
int libos_ipc_pid_getmeta(libos_ipc_id_t pid, enum libos_ipc_pid_meta_code code, struct libos_ipc_pid_retmeta** data);

/* ---- Sync handles: shared values with reader and writer locks ----------------------------------- */

/* The lease that a process has on a handle. */
enum {
    LIBOS_IPC_SYNC_STATE_NONE,
    LIBOS_IPC_SYNC_STATE_INVALID,
    LIBOS_IPC_SYNC_STATE_SHARED,    /* the process may read the data, as may others */
    LIBOS_IPC_SYNC_STATE_EXCLUSIVE, /* only this process may read and change the data */
    LIBOS_IPC_SYNC_STATE_NUM,
};

/* An open handle: a number, not an address. A closed handle is refused. */
struct libos_ipc_sync_handle;

/* These two only check, and may be called before libos_ipc_init(), where they return 0. Later the first returns -EINVAL if this
 * process is not the leader. */
int libos_ipc_init_sync_server(void);
int libos_ipc_init_sync_client(void);
/* Closes all handles, and sends changed data to the leader. To be called when no thread uses a handle any more, before
 * libos_ipc_terminate_worker(). Blocks. */
int libos_ipc_shutdown_sync_client(void);

/* Opens the handle with the number `id`. With 0 it opens a new one, whose number has its highest bit set and is never used
 * again in the family. -EINVAL if this process has the handle open, -ENOMEM at the limit. Sends no message. */
int libos_ipc_sync_create(struct libos_ipc_sync_handle** handle, uint64_t id);
/* Returns the number of a handle, which is the same in all processes; 0 for a closed handle. */
uint64_t libos_ipc_sync_id(struct libos_ipc_sync_handle* handle);
/* Closes a handle, which no thread may have locked. Blocks. */
void libos_ipc_sync_destroy(struct libos_ipc_sync_handle* handle);
/* As libos_ipc_sync_destroy(), with a limit, which may be NULL, and a result. -EINTR and -ETIMEDOUT as `limit` states:
 * the handle is closed all the same, and its place is free when the leader has confirmed that. -EINVAL for a closed handle. */
int libos_ipc_sync_destroy_within(struct libos_ipc_sync_handle* handle, const struct libos_ipc_call_limit* limit);
/* Locks a handle. With LIBOS_IPC_SYNC_STATE_SHARED no other process changes the data, with LIBOS_IPC_SYNC_STATE_EXCLUSIVE no other process
 * reads or changes it. Only one thread of this process holds the lock at a time. If the data has changed since this
 * process last had it, the library copies it to `data` (at most `data_size` bytes) and returns true. The process keeps its
 * lease until another process wants it, so to lock again takes no message. Blocks. If the lock fails (the leader is gone)
 * the library logs the error and returns false; libos_ipc_sync_lock() returns it. That a process died while it could
 * change the data is also only logged here, and is reported to the next libos_ipc_sync_lock() of any process. */
bool libos_ipc_sync_lock_updated(struct libos_ipc_sync_handle* handle, int state, void* data, size_t data_size)
    __attribute__((warn_unused_result));
/* Unlocks a handle. After LIBOS_IPC_SYNC_STATE_EXCLUSIVE `data` is the new data; NULL: it is unchanged. */
void libos_ipc_sync_unlock(struct libos_ipc_sync_handle* handle, void* data, size_t data_size);
/* As libos_ipc_sync_lock_updated(), but returns -errno if the lock fails. On success returns 0 and stores bits of libos_ipc_sync_news. */
enum libos_ipc_sync_news {
    LIBOS_IPC_SYNC_UPDATED = 1,    /* the data has changed and was copied */
    LIBOS_IPC_SYNC_OWNER_DIED = 2, /* a process died while it could change the data: its changes are lost
                                      since it last returned its lease. Every lock reports this, until a
                                      process that got the report has locked LIBOS_IPC_SYNC_STATE_EXCLUSIVE */
};
int libos_ipc_sync_lock(struct libos_ipc_sync_handle* handle, int state, void* data, size_t data_size,
                        unsigned int* news);

/* As libos_ipc_sync_lock(), with a limit, which may be NULL. -EINTR and -ETIMEDOUT as `limit` states; then the handle is not
 * locked. */
int libos_ipc_sync_lock_within(struct libos_ipc_sync_handle* handle, int state, void* data, size_t data_size,
                               unsigned int* news, const struct libos_ipc_call_limit* limit);
/* The function turns a lock LIBOS_IPC_SYNC_STATE_SHARED into LIBOS_IPC_SYNC_STATE_EXCLUSIVE: no other process changes the data meanwhile. `limit` may be NULL.
 * Blocks. -EDEADLK if another process wants to do the same and waits for this one to unlock, -ENOSYS if the leader is a
 * process of the C implementation. After an error the handle stays locked LIBOS_IPC_SYNC_STATE_SHARED. */
int libos_ipc_sync_upgrade(struct libos_ipc_sync_handle* handle, const struct libos_ipc_call_limit* limit);
/* Returns a count that rises when the data of a handle has changed or may soon change. Does not block. -EINVAL for a closed
 * handle. */
int libos_ipc_sync_changes(struct libos_ipc_sync_handle* handle, uint64_t* count);
/* Stores a fencing number for a handle that is locked LIBOS_IPC_SYNC_STATE_EXCLUSIVE, as libos_ipc_file_lock_fencing().
 * -EINVAL for a closed handle, or one that is not locked so. */
int libos_ipc_sync_fencing(struct libos_ipc_sync_handle* handle, uint64_t* number);
/* Waits until that count is not `seen`. To wait for a certain value: read the count, lock, look at the data, unlock, and if
 * it is not there yet wait with that count. No thread of the caller may have the handle locked. Blocks, without a time
 * limit unless `limit` sets one; `limit` may be NULL. -EINTR and -ETIMEDOUT as `limit` states, -EINVAL for a closed
 * handle. */
int libos_ipc_sync_wait(struct libos_ipc_sync_handle* handle, uint64_t seen,
                        const struct libos_ipc_call_limit* limit);

/* The payload of messages about sync handles. */
struct libos_ipc_sync {
    uint64_t id;
    size_t data_size;
    int state;
    LIBOS_IPC_OPEN_ENDED unsigned char data[];
};

/* ---- File locks: fcntl(2) and flock(2) ------------------------------------------------------------ */

enum libos_ipc_lock_family {
    LIBOS_IPC_LOCK_UNKNOWN,
    LIBOS_IPC_LOCK_POSIX, /* owned by a process: fcntl(2) */
    LIBOS_IPC_LOCK_FLOCK, /* owned by an open file: flock(2) */
    LIBOS_IPC_LOCK_OFD,   /* owned by an open file, and conflicts with LIBOS_IPC_LOCK_POSIX: fcntl(2), F_OFD_SETLK. -ENOSYS if the
                        leader is a process of the C implementation */
};

/* The lock reaches to the end of the file, also if the file grows. */
#define LIBOS_IPC_LOCK_EOF UINT64_MAX

struct libos_ipc_lock {
    enum libos_ipc_lock_family family;
    int type;           /* F_RDLCK 0, F_WRLCK 1, F_UNLCK 2, as in Linux */
    uint64_t start;     /* the first byte */
    uint64_t end;       /* the last byte */
    libos_ipc_id_t pid;         /* the owner */
    uint64_t handle_id; /* the open file; for LIBOS_IPC_LOCK_FLOCK and LIBOS_IPC_LOCK_OFD */
};

/* Does nothing. May be called before libos_ipc_init(). */
int libos_ipc_init_fs_lock(void);
/* Sets, changes or removes a lock, as F_SETLK, F_SETLKW or flock(2). If another lock conflicts: -EAGAIN, or with `wait` it
 * blocks until the lock is granted. -EDEADLK if the wait would close a cycle of waiting processes (which is looked for among
 * 4,096 locks and waits), -ENOLCK at a limit of the leader. */
int libos_ipc_file_lock_set(const char* path, struct libos_ipc_lock* file_lock, bool wait);
/* As libos_ipc_file_lock_set(), with a limit, which may be NULL: -EINTR and -ETIMEDOUT as `limit` states, and then the lock is not
 * held. */
int libos_ipc_file_lock_set_within(const char* path, const struct libos_ipc_lock* file_lock, bool wait,
                                   const struct libos_ipc_call_limit* limit);
/* Removes the LIBOS_IPC_LOCK_POSIX locks of a process on a file, as close(2) of any descriptor of the file does. Sends no message
 * if this process never set a lock on the file. */
int libos_ipc_close_file(const char* path, libos_ipc_id_t pid);
/* As libos_ipc_close_file(), with a limit, which may be NULL: -EINTR and -ETIMEDOUT as `limit` states; then the locks may be
 * removed or not, and the call can be repeated. */
int libos_ipc_close_file_within(const char* path, libos_ipc_id_t pid, const struct libos_ipc_call_limit* limit);
/* Stores a fencing number for a write lock that this process holds and that covers the range of `file_lock` (its `type` does
 * not matter): it is higher than all that any process of the family got for a conflicting lock that was granted before. What
 * the lock protects keeps the highest number that it has seen, and refuses a request with a lower one: it comes from a process
 * that has lost its lock. To be called once for each grant. 0 if the leader is a process of the C implementation, or this
 * process has no extensions. Blocks. -EPERM if there is no such lock. */
int libos_ipc_file_lock_fencing(const char* path, const struct libos_ipc_lock* file_lock, uint64_t* number);
/* Returns the lock that conflicts with this one, as F_GETLK; of several the one that starts lowest. A LIBOS_IPC_LOCK_OFD lock is
 * reported as LIBOS_IPC_LOCK_POSIX with the pid (libos_ipc_id_t)-1, as the kernel does.
 * `out_file_lock->type` is F_UNLCK if none conflicts. Blocks for the leader's answer. */
int libos_ipc_file_lock_get(const char* path, struct libos_ipc_lock* file_lock,
                  struct libos_ipc_lock* out_file_lock);
/* As libos_ipc_file_lock_get(), with a limit, which may be NULL: -EINTR and -ETIMEDOUT as `limit` states. */
int libos_ipc_file_lock_get_within(const char* path, const struct libos_ipc_lock* file_lock,
                                   struct libos_ipc_lock* out_file_lock, const struct libos_ipc_call_limit* limit);
/* Removes all locks of a process, when it exits. Sends no message if this process never set a lock. */
int libos_ipc_file_lock_clear_pid(libos_ipc_id_t pid);

/* The holders of an open file (libos_ipc_lock.handle_id). The LIBOS_IPC_LOCK_FLOCK and LIBOS_IPC_LOCK_OFD locks of an open file are removed when its
 * last holder closes it or ends. A process holds an open file once it has locked it or another process gave it, until it
 * closes it or ends. The four calls block, and have taken effect when they return. They return -ENOSYS if the leader is a
 * process of the C implementation, which does not track holders: there a lock stays until a process unlocks it.
 *
 * Before a process starts a child that inherits its open files (fork(2), exec(3)), or sends a descriptor to another
 * process, it gives the open file to that process. So the lock always has a holder, in whatever order the processes close
 * and end. The giver becomes a holder, too, even if it never locked the file. So a lock that a child has set stays until
 * the parent has closed the open file (in a shell, `(flock 9; work) 9>file`). */

/* Gives an open file to another process: to one that this process will start, with a VMID of libos_ipc_get_new_vmid(), or to any
 * other. -ESRCH if that process has left, -ENOLCK at the limit `lock_handles`; then nothing has changed. A process that
 * never starts remains a holder until libos_ipc_bury() or until this process ends. */
int libos_ipc_give_open_file(uint64_t handle_id, libos_ipc_id_t to);
/* Undoes libos_ipc_give_open_file(), if the descriptor could not be sent or the process not be started. Does nothing if the
 * other process has used the open file already. */
int libos_ipc_take_back_open_file(uint64_t handle_id, libos_ipc_id_t from);
/* States that a descriptor of the open file has arrived in a message. To be called once for each descriptor, before it is
 * used or closed. The descriptor may arrive before the leader's notification that it was given. A close before both has no
 * effect, and the lock stays until this process ends. Not needed for an inherited open file. */
int libos_ipc_hold_open_file(uint64_t handle_id);
/* States that this process has closed its last descriptor of the open file. Sends no message if this process has never
 * locked, held or given it, except for one request to the leader in the life of the process. */
int libos_ipc_close_open_file(uint64_t handle_id);

/* As the four calls above, with a limit, which may be NULL: -EINTR and -ETIMEDOUT as `limit` states; then the call may have
 * had its effect or not: a close that was sent has, and libos_ipc_take_back_open_file() undoes what may have been given. */
int libos_ipc_give_open_file_within(uint64_t handle_id, libos_ipc_id_t to, const struct libos_ipc_call_limit* limit);
int libos_ipc_take_back_open_file_within(uint64_t handle_id, libos_ipc_id_t from,
                                         const struct libos_ipc_call_limit* limit);
int libos_ipc_hold_open_file_within(uint64_t handle_id, const struct libos_ipc_call_limit* limit);
int libos_ipc_close_open_file_within(uint64_t handle_id, const struct libos_ipc_call_limit* limit);

/* The payloads of messages about file locks. */
struct libos_ipc_file_lock {
    enum libos_ipc_lock_family family;
    int type;
    uint64_t start;
    uint64_t end;
    libos_ipc_id_t pid;
    uint64_t handle_id;
    bool wait;
    LIBOS_IPC_OPEN_ENDED char path[]; /* ends with NUL */
};
struct libos_ipc_file_lock_resp {
    int result;
    enum libos_ipc_lock_family family;
    int type;
    uint64_t start;
    uint64_t end;
    libos_ipc_id_t pid;
    uint64_t handle_id;
};

/* As the calls without `_key`, but `path` is the key: libos_ipc_callbacks.file_key is not called. */
int libos_ipc_file_lock_set_key(const char* path, struct libos_ipc_lock* file_lock, bool wait);
int libos_ipc_file_lock_get_key(const char* path, struct libos_ipc_lock* file_lock,
                                struct libos_ipc_lock* out_file_lock);

/* ---- For a library OS that moves some messages itself ----------------------------------------------
 *
 * The worker does the work of these calls. A library OS that leaves all messages to the library needs none of them.
 */

/* Send a message about a sync handle: as a client to the leader, or as the leader to a client. `code` is one of
 * the IPC_MSG_SYNC_ codes. */
int libos_ipc_sync_client_send(int code, uint64_t id, int state, size_t data_size, void* data);
int libos_ipc_sync_server_send(libos_ipc_id_t dest, int code, uint64_t id, int state, size_t data_size,
                         void* data);
/* Answers a request for a file lock that has waited. */
int libos_ipc_file_lock_set_send_response(libos_ipc_id_t vmid, unsigned long seq, int result);

/* Each handles a message as if the connected process `src` had just sent it: `data` is the payload (NULL if there is none)
 * and `seq` the sequence number. The library checks it like any message, and sends the answer, if it has one, to `src`.
 * Returns 0; -ESRCH if `src` is not connected; -EINVAL if the message is malformed or `src` may not send it, and then the
 * library closes the connection; -EAGAIN if there is no room for the message now. */
int libos_ipc_get_new_vmid_callback(libos_ipc_id_t src, void* data, uint64_t seq);
int libos_ipc_cld_exit_callback(libos_ipc_id_t src, void* data, uint64_t seq);
int libos_ipc_alloc_id_range_callback(libos_ipc_id_t src, void* data, uint64_t seq);
int libos_ipc_release_id_range_callback(libos_ipc_id_t src, void* data, uint64_t seq);
int libos_ipc_change_id_owner_callback(libos_ipc_id_t src, void* data, uint64_t seq);
int libos_ipc_get_id_owner_callback(libos_ipc_id_t src, void* data, uint64_t seq);
int libos_ipc_pid_kill_callback(libos_ipc_id_t src, void* data, uint64_t seq);
int libos_ipc_pid_getmeta_callback(libos_ipc_id_t src, void* data, uint64_t seq);
int libos_ipc_sync_request_upgrade_callback(libos_ipc_id_t src, void* data, unsigned long seq);
int libos_ipc_sync_request_downgrade_callback(libos_ipc_id_t src, void* data, unsigned long seq);
int libos_ipc_sync_request_close_callback(libos_ipc_id_t src, void* data, unsigned long seq);
int libos_ipc_sync_confirm_upgrade_callback(libos_ipc_id_t src, void* data, unsigned long seq);
int libos_ipc_sync_confirm_downgrade_callback(libos_ipc_id_t src, void* data, unsigned long seq);
int libos_ipc_sync_confirm_close_callback(libos_ipc_id_t src, void* data, unsigned long seq);
int libos_ipc_file_lock_set_callback(libos_ipc_id_t src, void* data, unsigned long seq);
int libos_ipc_file_lock_get_callback(libos_ipc_id_t src, void* data, unsigned long seq);
int libos_ipc_file_lock_clear_pid_callback(libos_ipc_id_t src, void* data, unsigned long seq);
/* Handles an answer in the same way: the call that waits for it returns. The library frees `data` with
 * libos_ipc_platform.release. Returns 0 also if no call waits for the answer. */
int libos_ipc_response_callback(libos_ipc_id_t src, void* data, uint64_t seq);
/* States that a process is gone. If it is a child that has not ended yet, the library calls
 * libos_ipc_callbacks.child_died with SIGPWR. */
void libos_ipc_child_disconnect_callback(libos_ipc_id_t vmid);

#ifdef __cplusplus
}
#endif

#ifndef LIBOS_IPC_PREFIXED
#include "libos_ipc_seed.h"
#endif
