/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A secure family: a leader, a member with the family's key, a process with another key, a process without a key. The
 * argument `plain` tests a library that was built without the feature. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libos_ipc.h"
#include "libos_ipc_posix.h"

#define INSTANCE 7
#define OWN_KEY 1 /* each byte of the key */
#define OTHER_KEY 2
#define NO_KEY 0

static IDTYPE g_pid, g_parent_pid;
static atomic_int g_signals;

static void check(long long result, const char* what) {
    if (result < 0) {
        fprintf(stderr, "process %u: %s: %s\n", g_pid, what, strerror((int)-result));
        exit(1);
    }
}

static int deliver(void* context, const struct libos_ipc_pid_kill* kill) {
    if (kill->id != g_pid)
        return -ESRCH;
    g_signals++;
    return 0;
}

static void self(void* context, struct libos_ipc_self* self) {
    *self = (struct libos_ipc_self){g_pid, g_parent_pid, 0};
}

static int random_bytes(void* context, void* buffer, size_t size) {
    return getrandom(buffer, size, 0) == (ssize_t)size ? 0 : -EIO;
}

static int set_key(int key) {
    uint8_t bytes[32];
    memset(bytes, key, sizeof(bytes));
    return libos_ipc_set_family_key(INSTANCE, bytes, random_bytes);
}

static void set_up(const char* base, bool require_secure) {
    static const struct libos_ipc_callbacks callbacks = {.signal = deliver, .self = self};
    static struct libos_ipc_platform platform;
    size_t size = libos_ipc_memory_size(NULL, true);
    void* memory = aligned_alloc(64, (size + 63) / 64 * 64);
    check(memory ? 0 : -ENOMEM, "memory");
    check(libos_ipc_posix_platform(&platform, base, memory, size), "libos_ipc_posix_platform");
    struct libos_ipc_limits limits;
    libos_ipc_default_limits(&limits);
    limits.require_secure = require_secure;
    check(libos_ipc_setup(&platform, &callbacks, &limits), "libos_ipc_setup");
}

static void start(const char* base, int key) {
    /* A process without a key may have plain streams only if it does not require others. */
    set_up(base, key != NO_KEY);
    if (key != NO_KEY) {
        check(init_ipc() == -ENOKEY ? 0 : -EPROTO, "a missing key");
        check(libos_ipc_set_family_key(INSTANCE, NULL, random_bytes) == -EINVAL ? 0 : -EPROTO, "no key");
        check(set_key(key), "libos_ipc_set_family_key");
        check(set_key(key) == -EALREADY ? 0 : -EPROTO, "a second key");
    }
    check(init_ipc(), "init_ipc");
    check(init_ipc_worker(), "init_ipc_worker");
}

static void member(char** numbers) {
    int key = atoi(numbers[3]);
    IDTYPE owner;
    g_process_ipc_ids = (struct libos_ipc_ids){(IDTYPE)atol(numbers[1]), STARTING_VMID, STARTING_VMID};
    g_pid = (IDTYPE)atol(numbers[2]);
    g_parent_pid = (IDTYPE)atol(numbers[4]);
    start(numbers[0], key);
    int result = ipc_get_id_owner(g_parent_pid, &owner);
    if (key == OWN_KEY) {
        check(result, "ipc_get_id_owner");
        check(owner == STARTING_VMID ? 0 : -EPROTO, "the parent's owner");
        check(ipc_kill_process(g_pid, g_parent_pid, 10), "ipc_kill_process");
    } else {
        /* The call fails at once, not at its time limit. */
        check(result < 0 && result != -ETIMEDOUT ? 0 : -EPROTO, "an answer without the key");
    }
    terminate_ipc_worker();
    libos_ipc_posix_platform_end();
    exit(0);
}

int main(int argc, char** argv) {
    static const int keys[] = {OWN_KEY, OTHER_KEY, NO_KEY};
    if (argc == 7)
        member(argv + 2);
    if (argc == 3) {
        set_up(argv[1], true);
        check(set_key(OWN_KEY) == -ENOSYS ? 0 : -EPROTO, "a key without the feature");
        check(init_ipc() == -ENOKEY ? 0 : -EPROTO, "secure streams without the feature");
        libos_ipc_posix_platform_end();
        return 0;
    }
    check(set_key(OWN_KEY) == -EINVAL ? 0 : -EPROTO, "a key before the set-up");
    start(argv[1], OWN_KEY);
    g_pid = get_new_id(0);
    for (int i = 0; i < 3; i++) {
        IDTYPE vmid;
        check(ipc_get_new_vmid(&vmid), "ipc_get_new_vmid");
        char numbers[4][16];
        snprintf(numbers[0], 16, "%u", vmid);
        snprintf(numbers[1], 16, "%u", get_new_id(vmid));
        snprintf(numbers[2], 16, "%d", keys[i]);
        snprintf(numbers[3], 16, "%u", g_pid);
        if (fork() == 0) {
            execl("/proc/self/exe", argv[0], "member", argv[1], numbers[0], numbers[1], numbers[2], numbers[3],
                  (char*)NULL);
            _exit(1);
        }
        int status;
        check(wait(&status), "wait");
        check(status ? -EPROTO : 0, "how a child ended");
        /* Only the member with the key has sent its signal. */
        check(g_signals == 1 ? 0 : -EPROTO, "the signals");
    }
    terminate_ipc_worker();
    libos_ipc_posix_platform_end();
    return 0;
}
