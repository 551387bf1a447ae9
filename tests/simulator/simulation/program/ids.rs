//! VMIDs and IDs.

use std::time::Duration;

use fastrand::Rng;
use libos_ipc::wire::Message;
use libos_ipc::{Errno, Error, ID_MAX, Id, Vmid, Wait};

use super::super::checks::{LONG, State};
use super::super::process::{nanoseconds, now};
use super::super::world::with;
use super::futures::call_or_poll;
use super::{Program, limit};

/// The time after which a process allocates no more IDs, even if there are some.
const ALLOCATION_LIMIT: Duration = Duration::from_secs(1);

/// Accepts only the errors that every call may return.
pub(super) fn no_other_error(_: Error) -> bool {
    false
}

/// Accepts the errors of a call about another process that has ended.
pub(super) fn is_gone(error: Error) -> bool {
    matches!(
        error,
        Error::NoSuchProcess
            | Error::Refused {
                errno: Errno::ESRCH,
                ..
            }
    )
}

impl<const READS: bool> Program<'_, '_, READS> {
    pub(super) fn take_id(&self, rng: &mut Rng) {
        let taken = self.call("take_id", limit(rng), no_other_error, |node, wait| {
            call_or_poll!(self, node.take_id(wait), node.take_id_async(wait))
        });
        let Ok(id) = taken else { return };
        self.own.shared(|shared| shared.ids.push(id));
        let vmid = self.own.vmid;
        with(|world| {
            let may_use = world.may_use(vmid);
            let checks = &mut world.checks;
            let now = checks.tick();
            let is_free = checks.ids.check_no_pid(id, &checks.family, &checks.exits);
            let taken = if may_use {
                checks.ids.record_allocation(id, vmid, now)
            } else {
                Ok(())
            };
            world.check("pids", is_free);
            world.check("ids", taken);
        });
    }

    /// Removes one of the process's own IDs.
    fn pick_id(&self, rng: &mut Rng) -> Option<Id> {
        let id = self.own.shared(|shared| {
            let count = shared.ids.len();
            (count > 0).then(|| shared.ids.swap_remove(rng.usize(..count)))
        })?;
        with(|world| world.checks.ids.begin_release(id));
        Some(id)
    }

    pub(super) fn release_id(&self, rng: &mut Rng) {
        if let Some(id) = self.pick_id(rng) {
            let limit = limit(rng);
            let _ = self.call("release_id", limit, no_other_error, |node, wait| {
                node.release_id(id, wait)
            });
        }
    }

    pub(crate) fn release_all_ids(&self) {
        self.accept_ids();
        for id in self.own.shared(|shared| std::mem::take(&mut shared.ids)) {
            with(|world| world.checks.ids.begin_release(id));
            let _ = self.call("release_id", LONG, no_other_error, |node, wait| {
                node.release_id(id, wait)
            });
        }
    }

    /// Transfers an ID to another process, which accepts it at its next step.
    pub(super) fn transfer_id(&self, rng: &mut Rng) {
        self.accept_ids();
        let to = self.another(rng).filter(|to| *to != 1);
        let Some((id, to)) = to.and_then(|to| Some((self.pick_id(rng)?, to))) else {
            return;
        };
        let Some(vmid) = Vmid::new(to) else { return };
        let transferred = self.call("transfer_id", limit(rng), is_gone, |node, wait| {
            call_or_poll!(
                self,
                node.transfer_id(id, vmid, wait),
                node.transfer_id_async(id, vmid, wait)
            )
        });
        match transferred {
            Ok(()) => with(|world| world.transferred_ids.push((to, id))),
            Err(Error::TimedOut | Error::Interrupted) => {}
            Err(_) => self.own.shared(|shared| shared.ids.push(id)),
        }
    }

    /// Accepts the IDs that others have transferred.
    pub(crate) fn accept_ids(&self) {
        let own = self.own.vmid;
        let transferred = with(|world| {
            let at = world
                .transferred_ids
                .iter()
                .position(|(to, _)| *to == own)?;
            Some(world.transferred_ids.swap_remove(at).1)
        });
        let Some(id) = transferred else { return };
        let adopted = self.call("accept_id", LONG, no_other_error, |node, _| {
            node.accept_id(id)
        });
        if adopted.is_err() {
            return;
        }
        // There may be more IDs.
        self.accept_ids();
        self.own.shared(|shared| shared.ids.push(id));
        with(|world| {
            let now = world.checks.tick();
            if world.checks.family.is_certain(own) {
                let outcome = world.checks.ids.record_allocation(id, own, now);
                world.check("ids", outcome);
            }
        });
    }

    pub(super) fn look_up(&self, rng: &mut Rng) {
        let (any, choice) = (rng.u32(..300), rng.usize(..));
        let (id, asked) = with(|world| {
            let own = world.checks.ids.allocated_by(self.own.vmid, choice);
            (
                own.filter(|_| !any.is_multiple_of(3)).unwrap_or(any),
                world.checks.tick(),
            )
        });
        let owner = self.call("owner_of", limit(rng), no_other_error, |node, wait| {
            node.owner_of(id, wait)
        });
        if let Ok(owner) = owner {
            let owner = owner.map_or(0, Vmid::get);
            with(|world| {
                let outcome = world.checks.ids.check_owner(id, owner, asked);
                world.check("owners", outcome);
            });
        }
    }

