//! Children, groups, and queries about other processes.

use std::time::Duration;

use fastrand::Rng;
use libos_ipc::wire::{MetaCode, ProcessChange, ProcessState};
use libos_ipc::{
    ChildExit, ChildSelector, Errno, Error, Identity, PATH_MAX, Pid, Resource, Target, Vmid,
};

use super::super::checks::{LONG, State, check_credentials, check_path};
use super::super::faults::Fault;
use super::super::process::{NewProcess, idle, is_cut_off, now};
use super::super::world::{World, with};
use super::futures::call_or_poll;
use super::ids::{WAIT, is_gone, no_other_error};
use super::signals::pick_process;
use super::{Program, limit};

impl<const READS: bool> Program<'_, '_, READS> {
    pub(super) fn start_child(&self, rng: &mut Rng) {
        let number = with(|world| {
            let has_room = world.started + 1 < world.plan.members && !world.is_finishing;
            if has_room {
                world.started += 1;
            }
            has_room.then_some(world.started)
        });
        let Some(number) = number else { return };
        let (floor, group) = with(|world| {
            let group = world.checks.family.get(self.own.vmid);
            let group = group.map_or(0, |process| process.group);
            (world.checks.vmids.highest(), group)
        });
        let child = self.call("start_child", limit(rng), no_other_error, |node, wait| {
            call_or_poll!(self, node.start_child(wait), node.start_child_async(wait))
        });
        let Ok(identity) = child else {
            return;
        };
        let parent = self.own.vmid;
        let made_at = now();
        with(|world| {
            let (vmid, pid) = (identity.vmid.get(), identity.pid.map_or(0, Pid::get));
            let checks = &mut world.checks;
            let given = checks.vmids.record_vmid(vmid, floor);
            let is_free = checks.ids.check_no_pid(pid, &checks.family, &checks.exits);
            let now = checks.tick();
            let is_certain = checks.family.is_certain(parent);
            let taken = if is_certain {
                checks.ids.record_allocation(pid, vmid, now)
            } else {
                Ok(())
            };
            // Only the owner of an ID in use is known.
            checks.ids.begin_release(pid);
            let of_parent = checks.family.get(parent);
            let is_known =
                of_parent.is_some_and(|process| process.is_group_known && process.group == group);
            if checks.family.of_pid(pid).is_some() {
                // A signal of the process that had this pid before may arrive after those of this
                // process.
                checks.signals.record_pid_reuse(pid);
            }
            checks.family.record_start(vmid, pid, parent, group);
            if !is_known {
                // The child is in the group that its parent was in when the leader added it.
                checks.family.record_group_change(vmid);
            }
            world.check("vmids", given);
            world.check("pids", is_free);
            world.check("ids", taken);
        });
        self.give_files_to_child(identity.vmid, rng);
        if self.own.is_dead() {
            // The process was killed meanwhile, and starts nothing.
            return;
        }
        with(|world| {
            let started_at = world.network.now;
            world.new_processes.push(NewProcess {
                identity,
                number,
                made_at,
                started_at,
            });
        });
        self.await_child(&identity);
    }

    /// Waits until the child runs, as `fork(2)` does. A child that fails is abandoned.
    fn await_child(&self, child: &Identity) {
        let vmid = child.vmid.get();
        let state = || with(|world| world.checks.family.get(vmid).map(|process| process.state));
        let mut pause = Duration::from_micros(50);
        while state() == Some(State::Starting) && !self.own.is_over() {
            idle(self.node, pause);
            pause = (pause * 2).min(Duration::from_secs(1));
        }
        if state() != Some(State::Failed) {
            return;
        }
        // The child may have failed after it was in the table: then it is a child like others.
        for _ in 0..200 {
            if self.own.is_over() {
                return;
            }
            let which = child.pid.map_or(ChildSelector::Any, ChildSelector::Pid);
            match self.node.peek_child(which, WAIT_NONE) {
                Ok(_) | Err(Error::NoChild) => return,
                Err(_) => {}
            }
            let process = self.node.process(child.pid, WAIT);
            if process == Err(Error::NoSuchProcess) {
                break;
            }
            idle(self.node, Duration::from_millis(200));
        }
        let _ = self.node.abandon_child(child.vmid);
    }

