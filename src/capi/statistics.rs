//! What was counted.

use core::ffi::c_int;

use zerocopy::{Immutable, IntoBytes};

use super::foreign::write;
use super::{node, status};
use crate::Fill;

/// How full something is.
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
pub struct libos_ipc_fill {
    pub now: u64,
    pub most: u64,
    pub limit: u64,
}

impl From<Fill> for libos_ipc_fill {
    fn from(fill: Fill) -> Self {
        libos_ipc_fill {
            now: fill.now as u64,
            most: fill.most as u64,
            limit: fill.limit as u64,
        }
    }
}

macro_rules! statistics {
    ($($counter:ident,)* ; $($pool:ident,)*) => {
        /// What was counted, and how full the pools are.
        #[derive(Clone, Copy, IntoBytes, Immutable)]
        #[repr(C)]
        pub struct libos_ipc_statistics {
            $(pub $counter: u64,)*
            pub refused: u64,
            $(pub $pool: libos_ipc_fill,)*
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn libos_ipc_get_statistics(out: *mut libos_ipc_statistics) -> c_int {
            status(node().map(|node| {
                let counted = node.statistics();
                write(out, libos_ipc_statistics {
                    $($counter: counted.$counter,)*
                    refused: counted.refused_in_all(),
                    $($pool: counted.pools.$pool.into(),)*
                });
            }))
        }
    };
}

statistics! {
    frames_in, frames_out, bytes_in, bytes_out, accepted, connected, disconnects, late_answers,
    unknown_codes, undone,
    ;
    peers, waiters, ranges, own_ranges, children, locks, locked_files, waiting_for_locks,
    lock_handles, sync_handles, served_handles, sync_clients, send_queue,
}