    /// Allocates a range, as a process in C does.
    pub(super) fn alloc_range(&self, rng: &mut Rng) {
        let range = self.call("alloc_range", limit(rng), no_other_error, |node, wait| {
            node.alloc_range(wait)
        });
        let Ok(range) = range else { return };
        let vmid = self.own.vmid;
        with(|world| {
            let now = world.checks.tick();
            if world.checks.family.is_certain(vmid) {
                let checks = &mut world.checks;
                let outcome = checks.ids.record_range(range, vmid, now);
                let (ids, family, exits) = (&checks.ids, &checks.family, &checks.exits);
                let mut all = range.start..=range.end;
                let is_living = |id| {
                    family
                        .of_pid(id)
                        .is_some_and(|process| process.state == State::Running)
                };
                let outcome = match all.clone().find(|id| is_living(*id)) {
                    Some(id) => Err(format!("{range:?} has the pid {id}, which lives")),
                    None => outcome,
                };
                let are_free = all.try_for_each(|id| ids.check_no_pid(id, family, exits));
                world.check("ranges", outcome);
                world.check("pids", are_free);
            }
        });
        if self.own.is_first && !with(|world| world.plan.has_heirs()) {
            // No process reclaims it when this process ends.
            with(|world| world.checks.ids.forget(range));
            let _ = self.call("release_range", LONG, no_other_error, |node, wait| {
                node.release_range(range, wait)
            });
        }
    }

    /// Allocates and releases IDs until the top is reached, or for long: a leader's log may stand still again and again.
    pub(super) fn use_ids_up(&self) {
        let until = now() + nanoseconds(ALLOCATION_LIMIT);
        while let Ok(range) = self.node.alloc_range(WAIT) {
            let _ = self.node.release_range(range, WAIT);
            if range.end == ID_MAX || now() > until {
                return;
            }
        }
    }

    /// Releases all ranges that this process has: no other does that when the last leader ends.
    pub(crate) fn release_all_ranges(&self) {
        loop {
            let range = with(|world| {
                let range = world.checks.ids.range_of(self.own.vmid, 0)?;
                world.checks.ids.forget(range);
                Some(range)
            });
            let Some(range) = range else { return };
            let _ = self.call("release_range", LONG, no_other_error, |node, wait| {
                node.release_range(range, wait)
            });
        }
    }

    pub(super) fn release_range(&self, rng: &mut Rng) {
        let (vmid, choice) = (self.own.vmid, rng.usize(..));
        let range = with(|world| {
            let range = world.checks.ids.range_of(vmid, choice)?;
            world.checks.ids.forget(range);
            Some(range)
        });
        if let Some(range) = range {
            let limit = limit(rng);
            let _ = self.call("release_range", limit, no_other_error, |node, wait| {
                node.release_range(range, wait)
            });
        }
    }

    /// Transfers one ID of a range to another process.
    pub(super) fn change_owner(&self, rng: &mut Rng) {
        let (vmid, choice) = (self.own.vmid, rng.usize(..));
        let to = self.another(rng).filter(|to| *to != 1);
        // The leader would keep it, and its IDs are never reclaimed.
        let Some(to) = to else { return };
        let range = with(|world| {
            let range = world.checks.ids.range_of(vmid, choice)?;
            world.checks.ids.forget(range);
            Some(range)
        });
        let Some((range, new)) = range.zip(Vmid::new(to)) else {
            return;
        };
        let id = rng.u32(range.start..=range.end);
        let changed = self.call("change_owner", limit(rng), is_gone, |node, wait| {
            node.change_owner(id, new, wait)
        });
        let is_changed = match changed {
            Ok(()) => true,
            Err(Error::Refused { .. } | Error::NoSuchProcess) => false,
            Err(_) => return,
        };
        with(|world| {
            let now = world.checks.tick();
            let family = &world.checks.family;
            if !family.is_certain(vmid) {
                return;
            }
            let to = if is_changed {
                Some(to).filter(|to| family.is_certain(*to))
            } else {
                Some(vmid)
            };
            let ids = &mut world.checks.ids;
            let outcome = if is_changed {
                ids.record_owner_change(range, id, (vmid, to), now)
            } else {
                ids.record_range(range, vmid, now)
            };
            world.check("ranges", outcome);
        });
    }

    /// Sends a request, and does not wait for the answer.
    pub(super) fn request_without_waiting(&self, rng: &mut Rng) {
        if self.leads() {
            return;
        }
        let message = [Message::GetNewVmid, Message::AllocIdRange][rng.usize(..2)];
        let _ = self.call("request", Duration::ZERO, no_other_error, |node, _| {
            node.request(node.leader(), &message).map(drop)
        });
        let floor = with(|world| world.checks.vmids.highest());
        let vmid = self.call("new_vmid", limit(rng), no_other_error, |node, wait| {
            node.new_vmid(wait)
        });
        if let Ok(vmid) = vmid {
            with(|world| {
                let outcome = world.checks.vmids.record_vmid(vmid.get(), floor);
                world.check("vmids", outcome);
            });
            // No process will ever have this VMID.
            let _ = self.node.abandon_child(vmid);
        }
    }

    /// Returns the VMID of another process of the family.
    pub(super) fn another(&self, rng: &mut Rng) -> Option<u32> {
        let choice = rng.usize(..);
        with(|world| {
            let others = world.checks.family.all().map(|process| process.vmid);
            let others: Vec<_> = others.filter(|vmid| *vmid != self.own.vmid).collect();
            (!others.is_empty()).then(|| others[choice % others.len()])
        })
    }
}

/// A wait of any length.
pub(super) const WAIT: Wait<'static> = Wait::at_most(LONG);
