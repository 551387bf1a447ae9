/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The check of a platform: whether its functions keep the rules of `struct libos_ipc_platform` and of the Rust trait `Pal`
 * behind it.
 *
 * For tests on a POSIX host. Link with liblibos_ipc_check.a INSTEAD of liblibos_ipc.a, and with -lpthread -ldl -lm: the archive
 * has the whole library, built with Rust's standard library. `cargo build --release --package libos-ipc-check` makes it.
 */
#pragma once

#include "libos_ipc.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Checks a platform that does not listen yet. The function calls `listen` with `vmid`; the streams of the checks lead from this
 * process to itself. `memory` may be NULL. Without `thread_create` the checks that need several threads are left out. The
 * platform must not be used after that, because a thread may not have returned from it. libos_ipc_setup() need not have been
 * called.
 *
 * Calls `print` (NULL: nothing is printed) for each line of the report: the number of checks that the platform has passed; for
 * each rule that it breaks the rule, the expected behaviour and the one that was seen; and the checks that were left out.
 *
 * Returns the number of broken rules, 0 if all are kept; -EINVAL if a required function is missing; or the result of
 * `listen`, if it fails. Takes some seconds, and up to some minutes if calls do not return: each wait of a check has a
 * limit. */
int libos_ipc_check_platform(const struct libos_ipc_platform* platform, IDTYPE vmid,
                             void (*print)(void* context, const char* line), void* context);

#ifdef __cplusplus
}
#endif
