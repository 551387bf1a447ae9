/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the leader and its followers have in common: a very small library OS. */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

#include "libos_ipc.h"

#define ROUNDS 500
#define SIGNAL 10 /* SIGUSR1 */
#define COUNTER 0x5eed /* the number of the sync handle */
#define LOCKED_FILE "/data/accounts"

/* This process, as its family knows it. */
struct process {
    IDTYPE pid, parent_pid;
    const char* program;
    atomic_uint signals; /* that came */
    atomic_uint ended;   /* children that ended */
    unsigned int ended_well;
};
extern struct process g_process;

/* Becomes a member: the platform, the callbacks, the calls a library OS begins with. */
void start(const char* base, const char* program, IDTYPE pid, IDTYPE parent_pid);
/* Leaves the family. */
void stop(void);
/* Increments the shared counter that often, each time alone in the whole family; 0: only looks. What
 * it is then. */
uint64_t count(struct sync_handle* handle, unsigned int rounds);
/* Waits until a counter of `g_process` is at least that; ends the process if that takes 20 seconds. */
void await(atomic_uint* what, unsigned int enough, const char* name);
/* Ends the process, and says why, if `result` is an error. */
int must(int result, const char* what);