    pub(super) fn wait_for_child(&self, rng: &mut Rng) {
        let pid = with(|world| {
            let children = world.checks.family.all();
            let mut own = children.filter(|process| process.parent == self.own.vmid);
            own.find_map(|process| Pid::new(process.pid))
        });
        let which = match (rng.u8(..4), pid) {
            (0, Some(pid)) => ChildSelector::Pid(pid),
            (1, _) => ChildSelector::Group(None),
            _ => ChildSelector::Any,
        };
        let limit = if rng.bool() {
            Duration::ZERO
        } else {
            Duration::from_micros(rng.u64(..5_000))
        };
        let exit = self.wait_child(which, limit);
        let is_to_restart = with(|world| world.has(Fault::Restart) && !world.is_finishing);
        if exit.is_some_and(|exit| exit.signal != 0) && is_to_restart {
            self.start_child(rng);
        }
    }

    /// Waits for a child, and reaps it.
    pub(crate) fn wait_child(&self, which: ChildSelector, limit: Duration) -> Option<ChildExit> {
        let is_parent = || {
            with(|world| {
                let family = &world.checks.family;
                let is_own = |vmid| family.is_certain(vmid) && which == ChildSelector::Any;
                let mut all = family.all();
                all.any(|process| process.parent == self.own.vmid && is_own(process.vmid))
            })
        };
        // Another thread may start a child meanwhile.
        let was_parent = is_parent();
        let is_allowed =
            |error| error == Error::NoChild && !(was_parent && is_parent() && self.is_certain());
        with(|world| world.checks.exits.begin_wait(self.own.vmid));
        let exit = self.call("wait_child", limit, is_allowed, |node, wait| {
            // At its end the leader waits for all of its children.
            if limit == LONG {
                return node.wait_child(which, wait);
            }
            call_or_poll!(
                self,
                node.wait_child(which, wait),
                node.wait_child_async(which, wait)
            )
        });
        with(|world| world.checks.exits.end_wait(self.own.vmid));
        if let Err(error) = exit {
            self.note_unanswered(error);
        }
        let exit = exit.ok()?;
        with(|world| {
            let checks = &mut world.checks;
            checks.ids.record_reap(exit.pid.get(), &checks.family);
            if !checks.family.is_certain(self.own.vmid) {
                // To a process that is ending or cut off, all others are dead.
                checks.exits.record_uncertain_reap_of(&checks.family, &exit);
                return;
            }
            let outcome = checks
                .exits
                .record_reap(&checks.family, self.own.vmid, &exit);
            world.check("reaping", outcome);
        });
        self.check_reaped_is_gone(&exit);
        Some(exit)
    }

    /// Records that a wait which the leader did not answer in time, or a future that was dropped, has left a zombie
    /// that the leader may have reaped: this process sees it the next time, but a process that inherits its children
    /// does not.
    fn note_unanswered(&self, error: Error) {
        let has_ended = is_cut_off(error);
        // A connection that is about to break may have lost the answer.
        let may_break = with(|world| world.faults().may_break());
        let was_dropped = self.own.shared(|shared| shared.dropped[self.thread]);
        let is_late = was_dropped || with(|world| world.faults().are_late());
        if !(has_ended || may_break || is_late) {
            return;
        }
        let children: Vec<_> = with(|world| {
            let family = &world.checks.family;
            // The process may have inherited children whose parent has ended.
            let is_own = |parent| {
                let parent_lives = matches!(
                    family.get(parent).map(|process| process.state),
                    Some(State::Running)
                );
                parent == self.own.vmid || !parent_lives
            };
            let dead = family
                .all()
                .filter(|process| process.state == State::Ending);
            let own = dead.filter(|process| is_own(process.parent));
            own.filter_map(|process| Some((process.vmid, Pid::new(process.pid)?)))
                .collect()
        });
        for (vmid, pid) in children {
            if has_ended
                || may_break
                || self
                    .node
                    .peek_child(ChildSelector::Pid(pid), WAIT_NONE)
                    .is_ok()
            {
                with(|world| world.checks.exits.record_uncertain_reap(vmid));
            }
        }
    }

