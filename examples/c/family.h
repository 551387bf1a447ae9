/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The small library OS that the leader and its followers share. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "libos_ipc.h"

#define ROUNDS 500
#define SIGNAL 10 /* SIGUSR1 */
#define COUNTER 0x5eed /* the number of the sync handle */
#define LOCKED_FILE "/data/accounts"

/* The state of this process. */
struct process {
    IDTYPE pid, parent_pid;
    const char* program;
    atomic_uint signals;     /* signals received */
    atomic_uint ended;       /* children that have ended */
    unsigned int ended_well; /* and of these, those with the expected exit code */
};
extern struct process g_process;

/* Makes this process a member: sets up the platform and the callbacks, and makes the calls of a starting library OS. */
void start(const char* base, const char* program, IDTYPE pid, IDTYPE parent_pid);
/* Makes this process leave the family. */
void stop(void);
/* Starts a joinable thread with a stack of 64 KiB, as an enclave has. Returns 0 or -errno. */
int small_thread(void* (*run)(void*), void* argument, pthread_t* thread);
/* Increments the shared counter `rounds` times, each time under an exclusive lock; with 0 only reads it. Returns the
 * counter. */
uint64_t count(struct sync_handle* handle, unsigned int rounds);
/* Waits until a counter of `g_process` is at least `least`. Ends the process after 60 seconds: on a busy machine
 * the others may count so long. */
void await(atomic_uint* counter, unsigned int least, const char* name);
/* Prints the reason and ends the process if `result` is an error. */
int check(int result, const char* what);
