//! Every limit of [`Capacities`].

use libos_ipc::Capacities;

/// The name of a limit in messages, and its place.
pub(crate) type Limit = (&'static str, fn(&mut Capacities) -> &mut usize);

pub(crate) const LIMITS: [Limit; 21] = [
    ("peers", |it| &mut it.peers),
    ("unidentified", |it| &mut it.unidentified),
    ("waiters", |it| &mut it.waiters),
    ("frame_length", |it| &mut it.frame_length),
    ("send_queue", |it| &mut it.send_queue),
    ("ranges", |it| &mut it.ranges),
    ("own_ranges", |it| &mut it.own_ranges),
    ("processes", |it| &mut it.processes),
    ("queued_signals", |it| &mut it.queued_signals),
    ("children", |it| &mut it.children),
    ("reply_buffers", |it| &mut it.reply_buffers),
    ("locks.locks", |it| &mut it.locks.locks),
    ("locks.files", |it| &mut it.locks.files),
    ("locks.waiting", |it| &mut it.locks.waiting),
    ("locks.open_files", |it| &mut it.locks.open_files),
    ("delegated_files", |it| &mut it.delegated_files),
    ("sync_handles", |it| &mut it.sync_handles),
    ("sync_data", |it| &mut it.sync_data),
    ("leases.handles", |it| &mut it.leases.handles),
    ("leases.clients", |it| &mut it.leases.clients),
    ("events", |it| &mut it.events),
];
