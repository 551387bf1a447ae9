/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A platform for libos_ipc on POSIX: Unix sockets, poll(2), pthreads. */
#pragma once

#include "libos_ipc.h"

/* Fills in the table. Process N of the family listens at `{base}.N`, as do members in Rust. `memory` is
 * what libos_ipc_platform.memory wants. 0 or -errno. */
int posix_platform(struct libos_ipc_platform* platform, const char* base, void* memory, size_t size);
/* Takes away what `listen` put there. */
void posix_platform_end(void);
/* A joinable thread with a stack of 64 KiB, as those of a library OS have. 0 or -errno. */
int posix_small_thread(void* (*run)(void*), void* argument, void* thread);
