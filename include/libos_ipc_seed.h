/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The names of the C implementation that libos_ipc.h stands in for, for a library OS whose callers use them as they are.
 * Each is another name of something that libos_ipc.h declares and documents: drop `ipc` from the name here and put
 * `libos_ipc_` in front. The exceptions:
 *
 *   sync_lock            libos_ipc_sync_lock_updated; libos_ipc_sync_lock() also returns errors
 *   ipc_file_lock_set    libos_ipc_file_lock_set_key, since libos_ipc_file_lock_set() takes a path
 *   ipc_file_lock_get    libos_ipc_file_lock_get_key
 *   struct libos_file_lock, enum libos_file_lock_family    struct libos_ipc_lock, enum libos_ipc_lock_family
 *   FILE_LOCK_POSIX ...  LIBOS_IPC_LOCK_POSIX ...
 *   FS_LOCK_EOF          LIBOS_IPC_LOCK_EOF
 *
 * libos_ipc.h includes this header, unless LIBOS_IPC_PREFIXED is defined: for a library OS that has functions or types of
 * its own with such a name, and converts at its border. `struct libos_file_lock` is the likeliest one: it is 40 bytes long
 * here, and `start` is at 8; in the C implementation it is a node of a list, 56 bytes long with `start` at 24. The functions
 * are other symbols at the same addresses. liblibos_ipc_prefixed.a does not have them.
 */
#pragma once

#include "libos_ipc.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Types and constants ---- */

#ifndef LIBOS_IPC_HAS_IDTYPE
#define LIBOS_IPC_HAS_IDTYPE
typedef libos_ipc_id_t IDTYPE;
#endif

#define kill_type libos_ipc_kill_type
#define pid_meta_code libos_ipc_pid_meta_code
#define ipc_msg_header libos_ipc_msg_header
#define sync_handle libos_ipc_sync_handle
#define libos_file_lock libos_ipc_lock
#define libos_file_lock_family libos_ipc_lock_family
#define FS_LOCK_EOF LIBOS_IPC_LOCK_EOF
#define MAX_RANGE_SIZE LIBOS_IPC_MAX_RANGE_SIZE
#define STARTING_VMID LIBOS_IPC_STARTING_VMID
#define KILL_THREAD LIBOS_IPC_KILL_THREAD
#define KILL_PROCESS LIBOS_IPC_KILL_PROCESS
#define KILL_PGROUP LIBOS_IPC_KILL_PGROUP
#define KILL_ALL LIBOS_IPC_KILL_ALL
#define PID_META_CRED LIBOS_IPC_PID_META_CRED
#define PID_META_EXEC LIBOS_IPC_PID_META_EXEC
#define PID_META_CWD LIBOS_IPC_PID_META_CWD
#define PID_META_ROOT LIBOS_IPC_PID_META_ROOT
#define SYNC_STATE_NONE LIBOS_IPC_SYNC_STATE_NONE
#define SYNC_STATE_INVALID LIBOS_IPC_SYNC_STATE_INVALID
#define SYNC_STATE_SHARED LIBOS_IPC_SYNC_STATE_SHARED
#define SYNC_STATE_EXCLUSIVE LIBOS_IPC_SYNC_STATE_EXCLUSIVE
#define SYNC_STATE_NUM LIBOS_IPC_SYNC_STATE_NUM
#define FILE_LOCK_UNKNOWN LIBOS_IPC_LOCK_UNKNOWN
#define FILE_LOCK_POSIX LIBOS_IPC_LOCK_POSIX
#define FILE_LOCK_FLOCK LIBOS_IPC_LOCK_FLOCK
#define FILE_LOCK_OFD LIBOS_IPC_LOCK_OFD
#define IPC_MSG_RESP LIBOS_IPC_MSG_RESP
#define IPC_MSG_GET_NEW_VMID LIBOS_IPC_MSG_GET_NEW_VMID
#define IPC_MSG_CHILDEXIT LIBOS_IPC_MSG_CHILDEXIT
#define IPC_MSG_ALLOC_ID_RANGE LIBOS_IPC_MSG_ALLOC_ID_RANGE
#define IPC_MSG_RELEASE_ID_RANGE LIBOS_IPC_MSG_RELEASE_ID_RANGE
#define IPC_MSG_CHANGE_ID_OWNER LIBOS_IPC_MSG_CHANGE_ID_OWNER
#define IPC_MSG_GET_ID_OWNER LIBOS_IPC_MSG_GET_ID_OWNER
#define IPC_MSG_PID_KILL LIBOS_IPC_MSG_PID_KILL
#define IPC_MSG_PID_GETMETA LIBOS_IPC_MSG_PID_GETMETA
#define IPC_MSG_SYNC_REQUEST_UPGRADE LIBOS_IPC_MSG_SYNC_REQUEST_UPGRADE
#define IPC_MSG_SYNC_REQUEST_DOWNGRADE LIBOS_IPC_MSG_SYNC_REQUEST_DOWNGRADE
#define IPC_MSG_SYNC_REQUEST_CLOSE LIBOS_IPC_MSG_SYNC_REQUEST_CLOSE
#define IPC_MSG_SYNC_CONFIRM_UPGRADE LIBOS_IPC_MSG_SYNC_CONFIRM_UPGRADE
#define IPC_MSG_SYNC_CONFIRM_DOWNGRADE LIBOS_IPC_MSG_SYNC_CONFIRM_DOWNGRADE
#define IPC_MSG_SYNC_CONFIRM_CLOSE LIBOS_IPC_MSG_SYNC_CONFIRM_CLOSE
#define IPC_MSG_FILE_LOCK_SET LIBOS_IPC_MSG_FILE_LOCK_SET
#define IPC_MSG_FILE_LOCK_GET LIBOS_IPC_MSG_FILE_LOCK_GET
#define IPC_MSG_FILE_LOCK_CLEAR_PID LIBOS_IPC_MSG_FILE_LOCK_CLEAR_PID
#define IPC_MSG_CODE_BOUND LIBOS_IPC_MSG_CODE_BOUND

