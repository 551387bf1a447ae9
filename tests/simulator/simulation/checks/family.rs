//! The processes of the run, as the simulator started and ended them. This is not a check; the
//! checks use it.

use std::collections::BTreeMap;

use libos_ipc::Id;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Starting,
    Running,
    /// The process has begun to end, or the family takes it for dead.
    Ending,
    /// The process was never started successfully.
    Failed,
}

/// A process.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) vmid: u32,
    pub(crate) pid: Id,
    pub(crate) state: State,
    /// The process is cut off from the leader.
    pub(crate) is_marked_dead: bool,
    /// The leader has confirmed its end.
    pub(crate) has_exited: bool,
    /// The possible ends: code and signal.
    pub(crate) ends: Vec<(u32, u32)>,
    /// The VMID of its parent; 0 for the first process.
    pub(crate) parent: u32,
    /// The group that it is in, or was in when that was last known.
    pub(crate) group: Id,
    pub(crate) is_group_known: bool,
}

/// The signal of a process that died without an exit report.
pub(crate) use libos_ipc::leader::SIGPWR;

#[derive(Default)]
pub(crate) struct Family {
    processes: BTreeMap<u32, Process>,
    by_pid: BTreeMap<Id, u32>,
}

impl Family {
    /// Records that the parent has announced the process to the leader, in that group.
    pub(crate) fn record_start(&mut self, vmid: u32, pid: Id, parent: u32, group: Id) {
        let process = Process {
            vmid,
            pid,
            state: State::Starting,
            is_marked_dead: false,
            has_exited: false,
            ends: Vec::new(),
            parent,
            group,
            is_group_known: true,
        };
        self.processes.insert(vmid, process);
        if pid != 0 {
            self.by_pid.insert(pid, vmid);
        }
    }

    pub(crate) fn get(&self, vmid: u32) -> Option<&Process> {
        self.processes.get(&vmid)
    }

    pub(crate) fn of_pid(&self, pid: Id) -> Option<&Process> {
        self.processes.get(self.by_pid.get(&pid)?)
    }

    pub(crate) fn pid_of(&self, vmid: u32) -> Id {
        self.processes.get(&vmid).map_or(0, |process| process.pid)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Process> {
        self.processes.values()
    }

    /// Records that the process has joined.
    pub(crate) fn record_join(&mut self, vmid: u32, pid: Id) {
        self.by_pid.insert(pid, vmid);
        if let Some(process) = self.processes.get_mut(&vmid) {
            process.pid = pid;
            if process.state == State::Starting {
                // The process may have been cut off before it knew that it had started.
                process.state = if process.is_marked_dead {
                    State::Ending
                } else {
                    State::Running
                };
            }
            if process.group == 0 {
                process.group = pid;
            }
        }
    }

    /// Records that the process could not be started, or could not join.
    pub(crate) fn record_failure(&mut self, vmid: u32) {
        if let Some(process) = self.processes.get_mut(&vmid) {
            process.state = State::Failed;
            process.ends.push((0, SIGPWR));
        }
    }

    /// Records that the process begins to end, with that code and signal.
    pub(crate) fn record_end(&mut self, vmid: u32, end: (u32, u32)) {
        if let Some(process) = self.processes.get_mut(&vmid) {
            process.state = State::Ending;
            process.ends.push(end);
        }
    }

    /// Records that the process dies without an exit report, or has ended before.
    pub(crate) fn record_kill(&mut self, vmid: u32) {
        if let Some(process) = self.processes.get_mut(&vmid) {
            process.state = State::Ending;
            if !process.has_exited {
                process.ends.push((0, SIGPWR));
            }
        }
    }

    /// Records that the process has reported how it ends, and that the leader has confirmed it.
    pub(crate) fn record_exit(&mut self, vmid: u32) {
        if let Some(process) = self.processes.get_mut(&vmid) {
            process.has_exited = true;
        }
    }

    /// Records that the process is cut off. Returns false if that makes no difference any more.
    pub(crate) fn mark_dead(&mut self, vmid: u32) -> bool {
        let Some(process) = self.processes.get_mut(&vmid) else {
            return false;
        };
        if process.is_marked_dead {
            return false;
        }
        process.is_marked_dead = true;
        if process.has_exited {
            return false;
        }
        // If it has sent its exit report, the leader may have received it or not.
        process.ends.push((0, SIGPWR));
        let mattered = process.state == State::Running;
        if mattered {
            process.state = State::Ending;
        }
        mattered
    }

    /// Records that the parent of the process takes it for dead.
    pub(crate) fn record_possible_death(&mut self, pid: Id) {
        let vmid = self.by_pid.get(&pid);
        if let Some(process) = vmid.and_then(|vmid| self.processes.get_mut(vmid)) {
            process.ends.push((0, SIGPWR));
        }
    }

    /// Records that the process is in that group.
    pub(crate) fn record_group(&mut self, vmid: u32, group: Id) {
        if let Some(process) = self.processes.get_mut(&vmid) {
            process.group = group;
            process.is_group_known = true;
        }
    }

    /// Records that the process may be in another group than the known one.
    pub(crate) fn record_group_change(&mut self, vmid: u32) {
        if let Some(process) = self.processes.get_mut(&vmid) {
            process.is_group_known = false;
        }
    }

    /// Returns true if the resources of this process are certain.
    pub(crate) fn is_certain(&self, vmid: u32) -> bool {
        self.processes
            .get(&vmid)
            .is_some_and(|process| process.state == State::Running)
    }

    pub(crate) fn is_starting(&self, vmid: u32) -> bool {
        self.processes
            .get(&vmid)
            .is_some_and(|process| process.state == State::Starting)
    }

    pub(crate) fn is_marked_dead(&self, vmid: u32) -> bool {
        self.processes
            .get(&vmid)
            .is_some_and(|process| process.is_marked_dead)
    }
}
