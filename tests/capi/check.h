/* A check of a program of these tests: prints the call whose result is wrong, and ends the process. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>

#include "libos_ipc.h"

static void is(long long result, long long expected, const char* what) {
    if (result != expected) {
        fprintf(stderr, "process %u: %s is %lld, not %lld\n", g_process_ipc_ids.self_vmid, what, result, expected);
        exit(1);
    }
}
#define IS(call, expected) is(call, expected, #call)

#endif