    /// Checks that a process that was reaped is not in the table.
    fn check_reaped_is_gone(&self, exit: &ChildExit) {
        let vmid = |world: &mut World| {
            let process = world.checks.family.of_pid(exit.pid.get());
            process.map(|process| process.vmid)
        };
        let before = with(vmid);
        let seen = self.node.process(Some(exit.pid), WAIT);
        with(|world| {
            // Its pid may be another process's by now, or the ID of another process's thread.
            let is_same = vmid(world) == before;
            let is_there = seen.is_ok_and(|process| process.pid == exit.pid);
            // The state was so before this look if the process with the pid has not ended.
            let is_new = seen.is_ok_and(|process| {
                let process = world.checks.family.get(process.vmid.map_or(0, Vmid::get));
                process.is_some_and(|process| !process.ends.contains(&(exit.code, exit.signal)))
            });
            if is_there && !is_new && is_same && world.checks.family.is_certain(self.own.vmid) {
                let what = Err(format!("{exit:?} was waited for, and is {seen:?}"));
                world.check("reaping", what);
            }
        });
    }

    pub(super) fn change_group(&self, rng: &mut Rng) {
        let limit = limit(rng);
        let refused = |error: Error| error.errno() == Errno::EPERM;
        let own = self.own;
        let choice = rng.u8(..4);
        if choice < 2 {
            with(|world| world.checks.family.record_group_change(own.vmid));
        }
        let changed = match choice {
            0 => self.call("set_group", limit, refused, |node, wait| {
                node.set_group(None, None, wait)
            }),
            1 => self.call("new_session", limit, refused, |node, wait| {
                node.new_session(wait).map(drop)
            }),
            2 => {
                let on = rng.bool();
                let _ = self.call("mark", limit, no_other_error, |node, wait| {
                    node.mark(ProcessChange::Subreaper, on, wait)
                });
                return;
            }
            _ => {
                let is_certain = self.is_certain();
                let is_allowed = |error| is_gone(error) && !is_certain;
                let _ = self.call("own group", limit, is_allowed, |node, wait| {
                    node.kill(Target::Group(None), 0, wait)
                });
                return;
            }
        };
        if changed.is_ok() {
            with(|world| world.checks.family.record_group(own.vmid, own.pid));
        }
    }

    /// Checks that the leader's entry of a process is right.
    pub(super) fn query_process(&self, rng: &mut Rng) {
        let Some(process) = pick_process(rng) else {
            return;
        };
        let was_certain = with(|world| world.checks.family.is_certain(process.vmid));
        let may_be_gone = |error| is_gone(error) && !self.must_find(process.vmid);
        let answer = self.call("process", limit(rng), may_be_gone, |node, wait| {
            node.process(Some(process.pid), wait)
        });
        let Ok(answer) = answer else { return };
        with(|world| {
            let is_certain = was_certain && world.checks.family.is_certain(process.vmid);
            let fits =
                answer.vmid == Vmid::new(process.vmid) && answer.state == ProcessState::Running;
            let outcome = if is_certain && !fits {
                Err(format!("{process:?} was reported as {answer:?}"))
            } else {
                Ok(())
            };
            world.check("metadata", outcome);
        });
    }

    pub(super) fn query_metadata(&self, rng: &mut Rng) {
        if !with(|world| world.plan.has_paths) {
            return;
        }
        let Some(process) = pick_process(rng) else {
            return;
        };
        // A process that is just joining may not be in the table yet.
        let had_to_find = self.must_find(process.vmid);
        let may_be_gone = |error| {
            let is_busy = error == Error::Full(Resource::ReplyBuffers) && self.own.has_threads;
            is_busy || is_gone(error) && !(had_to_find && self.must_find(process.vmid))
        };
        let limit = limit(rng);
        let what = MetaCode::ALL[rng.usize(..4)];
        if what == MetaCode::Credentials {
            let answer = self.call("credentials", limit, may_be_gone, |node, wait| {
                node.credentials(process.pid, wait)
            });
            if let Ok(answer) = answer {
                with(|world| {
                    let outcome = check_credentials(process.pid.get(), answer);
                    world.check("metadata", outcome);
                });
            }
            return;
        }
        let is_allowed = |error: Error| error.errno() == Errno::ENOENT || may_be_gone(error);
        let mut buffer = vec![0; PATH_MAX];
        let answer = self.call("path_of", limit, is_allowed, |node, wait| {
            node.path_of(process.pid, what, &mut buffer, wait)
        });
        let answer = match answer {
            Ok(length) => Some(&buffer[..length]),
            Err(error) if error.errno() == Errno::ENOENT => None,
            Err(_) => return,
        };
        with(|world| {
            let outcome = check_path(process.pid.get(), what, answer);
            world.check("metadata", outcome);
        });
    }
}

const WAIT_NONE: libos_ipc::Wait<'static> = libos_ipc::Wait::at_most(Duration::ZERO);