static inline size_t get_ipc_msg_size(size_t payload) {
    return libos_ipc_msg_size(payload);
}

/* ---- Set-up ---- */

extern struct libos_ipc_ids g_process_ipc_ids;
int init_ipc(void);
int init_ipc_ids(void);
int init_ipc_worker(void);
void terminate_ipc_worker(void);

/* ---- Connections and messages ---- */

int connect_to_process(IDTYPE dest);
void remove_outgoing_ipc_connection(IDTYPE dest);
void init_ipc_msg(struct libos_ipc_msg* msg, unsigned char code, size_t size);
void init_ipc_response(struct libos_ipc_msg* msg, uint64_t seq, size_t size);
int ipc_send_message(IDTYPE dest, struct libos_ipc_msg* msg);
int ipc_send_msg_and_get_response(IDTYPE dest, struct libos_ipc_msg* msg, void** resp);
int ipc_broadcast(struct libos_ipc_msg* msg, IDTYPE exclude_vmid);

/* ---- VMIDs and IDs ---- */

int ipc_get_new_vmid(IDTYPE* vmid);
int ipc_alloc_id_range(IDTYPE* out_start, IDTYPE* out_end);
int ipc_release_id_range(IDTYPE start, IDTYPE end);
int ipc_change_id_owner(IDTYPE id, IDTYPE new_owner);
int ipc_get_id_owner(IDTYPE id, IDTYPE* out_owner);
int init_id_ranges(IDTYPE preload_tid);
IDTYPE get_new_id(IDTYPE move_ownership_to);
void release_id(IDTYPE id);

/* ---- Processes ---- */

int ipc_cld_exit_send(unsigned int exitcode, unsigned int term_signal);
int ipc_kill_process(IDTYPE sender, IDTYPE target, int sig);
int ipc_kill_thread(IDTYPE sender, IDTYPE dest_pid, IDTYPE target, int sig);
int ipc_kill_pgroup(IDTYPE sender, IDTYPE pgid, int sig);
int ipc_kill_all(IDTYPE sender, int sig);
int ipc_pid_getmeta(IDTYPE pid, enum pid_meta_code code, struct libos_ipc_pid_retmeta** data);

/* ---- Sync handles ---- */

int init_sync_server(void);
int init_sync_client(void);
int shutdown_sync_client(void);
int sync_create(struct sync_handle** handle, uint64_t id);
void sync_destroy(struct sync_handle* handle);
bool sync_lock(struct sync_handle* handle, int state, void* data, size_t data_size)
    __attribute__((warn_unused_result));
void sync_unlock(struct sync_handle* handle, void* data, size_t data_size);
int ipc_sync_client_send(int code, uint64_t id, int state, size_t data_size, void* data);
int ipc_sync_server_send(IDTYPE dest, int code, uint64_t id, int state, size_t data_size,
                         void* data);

/* ---- File locks ---- */

int init_fs_lock(void);
int file_lock_set(const char* path, struct libos_file_lock* file_lock, bool wait);
int file_lock_get(const char* path, struct libos_file_lock* file_lock,
                  struct libos_file_lock* out_file_lock);
int file_lock_clear_pid(IDTYPE pid);
int ipc_file_lock_set(const char* path, struct libos_file_lock* file_lock, bool wait);
int ipc_file_lock_get(const char* path, struct libos_file_lock* file_lock,
                      struct libos_file_lock* out_file_lock);
int ipc_file_lock_clear_pid(IDTYPE pid);
int ipc_file_lock_set_send_response(IDTYPE vmid, unsigned long seq, int result);

/* ---- Messages that the library OS received itself ---- */

int ipc_get_new_vmid_callback(IDTYPE src, void* data, uint64_t seq);
int ipc_cld_exit_callback(IDTYPE src, void* data, uint64_t seq);
int ipc_alloc_id_range_callback(IDTYPE src, void* data, uint64_t seq);
int ipc_release_id_range_callback(IDTYPE src, void* data, uint64_t seq);
int ipc_change_id_owner_callback(IDTYPE src, void* data, uint64_t seq);
int ipc_get_id_owner_callback(IDTYPE src, void* data, uint64_t seq);
int ipc_pid_kill_callback(IDTYPE src, void* data, uint64_t seq);
int ipc_pid_getmeta_callback(IDTYPE src, void* data, uint64_t seq);
int ipc_sync_request_upgrade_callback(IDTYPE src, void* data, unsigned long seq);
int ipc_sync_request_downgrade_callback(IDTYPE src, void* data, unsigned long seq);
int ipc_sync_request_close_callback(IDTYPE src, void* data, unsigned long seq);
int ipc_sync_confirm_upgrade_callback(IDTYPE src, void* data, unsigned long seq);
int ipc_sync_confirm_downgrade_callback(IDTYPE src, void* data, unsigned long seq);
int ipc_sync_confirm_close_callback(IDTYPE src, void* data, unsigned long seq);
int ipc_file_lock_set_callback(IDTYPE src, void* data, unsigned long seq);
int ipc_file_lock_get_callback(IDTYPE src, void* data, unsigned long seq);
int ipc_file_lock_clear_pid_callback(IDTYPE src, void* data, unsigned long seq);
int ipc_response_callback(IDTYPE src, void* data, uint64_t seq);
void ipc_child_disconnect_callback(IDTYPE vmid);

#ifdef __cplusplus
}
#endif
