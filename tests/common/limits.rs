//! Every limit of [`Capacities`].

use libos_ipc::Capacities;

/// The name of a limit in messages, and its field.
pub(crate) type Limit = (&'static str, fn(&mut Capacities) -> &mut usize);

pub(crate) const LIMITS: [Limit; 21] = [
    ("peers", |limits| &mut limits.peers),
    ("unidentified", |limits| &mut limits.unidentified),
    ("waiters", |limits| &mut limits.waiters),
    ("frame_length", |limits| &mut limits.frame_length),
    ("send_queue", |limits| &mut limits.send_queue),
    ("ranges", |limits| &mut limits.ranges),
    ("own_ranges", |limits| &mut limits.own_ranges),
    ("processes", |limits| &mut limits.processes),
    ("queued_signals", |limits| &mut limits.queued_signals),
    ("children", |limits| &mut limits.children),
    ("reply_buffers", |limits| &mut limits.reply_buffers),
    ("locks.locks", |limits| &mut limits.locks.locks),
    ("locks.files", |limits| &mut limits.locks.files),
    ("locks.waiting", |limits| &mut limits.locks.waiting),
    ("locks.open_files", |limits| &mut limits.locks.open_files),
    ("delegated_files", |limits| &mut limits.delegated_files),
    ("sync_handles", |limits| &mut limits.sync_handles),
    ("sync_data", |limits| &mut limits.sync_data),
    ("leases.handles", |limits| &mut limits.leases.handles),
    ("leases.clients", |limits| &mut limits.leases.clients),
    ("events", |limits| &mut limits.events),
];
