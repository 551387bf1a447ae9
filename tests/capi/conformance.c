/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Checks the stock platform, as it is or with a defect: conformance BASE none|wake|set|hang-up|long-read|long-report|clock.
 * Prints the number of broken rules, then the report. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libos_ipc_check.h"
#include "libos_ipc_posix.h"

static struct libos_ipc_platform g_stock;
static char g_report[65536];

static void no_wake(void* context) {}

static void no_set(void* context, void* event) {}

/* Never reports a hang-up. */
static size_t wait_without_hang_up(void* context, struct libos_ipc_ready* ready, size_t capacity, uint64_t until) {
    size_t count = g_stock.wait(context, ready, capacity, until), kept = 0;
    for (size_t i = 0; i < count; i++) {
        ready[i].readiness &= ~(uint32_t)LIBOS_IPC_HANG_UP;
        if (ready[i].readiness)
            ready[kept++] = ready[i];
    }
    return kept;
}

/* Returns more entries than there is room for. */
static size_t wait_for_many(void* context, struct libos_ipc_ready* ready, size_t capacity, uint64_t until) {
    size_t count = g_stock.wait(context, ready, capacity, until);
    return count ? capacity + 1 : 0;
}

static int64_t long_read(void* context, void* stream, void* buffer, size_t size) {
    int64_t count = g_stock.read(context, stream, buffer, size);
    return count > 0 ? (int64_t)size + 1 : count;
}

static uint64_t stopped_clock(void* context) {
    return 1000000000;
}

static void add_line(void* context, const char* line) {
    size_t length = strlen(g_report);
    snprintf(g_report + length, sizeof(g_report) - length, "%s\n", line);
}

int main(int argc, char** argv) {
    if (argc != 3 || libos_ipc_posix_platform(&g_stock, argv[1], NULL, 0) < 0)
        return 2;
    struct libos_ipc_platform platform = g_stock;
    if (strcmp(argv[2], "wake") == 0)
        platform.wake = no_wake;
    else if (strcmp(argv[2], "set") == 0)
        platform.event_set = no_set;
    else if (strcmp(argv[2], "hang-up") == 0)
        platform.wait = wait_without_hang_up;
    else if (strcmp(argv[2], "long-read") == 0)
        platform.read = long_read;
    else if (strcmp(argv[2], "long-report") == 0)
        platform.wait = wait_for_many;
    else if (strcmp(argv[2], "clock") == 0)
        platform.now = stopped_clock;
    int broken = libos_ipc_check_platform(&platform, 7, add_line, NULL);
    printf("%d broken\n%s", broken, g_report);
    libos_ipc_posix_platform_end();
    return broken < 0 ? 1 : 0;
}
