//! Sync handles: values that all processes share.

use std::time::Duration;

use fastrand::Rng;
use libos_ipc::wire::SyncState;
use libos_ipc::{Errno, Error, Invalid, SyncHandle, ValueStatus};

use super::super::checks::{HANDLES, LONG, Stamp};
use super::super::process::idle;
use super::super::world::with;
use super::Program;
use super::futures::call_or_poll;
use super::ids::no_other_error;

/// A process that holds a handle may wait for other resources, so no process waits long for a
/// handle.
const SHORT: Duration = Duration::from_millis(20);

impl<const READS: bool> Program<'_, '_, READS> {
    /// Keeps the values alive, at the leader or at every process.
    pub(super) fn begin_syncs(&self) {
        if self.own.keeps_values() && self.thread == 0 {
            for at in 0..HANDLES {
                if self.acquire(at, SyncState::Shared, LONG) {
                    self.release(at, SyncState::Shared, false);
                    if self.is_certain() {
                        with(|world| world.checks.values.add_keeper(at, self.own.pid));
                    }
                } else if self.own.is_first {
                    with(|world| world.checks.values.record_not_kept(at));
                }
            }
        }
    }

    fn handle(&self, at: usize) -> Option<SyncHandle> {
        if let Some(handle) = self.own.shared(|shared| shared.syncs[at]) {
            return Some(handle);
        }
        // A handle that is still being closed can't be opened again yet.
        let is_allowed = |error| error == Error::Invalid(Invalid::HandleOpen);
        let generation = self.call("open_sync", LONG, is_allowed, |node, _| {
            node.open_sync(Some(70 + at as u64))
        });
        let handle = generation.ok()?;
        self.own.shared(|shared| shared.syncs[at] = Some(handle));
        Some(handle)
    }

    pub(super) fn use_sync(&self, rng: &mut Rng) {
        let at = rng.usize(..HANDLES);
        let limit = if rng.bool() { SHORT } else { Duration::ZERO };
        let state = [SyncState::Shared, SyncState::Exclusive][rng.usize(..2)];
        if rng.u8(..16) == 0 {
            self.close(at);
            return;
        }
        if !self.acquire(at, state, limit) {
            return;
        }
        self.hold_for_a_while(rng);
        let state = if state == SyncState::Shared && rng.bool() && self.upgrade(at, limit) {
            self.hold_for_a_while(rng);
            SyncState::Exclusive
        } else {
            state
        };
        self.release(at, state, rng.bool());
    }

    /// Acquires the value again and again while another thread waits to change it.
    pub(super) fn contend_for_sync(&self, rng: &mut Rng) {
        let at = rng.usize(..HANDLES);
        for _ in 0..150 {
            if !self.acquire(at, SyncState::Shared, SHORT) {
                return;
            }
            self.release(at, SyncState::Shared, false);
            if !with(|world| world.checks.values.has_waiting_writer(at)) {
                return;
            }
            idle(self.node, Duration::from_micros(50));
        }
    }

    fn acquire(&self, at: usize, state: SyncState, limit: Duration) -> bool {
        let Some(handle) = self.handle(at) else {
            return false;
        };
        let (caller, write) = ((self.own.pid, self.thread), state == SyncState::Exclusive);
        let asked = with(|world| {
            let now = world.checks.tick();
            let is_cut_off = !world.checks.family.is_certain(self.own.vmid);
            let values = &mut world.checks.values;
            values.begin_wait(at, (caller, handle), (write, is_cut_off), now);
            now
        });
        let mut data = [0; 8];
        // Another thread may have closed it.
        let is_allowed = |error| {
            matches!(
                error,
                Error::Invalid(Invalid::HandleClosed | Invalid::HandleInUse | Invalid::NotHeld)
            ) && self.own.has_threads
        };
        let taken = self.call("lock_sync", limit, is_allowed, |node, wait| {
            call_or_poll!(
                self,
                node.lock_sync(handle, state, &mut data, wait),
                node.lock_sync_async(handle, state, &mut data, wait)
            )
        });
        with(|world| world.checks.values.end_wait(at, caller));
        let Ok((_, status)) = taken else {
            with(|world| world.checks.values.record_unfinished_call(at, caller.0));
            return false;
        };
        self.check_acquired((at, handle), write, Stamp::read(data), status, asked);
        true
    }

