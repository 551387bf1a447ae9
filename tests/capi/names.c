/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The names that a library OS in C uses: each function with its type, each constant with its value, each struct with its
 * layout. The file is compiled as C and as C++, and not run.
 */
#include "libos_ipc.h"

#ifdef __cplusplus
#include <type_traits>
/* The attribute warn_unused_result is not part of a function's type. */
#pragma GCC diagnostic ignored "-Wignored-attributes"
#define IS_TRUE(condition) static_assert(condition, #condition)
#define IS_FUNCTION(type, name, arguments)                             \
    static_assert(std::is_same<decltype(name), type arguments>::value, #name)
#else
#define IS_TRUE(condition) _Static_assert(condition, #condition)
#define IS_FUNCTION(type, name, arguments)                                                 \
    _Static_assert(__builtin_types_compatible_p(__typeof__(name), type arguments), #name)
#endif
#define IS_AT(struct_name, member, offset) \
    IS_TRUE(offsetof(struct struct_name, member) == (offset))
#define IS_SIZE(struct_name, size) IS_TRUE(sizeof(struct struct_name) == (size))

/* ---- Setting up ---- */
IS_FUNCTION(int, init_ipc, (void));
IS_FUNCTION(int, init_ipc_ids, (void));
IS_FUNCTION(int, init_ipc_worker, (void));
IS_FUNCTION(void, terminate_ipc_worker, (void));
IS_TRUE(STARTING_VMID == 1);
IS_TRUE(sizeof(g_process_ipc_ids) == sizeof(struct libos_ipc_ids));
IS_AT(libos_ipc_ids, self_vmid, 0);
IS_AT(libos_ipc_ids, parent_vmid, 4);
IS_AT(libos_ipc_ids, leader_vmid, 8);
IS_SIZE(libos_ipc_ids, 12);

/* ---- Connections and messages ---- */
IS_FUNCTION(int, connect_to_process, (IDTYPE));
IS_FUNCTION(void, remove_outgoing_ipc_connection, (IDTYPE));
IS_FUNCTION(size_t, get_ipc_msg_size, (size_t));
IS_FUNCTION(void, init_ipc_msg, (struct libos_ipc_msg*, unsigned char, size_t));
IS_FUNCTION(void, init_ipc_response, (struct libos_ipc_msg*, uint64_t, size_t));
IS_FUNCTION(int, ipc_send_message, (IDTYPE, struct libos_ipc_msg*));
IS_FUNCTION(int, ipc_send_msg_and_get_response, (IDTYPE, struct libos_ipc_msg*, void**));
IS_FUNCTION(int, ipc_broadcast, (struct libos_ipc_msg*, IDTYPE));
IS_FUNCTION(int, ipc_response_callback, (IDTYPE, void*, uint64_t));
IS_AT(ipc_msg_header, size, 0);
IS_AT(ipc_msg_header, seq, 8);
IS_AT(ipc_msg_header, code, 16);
IS_SIZE(ipc_msg_header, 17);
IS_AT(libos_ipc_msg, header, 0);
IS_AT(libos_ipc_msg, data, 17);
IS_SIZE(libos_ipc_msg, 17);
IS_TRUE(IPC_MSG_RESP == 0);
IS_TRUE(IPC_MSG_GET_NEW_VMID == 1);
IS_TRUE(IPC_MSG_CHILDEXIT == 2);
IS_TRUE(IPC_MSG_ALLOC_ID_RANGE == 3);
IS_TRUE(IPC_MSG_RELEASE_ID_RANGE == 4);
IS_TRUE(IPC_MSG_CHANGE_ID_OWNER == 5);
IS_TRUE(IPC_MSG_GET_ID_OWNER == 6);
IS_TRUE(IPC_MSG_PID_KILL == 7);
IS_TRUE(IPC_MSG_PID_GETMETA == 8);
IS_TRUE(IPC_MSG_SYNC_REQUEST_UPGRADE == 9);
IS_TRUE(IPC_MSG_SYNC_REQUEST_DOWNGRADE == 10);
IS_TRUE(IPC_MSG_SYNC_REQUEST_CLOSE == 11);
IS_TRUE(IPC_MSG_SYNC_CONFIRM_UPGRADE == 12);
IS_TRUE(IPC_MSG_SYNC_CONFIRM_DOWNGRADE == 13);
IS_TRUE(IPC_MSG_SYNC_CONFIRM_CLOSE == 14);
IS_TRUE(IPC_MSG_FILE_LOCK_SET == 15);
IS_TRUE(IPC_MSG_FILE_LOCK_GET == 16);
IS_TRUE(IPC_MSG_FILE_LOCK_CLEAR_PID == 17);
IS_TRUE(IPC_MSG_CODE_BOUND == 18);

/* ---- VMIDs and IDs ---- */
IS_FUNCTION(int, ipc_get_new_vmid, (IDTYPE*));
IS_FUNCTION(int, ipc_get_new_vmid_callback, (IDTYPE, void*, uint64_t));
IS_TRUE(MAX_RANGE_SIZE == 32);
IS_FUNCTION(int, ipc_alloc_id_range, (IDTYPE*, IDTYPE*));
IS_FUNCTION(int, ipc_alloc_id_range_callback, (IDTYPE, void*, uint64_t));
IS_FUNCTION(int, ipc_release_id_range, (IDTYPE, IDTYPE));
IS_FUNCTION(int, ipc_release_id_range_callback, (IDTYPE, void*, uint64_t));
IS_FUNCTION(int, ipc_change_id_owner, (IDTYPE, IDTYPE));
IS_FUNCTION(int, ipc_change_id_owner_callback, (IDTYPE, void*, uint64_t));
IS_FUNCTION(int, ipc_get_id_owner, (IDTYPE, IDTYPE*));
IS_FUNCTION(int, ipc_get_id_owner_callback, (IDTYPE, void*, uint64_t));
IS_FUNCTION(int, init_id_ranges, (IDTYPE));
IS_FUNCTION(IDTYPE, get_new_id, (IDTYPE));
IS_FUNCTION(void, release_id, (IDTYPE));

/* ---- Processes ---- */
IS_FUNCTION(int, ipc_cld_exit_send, (unsigned int, unsigned int));
IS_FUNCTION(int, ipc_cld_exit_callback, (IDTYPE, void*, uint64_t));
IS_FUNCTION(void, ipc_child_disconnect_callback, (IDTYPE));
IS_AT(libos_ipc_cld_exit, ppid, 0);
IS_AT(libos_ipc_cld_exit, pid, 4);
IS_AT(libos_ipc_cld_exit, uid, 8);
IS_AT(libos_ipc_cld_exit, exitcode, 12);
IS_AT(libos_ipc_cld_exit, term_signal, 16);
IS_SIZE(libos_ipc_cld_exit, 20);
IS_FUNCTION(int, ipc_kill_process, (IDTYPE, IDTYPE, int));
IS_FUNCTION(int, ipc_kill_thread, (IDTYPE, IDTYPE, IDTYPE, int));
IS_FUNCTION(int, ipc_kill_pgroup, (IDTYPE, IDTYPE, int));
IS_FUNCTION(int, ipc_kill_all, (IDTYPE, int));
IS_FUNCTION(int, ipc_pid_kill_callback, (IDTYPE, void*, uint64_t));
IS_AT(libos_ipc_pid_kill, sender, 0);
IS_AT(libos_ipc_pid_kill, pid, 4);
IS_AT(libos_ipc_pid_kill, id, 8);
IS_AT(libos_ipc_pid_kill, signum, 12);
IS_AT(libos_ipc_pid_kill, type, 16);
IS_SIZE(libos_ipc_pid_kill, 20);
IS_TRUE(KILL_THREAD == 0 && KILL_PROCESS == 1 && KILL_PGROUP == 2 && KILL_ALL == 3);
IS_TRUE(sizeof(enum kill_type) == 4);
IS_FUNCTION(int, ipc_pid_getmeta, (IDTYPE, enum pid_meta_code, struct libos_ipc_pid_retmeta**));
IS_FUNCTION(int, ipc_pid_getmeta_callback, (IDTYPE, void*, uint64_t));
IS_AT(libos_ipc_pid_getmeta, pid, 0);
IS_AT(libos_ipc_pid_getmeta, code, 4);
IS_SIZE(libos_ipc_pid_getmeta, 8);
IS_AT(libos_ipc_pid_retmeta, datasize, 0);
IS_AT(libos_ipc_pid_retmeta, ret_val, 8);
IS_AT(libos_ipc_pid_retmeta, data, 12);
IS_SIZE(libos_ipc_pid_retmeta, 12);
IS_TRUE(PID_META_CRED == 0 && PID_META_EXEC == 1 && PID_META_CWD == 2 && PID_META_ROOT == 3);
IS_TRUE(sizeof(enum pid_meta_code) == 4);

IS_FUNCTION(int, libos_ipc_join, (IDTYPE, IDTYPE, IDTYPE*));
IS_FUNCTION(int, libos_ipc_start_child, (struct libos_ipc_identity*));
IS_FUNCTION(int, libos_ipc_wait,
            (enum libos_ipc_wait_for, IDTYPE, int, struct libos_ipc_cld_exit*,
             const struct libos_ipc_call_limit*));
IS_TRUE(LIBOS_IPC_WNOHANG == 1 && LIBOS_IPC_WNOWAIT == 0x01000000); /* those of Linux */
IS_SIZE(libos_ipc_identity, 24);
IS_AT(libos_ipc_identity, pid, 12);
IS_AT(libos_ipc_identity, heir_vmid, 20);
IS_SIZE(libos_ipc_interrupt, 16);
IS_SIZE(libos_ipc_call_limit, 16);

/* ---- Sync handles ---- */
IS_FUNCTION(int, init_sync_server, (void));
IS_FUNCTION(int, init_sync_client, (void));
IS_FUNCTION(int, shutdown_sync_client, (void));
IS_FUNCTION(int, sync_create, (struct sync_handle**, uint64_t));
IS_FUNCTION(void, sync_destroy, (struct sync_handle*));
IS_FUNCTION(bool, sync_lock, (struct sync_handle*, int, void*, size_t));
IS_FUNCTION(void, sync_unlock, (struct sync_handle*, void*, size_t));
IS_FUNCTION(int, ipc_sync_client_send, (int, uint64_t, int, size_t, void*));
IS_FUNCTION(int, ipc_sync_server_send, (IDTYPE, int, uint64_t, int, size_t, void*));
IS_FUNCTION(int, ipc_sync_request_upgrade_callback, (IDTYPE, void*, unsigned long));
IS_FUNCTION(int, ipc_sync_request_downgrade_callback, (IDTYPE, void*, unsigned long));
IS_FUNCTION(int, ipc_sync_request_close_callback, (IDTYPE, void*, unsigned long));
IS_FUNCTION(int, ipc_sync_confirm_upgrade_callback, (IDTYPE, void*, unsigned long));
IS_FUNCTION(int, ipc_sync_confirm_downgrade_callback, (IDTYPE, void*, unsigned long));
IS_FUNCTION(int, ipc_sync_confirm_close_callback, (IDTYPE, void*, unsigned long));
IS_AT(libos_ipc_sync, id, 0);
IS_AT(libos_ipc_sync, data_size, 8);
IS_AT(libos_ipc_sync, state, 16);
IS_AT(libos_ipc_sync, data, 20);
IS_SIZE(libos_ipc_sync, 24);
IS_TRUE(SYNC_STATE_NONE == 0 && SYNC_STATE_INVALID == 1 && SYNC_STATE_SHARED == 2 &&
        SYNC_STATE_EXCLUSIVE == 3);

/* ---- File locks ---- */
IS_FUNCTION(int, init_fs_lock, (void));
IS_FUNCTION(int, file_lock_set, (const char*, struct libos_file_lock*, bool));
IS_FUNCTION(int, file_lock_get, (const char*, struct libos_file_lock*, struct libos_file_lock*));
IS_FUNCTION(int, file_lock_clear_pid, (IDTYPE));
IS_FUNCTION(int, libos_ipc_give_open_file, (uint64_t, IDTYPE));
IS_FUNCTION(int, libos_ipc_take_back_open_file, (uint64_t, IDTYPE));
IS_FUNCTION(int, libos_ipc_hold_open_file, (uint64_t));
IS_FUNCTION(int, libos_ipc_close_open_file, (uint64_t));
IS_FUNCTION(int, ipc_file_lock_set, (const char*, struct libos_file_lock*, bool));
IS_FUNCTION(int, ipc_file_lock_set_send_response, (IDTYPE, unsigned long, int));
IS_FUNCTION(int, ipc_file_lock_get,
            (const char*, struct libos_file_lock*, struct libos_file_lock*));
IS_FUNCTION(int, ipc_file_lock_clear_pid, (IDTYPE));
IS_FUNCTION(int, ipc_file_lock_set_callback, (IDTYPE, void*, unsigned long));
IS_FUNCTION(int, ipc_file_lock_get_callback, (IDTYPE, void*, unsigned long));
IS_FUNCTION(int, ipc_file_lock_clear_pid_callback, (IDTYPE, void*, unsigned long));
IS_TRUE(FILE_LOCK_OFD == 3);
IS_TRUE(FILE_LOCK_UNKNOWN == 0 && FILE_LOCK_POSIX == 1 && FILE_LOCK_FLOCK == 2);
IS_TRUE(sizeof(enum libos_file_lock_family) == 4);
IS_TRUE(FS_LOCK_EOF == UINT64_MAX);
IS_AT(libos_file_lock, family, 0);
IS_AT(libos_file_lock, type, 4);
IS_AT(libos_file_lock, start, 8);
IS_AT(libos_file_lock, end, 16);
IS_AT(libos_file_lock, pid, 24);
IS_AT(libos_file_lock, handle_id, 32);
IS_SIZE(libos_file_lock, 40);
IS_AT(libos_ipc_file_lock, family, 0);
IS_AT(libos_ipc_file_lock, type, 4);
IS_AT(libos_ipc_file_lock, start, 8);
IS_AT(libos_ipc_file_lock, end, 16);
IS_AT(libos_ipc_file_lock, pid, 24);
IS_AT(libos_ipc_file_lock, handle_id, 32);
IS_AT(libos_ipc_file_lock, wait, 40);
IS_AT(libos_ipc_file_lock, path, 41);
IS_SIZE(libos_ipc_file_lock, 48);
IS_AT(libos_ipc_file_lock_resp, result, 0);
IS_AT(libos_ipc_file_lock_resp, family, 4);
IS_AT(libos_ipc_file_lock_resp, type, 8);
IS_AT(libos_ipc_file_lock_resp, start, 16);
IS_AT(libos_ipc_file_lock_resp, end, 24);
IS_AT(libos_ipc_file_lock_resp, pid, 32);
IS_AT(libos_ipc_file_lock_resp, handle_id, 40);
IS_SIZE(libos_ipc_file_lock_resp, 48);
