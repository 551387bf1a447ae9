/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The declarations that the parts of microlibos share. Lock order: g_files, then g_os.lock. None of them is held during a call
 * of the library that may wait. */
#pragma once

#include <pthread.h>
#include <setjmp.h>
#include <stdatomic.h>

#include "libos_ipc_posix.h"
#include "ml.h"

enum { THREADS = 96, FDS = 64, SIGNALS = 32, ARGUMENT = 1024 };

/* Prints the reason and ends the process: for failures that no program can cause. */
_Noreturn void os_fail(const char* what, int error);

/* ---- threads.c ---- */

struct thread {
    bool used, done; /* the slot is in use; the thread has ended */
    bool in_call;    /* the thread is in a call that may block */
    int tid, result;
    int (*run)(void* argument);
    void* argument;
    struct libos_ipc_interrupt interrupt; /* ends its call of the library */
    int wake_fd;                          /* ends its call of the host */
    uint64_t mask, pending;               /* signals */
    jmp_buf* base;                        /* where the thread ends, below the frames of the program */
};
extern _Thread_local struct thread* g_self;

/* The state of this process. */
extern struct os {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int pid;
    struct thread threads[THREADS];
    int running;        /* threads of the application */
    uint64_t pending;   /* signals for the process */
    void (*handlers[SIGNALS])(int);
    /* The request to the supervisor, the thread that ends the process and replaces its program. */
    enum request { NONE, END, EXEC } request;
    int status, signal; /* how the process ends */
    struct program* next; /* the program of an exec, and the mask of its main thread */
    uint64_t next_mask;
} g_os;

/* Begins a call that may block: runs the handlers of pending signals, and returns the limit with which a later signal ends
 * the call. */
struct libos_ipc_call_limit call_begin(void);
/* Ends a call: runs handlers, and returns whether the call shall be made again, because none has run. */
bool call_again(int64_t result);
/* Waits until no thread is in a call, after request(): a thread that has not noticed the end of its process must not take
 * data from a pipe. */
void threads_await_calls(void);
/* Waits until a descriptor of the host is ready. Returns -EINTR if this thread is woken. */
int call_wait(int host_fd, short events);
/* Wakes a thread in any call, or before its next. The caller holds the lock. */
void thread_wake(struct thread* thread);
/* Starts a thread with that ID and mask. */
int thread_start(int tid, uint64_t mask, int (*run)(void*), void* argument);
/* Ends this thread, because the process ends or executes a program. */
_Noreturn void thread_leave(void);
/* Asks the supervisor, unless it has a request already. Can be called from a callback. */
void request(enum request request, int status, int signal);

/* ---- signals.c ---- */

/* Runs the handlers of pending signals of this thread; returns whether any has run. */
bool signals_take(void);
/* The callbacks of the library: a signal for this process, and the end of a child. */
int signals_deliver(void* context, const struct libos_ipc_pid_kill* kill);
void signals_child_died(void* context, const struct libos_ipc_cld_exit* exit);
/* After an exec: handlers are forgotten, ignored signals stay ignored. */
void signals_reset(void);

/* ---- shared.c ---- */

/* A number that several processes share, by a sync handle. */
struct shared {
    struct sync_handle* handle; /* NULL if it is not open */
    int64_t value;              /* current while it is locked */
};
int shared_open(struct shared* shared, uint64_t number);
int shared_lock(struct shared* shared, const struct libos_ipc_call_limit* limit);
void shared_unlock(struct shared* shared, bool changed);
void shared_close(struct shared* shared);

/* ---- files.c ---- */

/* An open file: what open(2) calls an open file description. */
struct file {
    int users; /* descriptors, and calls that use it now */
    int host_fd, flags;
    bool is_regular;
    char key[40];           /* identifies the file for locks */
    uint64_t id;            /* of the open file, in the family */
    int64_t offset;         /* unless the position is shared */
    struct shared position; /* once another process has the open file */
};
struct descriptor {
    struct file* file;
    bool is_cloexec;
};
extern pthread_mutex_t g_files;
extern struct descriptor g_fds[FDS];

/* Returns the open file of a descriptor for the time of a call; NULL for a wrong descriptor. */
struct file* file_use(int fd);
void file_release(struct file* file);
/* Gives an open file to a process that will have a descriptor of it. */
int file_give(struct file* file, IDTYPE vmid);
/* Opens the position that the holders of an open file share. If no other process has it open it is `offset`. */
int file_open_position(struct file* file, int64_t offset);
/* Makes an open file of a host's descriptor. It has no user until a descriptor of it is installed. */
struct file* file_new(int host_fd, int flags);
/* Makes the lowest free descriptor of an open file. Returns it, or -EMFILE. */
int file_install(struct file* file, bool is_cloexec);
/* Closes descriptors: all, or those that are closed on exec. */
void files_close(bool all);
/* Lists the open files of this process, each once. Returns how many. The caller holds g_files. */
int files_list(struct file* files[FDS]);

/* ---- Checkpoints ---- */

/* An open file in a checkpoint. */
struct saved_file {
    int host_fd, flags;
    bool is_regular;
    char key[40];
    uint64_t id;
    int64_t offset;
};
/* What a child inherits. Addresses in the program are offsets in it. */
struct checkpoint {
    struct libos_ipc_identity identity;
    char base[64], program[256];
    uint64_t entry, size, mask, ignored, handled, handlers[SIGNALS];
    int count;
    struct saved_file files[FDS];
    struct {
        int file; /* its number in `files`; -1: none */
        bool is_cloexec;
    } fds[FDS];
    unsigned char argument[ARGUMENT];
};

/* ---- program.c ---- */

/* A loaded program. */
struct program {
    char path[256];
    void* library;
    char* start; /* the address at which it is loaded */
    int (*run)(int argc, char** argv);
    int argc;
    char** argv;
};
extern struct program* g_program;
struct program* program_new(const char* path, int argc, char* const argv[]);
/* Loads the shared object. Returns 0 or -errno. */
int program_load(struct program* program);
void program_unload(struct program* program);

/* ---- fork.c ---- */

/* In a child: reads the checkpoint, and restores the open files. */
void checkpoint_read(int fd, struct checkpoint* checkpoint);
void checkpoint_restore(const struct checkpoint* checkpoint);

/* ---- start.c ---- */

extern char g_base[64];
/* The path of microlibos. */
extern char g_path[4096];