    fn check_acquired(
        &self,
        (at, handle): (usize, SyncHandle),
        write: bool,
        stamp: Stamp,
        status: ValueStatus,
        asked: u64,
    ) {
        let caller = (self.own.pid, self.thread);
        with(|world| {
            world.log(format_args!("  handle {at}: {stamp:?}, {status:?}"));
            if !world.checks.family.is_certain(self.own.vmid) {
                if world.may_use(self.own.vmid) {
                    let alone = world.checks.values.record_acquire(at, caller, write);
                    world.check("leases", alone);
                }
                return;
            }
            let is_led = world.is_led();
            let values = &mut world.checks.values;
            let passed = values.check_overtaking(at, (caller, handle), write, asked, is_led);
            let alone = values.record_acquire(at, caller, write);
            let seen = values.record_read(at, caller.0, stamp);
            let reported = values.record_report(at, caller.0, write, status.owner_died);
            world.check("starvation", passed);
            world.check("leases", alone);
            world.check("values", seen);
            world.check("owner-died", reported);
        });
    }

    fn upgrade(&self, at: usize, limit: Duration) -> bool {
        let Some(handle) = self.own.shared(|shared| shared.syncs[at]) else {
            return false;
        };
        let caller = (self.own.pid, self.thread);
        with(|world| {
            let now = world.checks.tick();
            let is_cut_off = !world.checks.family.is_certain(self.own.vmid);
            let values = &mut world.checks.values;
            values.begin_wait(at, (caller, handle), (true, is_cut_off), now);
        });
        let deadlock = |error: Error| error.errno() == Errno::EDEADLK;
        let upgraded = self.call("upgrade_sync", limit, deadlock, |node, wait| {
            call_or_poll!(
                self,
                node.upgrade_sync(handle, wait),
                node.upgrade_sync_async(handle, wait)
            )
        });
        with(|world| {
            world.checks.values.end_wait(at, caller);
            if upgraded.is_ok() && world.may_use(self.own.vmid) {
                let outcome = world.checks.values.record_upgrade(at, caller);
                world.check("leases", outcome);
            }
        });
        upgraded.is_ok()
    }

    fn release(&self, at: usize, state: SyncState, change: bool) {
        let Some(handle) = self.own.shared(|shared| shared.syncs[at]) else {
            return;
        };
        let change = change && state == SyncState::Exclusive;
        let caller = (self.own.pid, self.thread);
        let stamp = with(|world| {
            if world.checks.family.is_certain(self.own.vmid) {
                return world.checks.values.record_release(at, caller, change);
            }
            world.checks.values.record_uncertain_release(at, caller)
        });
        let bytes = stamp.bytes();
        let data = change.then_some(&bytes[..]);
        let _ = self.call("unlock_sync", LONG, no_other_error, |node, _| {
            node.unlock_sync(handle, state, data)
        });
    }

    /// Closes a handle, which other threads of this process may use.
    fn close(&self, at: usize) {
        // The leader's handles keep the values alive.
        if self.own.keeps_values() {
            return;
        }
        let Some(handle) = self.own.shared(|shared| shared.syncs[at]) else {
            return;
        };
        let is_allowed = |error| {
            matches!(
                error,
                Error::Invalid(Invalid::HandleClosed | Invalid::HandleInUse | Invalid::NotHeld)
            ) && self.own.has_threads
        };
        let closed = self.call("close_sync", LONG, is_allowed, |node, wait| {
            node.close_sync(handle, wait)
        });
        if closed.is_ok() {
            self.own.shared(|shared| {
                if shared.syncs[at] == Some(handle) {
                    shared.syncs[at] = None;
                }
            });
        }
    }

    /// Closes all handles, at the end. Returns false if the messages can't be sent.
    pub(super) fn close_syncs(&self) -> bool {
        if self.own.is_first && !with(|world| world.plan.has_heirs()) {
            return true;
        }
        with(|world| world.checks.values.remove_keeper(self.own.pid));
        let closed = self.call("close_all_syncs", LONG, no_other_error, |node, wait| {
            node.close_all_syncs(wait)
        });
        closed.is_ok()
    }
}
