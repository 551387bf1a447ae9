//! The names of the C implementation, as `include/libos_ipc_seed.h` declares them.
//!
//! Each is a second symbol at the address of a function, so it takes no code, and `objcopy` can remove it
//! (`arch/c/archive.sh`). The assembler needs the function in the same object file. The static library is one object file,
//! so it has these names; a build of the Rust crate does not.

/// Defines symbols at the addresses of others.
macro_rules! names {
    ($($seed:ident = $name:ident;)*) => {
        $(core::arch::global_asm!(concat!(
            ".globl ", stringify!($seed), "\n",
            ".set ", stringify!($seed), ", ", stringify!($name),
        ));)*
    };
}

names! {
    g_process_ipc_ids = libos_ipc_process_ids;
    init_ipc = libos_ipc_init;
    init_ipc_ids = libos_ipc_init_ids;
    init_ipc_worker = libos_ipc_init_worker;
    terminate_ipc_worker = libos_ipc_terminate_worker;
    connect_to_process = libos_ipc_connect_to_process;
    remove_outgoing_ipc_connection = libos_ipc_remove_outgoing_connection;
    init_ipc_msg = libos_ipc_init_msg;
    init_ipc_response = libos_ipc_init_response;
    ipc_send_message = libos_ipc_send_message;
    ipc_send_msg_and_get_response = libos_ipc_send_msg_and_get_response;
    ipc_broadcast = libos_ipc_broadcast;
    ipc_get_new_vmid = libos_ipc_get_new_vmid;
    ipc_alloc_id_range = libos_ipc_alloc_id_range;
    ipc_release_id_range = libos_ipc_release_id_range;
    ipc_change_id_owner = libos_ipc_change_id_owner;
    ipc_get_id_owner = libos_ipc_get_id_owner;
    init_id_ranges = libos_ipc_init_id_ranges;
    get_new_id = libos_ipc_get_new_id;
    release_id = libos_ipc_release_id;
    ipc_cld_exit_send = libos_ipc_cld_exit_send;
    ipc_kill_process = libos_ipc_kill_process;
    ipc_kill_thread = libos_ipc_kill_thread;
    ipc_kill_pgroup = libos_ipc_kill_pgroup;
    ipc_kill_all = libos_ipc_kill_all;
    ipc_pid_getmeta = libos_ipc_pid_getmeta;
    init_sync_server = libos_ipc_init_sync_server;
    init_sync_client = libos_ipc_init_sync_client;
    shutdown_sync_client = libos_ipc_shutdown_sync_client;
    sync_create = libos_ipc_sync_create;
    sync_destroy = libos_ipc_sync_destroy;
    sync_lock = libos_ipc_sync_lock_updated;
    sync_unlock = libos_ipc_sync_unlock;
    ipc_sync_client_send = libos_ipc_sync_client_send;
    ipc_sync_server_send = libos_ipc_sync_server_send;
    init_fs_lock = libos_ipc_init_fs_lock;
    file_lock_set = libos_ipc_file_lock_set;
    file_lock_get = libos_ipc_file_lock_get;
    file_lock_clear_pid = libos_ipc_file_lock_clear_pid;
    ipc_file_lock_set = libos_ipc_file_lock_set_key;
    ipc_file_lock_get = libos_ipc_file_lock_get_key;
    ipc_file_lock_clear_pid = libos_ipc_file_lock_clear_pid;
    ipc_file_lock_set_send_response = libos_ipc_file_lock_set_send_response;
    ipc_get_new_vmid_callback = libos_ipc_get_new_vmid_callback;
    ipc_cld_exit_callback = libos_ipc_cld_exit_callback;
    ipc_alloc_id_range_callback = libos_ipc_alloc_id_range_callback;
    ipc_release_id_range_callback = libos_ipc_release_id_range_callback;
    ipc_change_id_owner_callback = libos_ipc_change_id_owner_callback;
    ipc_get_id_owner_callback = libos_ipc_get_id_owner_callback;
    ipc_pid_kill_callback = libos_ipc_pid_kill_callback;
    ipc_pid_getmeta_callback = libos_ipc_pid_getmeta_callback;
    ipc_sync_request_upgrade_callback = libos_ipc_sync_request_upgrade_callback;
    ipc_sync_request_downgrade_callback = libos_ipc_sync_request_downgrade_callback;
    ipc_sync_request_close_callback = libos_ipc_sync_request_close_callback;
    ipc_sync_confirm_upgrade_callback = libos_ipc_sync_confirm_upgrade_callback;
    ipc_sync_confirm_downgrade_callback = libos_ipc_sync_confirm_downgrade_callback;
    ipc_sync_confirm_close_callback = libos_ipc_sync_confirm_close_callback;
    ipc_file_lock_set_callback = libos_ipc_file_lock_set_callback;
    ipc_file_lock_get_callback = libos_ipc_file_lock_get_callback;
    ipc_file_lock_clear_pid_callback = libos_ipc_file_lock_clear_pid_callback;
    ipc_response_callback = libos_ipc_response_callback;
    ipc_child_disconnect_callback = libos_ipc_child_disconnect_callback;
}
