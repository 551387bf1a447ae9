/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The stock platform of libos-ipc: struct libos_ipc_platform over Unix sockets, poll(2) and pthreads. A library OS whose
 * processes are processes of a POSIX host uses it as it is, or starts from its source (posix.c). Of Linux it needs
 * eventfd(2), accept4(2), ppoll(2) and SO_PEERCRED.
 *
 * Every descriptor is closed on exec. `event_set` and `wake` may be called from a signal handler, so
 * libos_ipc_interrupt_raise() may, too. The worker's thread blocks all signals.
 */
#pragma once

#include "libos_ipc.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Fills in the table. `memory` and `size` become libos_ipc_platform.memory and memory_size. The process with VMID N listens
 * at the path `{base}.N`, as members in Rust do; the directory must exist and be new, so that no socket of an older family
 * is in it. If `base` begins with '@', sockets have no file but a name in Linux's abstract namespace. In both cases only
 * processes of the same user can connect, whatever the umask is. Returns 0; -ENAMETOOLONG for a `base` too long for a
 * socket's address; or the -errno of eventfd(2). */
int libos_ipc_posix_platform(struct libos_ipc_platform* platform, const char* base, void* memory, size_t size);

/* To be called after libos_ipc_terminate_worker(): waits until the worker's thread has ended, closes the listening socket and
 * removes its file. Events stay, because other threads may still return from calls. In a forked process it does nothing,
 * so that a process that forks without exec does not take the socket away from its parent. */
void libos_ipc_posix_platform_end(void);

#ifdef __cplusplus
}
#endif
