/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A platform for libos_ipc on POSIX: Unix sockets, poll(2), pthreads. */
#pragma once

#include "libos_ipc.h"

/* Fills in the table. Process N of the family listens at `{base}.N`, as members in Rust do. `memory` and `size` become
 * libos_ipc_platform.memory and memory_size. Returns 0 or -errno. */
int posix_platform(struct libos_ipc_platform* platform, const char* base, void* memory, size_t size);
/* Removes the socket that `listen` created. */
void posix_platform_end(void);
/* Starts a joinable thread with a stack of 64 KiB, as a library OS would. Returns 0 or -errno. */
int posix_small_thread(void* (*run)(void*), void* argument, void* thread);
