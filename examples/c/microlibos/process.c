/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Processes: their ends, their groups and sessions. */
#include "os.h"

void ml_exit(int status) {
    request(END, status, 0);
    thread_leave();
}

int ml_wait(enum ml_which which, int id, int options, struct ml_end* end) {
    static const enum libos_ipc_wait_for kinds[] = {LIBOS_IPC_WAIT_ANY, LIBOS_IPC_WAIT_PID, LIBOS_IPC_WAIT_GROUP};
    struct libos_ipc_cld_exit exit = {0};
    int result;
    do {
        struct libos_ipc_call_limit limit = call_begin();
        result = libos_ipc_wait(kinds[which], (IDTYPE)id, options, &exit, &limit);
    } while (call_again(result));
    if (result == 0)
        *end = (struct ml_end){(int)exit.pid, (int)exit.exitcode, (int)exit.term_signal};
    return result;
}

int ml_getpid(void) {
    return g_os.pid;
}

int ml_getppid(void) {
    struct libos_ipc_process process;
    int result = libos_ipc_get_process(0, &process);
    return result ? result : (int)process.parent;
}

int ml_getpgid(int pid) {
    IDTYPE group;
    int result = libos_ipc_getpgid((IDTYPE)pid, &group);
    return result ? result : (int)group;
}

int ml_setpgid(int pid, int group) {
    if (pid < 0 || group < 0)
        return group < 0 ? -EINVAL : -ESRCH;
    /* The library has 0 for this process. */
    return libos_ipc_setpgid(pid == g_os.pid ? 0 : (IDTYPE)pid, (IDTYPE)group);
}

int ml_getsid(int pid) {
    IDTYPE session;
    int result = libos_ipc_getsid((IDTYPE)pid, &session);
    return result ? result : (int)session;
}

int ml_setsid(void) {
    IDTYPE session;
    int result = libos_ipc_setsid(&session);
    return result ? result : (int)session;
}

int ml_subreaper(void) {
    return libos_ipc_set_process_flag(LIBOS_IPC_SUBREAPER, true);
}
