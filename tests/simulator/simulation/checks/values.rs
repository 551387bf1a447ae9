//! **leases**: one process may change a value, or any number may read it. **values**: a process
//! that acquires a value sees the last change. **owner-died**: exactly the processes that acquire a
//! value after the death of its owner get a report. **starvation**: later callers do not overtake a
//! waiting one again and again, and within one process they do not overtake it at all.

use std::collections::BTreeSet;

use libos_ipc::{Id, SyncHandle};

use super::super::faults::Faults;

/// The number of shared values.
pub(crate) const HANDLES: usize = 2;
/// The number of times that a waiting call may be overtaken.
const MAX_OVERTAKES: u32 = 100;

/// A value: the number of its changes, and the last writer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) version: u32,
    pub(crate) writer: Id,
}

impl Stamp {
    pub(crate) fn bytes(self) -> [u8; 8] {
        let number = u64::from(self.version) << 32 | u64::from(self.writer);
        number.to_le_bytes()
    }

    #[expect(clippy::cast_possible_truncation, reason = "its two halves")]
    pub(crate) fn read(bytes: [u8; 8]) -> Stamp {
        let number = u64::from_le_bytes(bytes);
        Stamp {
            version: (number >> 32) as u32,
            writer: number as Id,
        }
    }
}

/// The state of a shared value, as far as the checks know it.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent")]
struct Value {
    /// The value that was last released.
    now: Stamp,
    /// The leader had no room for the handle: its value is reset whenever no process holds it.
    is_not_kept: bool,
    /// The processes that keep the handle open to their end.
    keepers: BTreeSet<Id>,
    /// The other values that are possible since the writer died.
    maybe: Vec<Stamp>,
    /// The values of the last writer that no other process has seen yet, and the one before.
    unseen: Vec<Stamp>,
    /// The owner that died, if no process has held the value to change it since.
    orphan_of: Option<Id>,
    /// A process died that may have been able to change the value.
    may_be_orphan: bool,
    /// A process that is cut off may still acquire the value, and die again, at an unknown time.
    may_be_again: bool,
    /// Some process has died that may have been able to change the value.
    has_died: bool,
    /// Processes that may have got the lease after their call had ended, and with it a report of a
    /// death that no thread has seen yet.
    late: BTreeSet<Id>,
    readers: BTreeSet<Caller>,
    writer: Option<Caller>,
    /// The processes that have ever requested to change the value, and may be able to without a new
    /// request.
    requesters: BTreeSet<Id>,
    waiting: Vec<Waiting>,
}

/// A thread of a process.
pub(crate) type Caller = (Id, usize);

struct Waiting {
    caller: Caller,
    /// The handle of the call. Another thread may close it and open the value again; the call then
    /// fails, and does not wait for the new handle.
    handle: SyncHandle,
    write: bool,
    /// The tick of the request.
    since: u64,
    /// The number of later requests of other processes that were served before it.
    overtaken: u32,
}

pub(crate) struct Values {
    all: [Value; HANDLES],
    /// Bytes may take any time.
    are_late: bool,
}

impl Values {
    pub(crate) fn new(faults: Faults) -> Values {
        Values {
            all: <[Value; HANDLES]>::default(),
            are_late: faults.are_late(),
        }
    }

    /// Records that a thread requests the value, and waits.
    pub(crate) fn begin_wait(
        &mut self,
        at: usize,
        (caller, handle): (Caller, SyncHandle),
        (write, is_cut_off): (bool, bool),
        since: u64,
    ) {
        if write {
            self.all[at].requesters.insert(caller.0);
            self.all[at].may_be_again |= is_cut_off;
        }
        // A process that is cut off may wait for ever.
        if is_cut_off {
            return;
        }
        let waiting = Waiting {
            caller,
            handle,
            write,
            since,
            overtaken: 0,
        };
        self.all[at].waiting.push(waiting);
    }

    /// Records that the process is cut off, so none of its threads waits for a value any more.
    pub(crate) fn record_cut_off(&mut self, pid: Id) {
        for value in &mut self.all {
            value.waiting.retain(|waiting| waiting.caller.0 != pid);
        }
    }

    /// Records that the thread waits no more.
    pub(crate) fn end_wait(&mut self, at: usize, caller: Caller) {
        self.all[at]
            .waiting
            .retain(|waiting| waiting.caller != caller);
    }

    /// Returns true if a thread waits to change the value.
    pub(crate) fn has_waiting_writer(&self, at: usize) -> bool {
        self.all[at].waiting.iter().any(|waiting| waiting.write)
    }

    /// Checks that no waiting thread is overtaken for ever, and that threads of one process do not
    /// overtake each other at all.
    pub(crate) fn check_overtaking(
        &mut self,
        at: usize,
        (caller, handle): (Caller, SyncHandle),
        write: bool,
        asked: u64,
        is_led: bool,
    ) -> Result<(), String> {
        for waiting in &self.all[at].waiting {
            let (pid, since) = (waiting.caller.0, waiting.since);
            let is_before = pid == caller.0 && waiting.caller != caller && since < asked;
            if is_before && waiting.handle == handle && (write || waiting.write) {
                return Err(format!(
                    "{:?} waits for handle {at}, and {caller:?} overtakes it",
                    waiting.caller
                ));
            }
        }
        // Only the leader has a process return what another waits for. One whose log takes no bytes sends nothing,
        // and a member may need some time to follow the next one: its lease is valid until then.
        if self.are_late || !is_led {
            return Ok(());
        }
        for waiting in &mut self.all[at].waiting {
            let is_other = waiting.caller.0 != caller.0 && waiting.since < asked;
            waiting.overtaken += u32::from(is_other && (write || waiting.write));
            if waiting.overtaken > MAX_OVERTAKES {
                return Err(format!(
                    "{:?} is overtaken for ever at handle {at}",
                    waiting.caller
                ));
            }
        }
        Ok(())
    }

    /// Records that a call of that process to acquire the value has ended without it.
    pub(crate) fn record_unfinished_call(&mut self, at: usize, pid: Id) {
        self.all[at].late.insert(pid);
    }

    /// Records that a thread acquires the value. Checks `leases`, and exclusive access.
    pub(crate) fn record_acquire(
        &mut self,
        at: usize,
        caller: Caller,
        write: bool,
    ) -> Result<(), String> {
        let value = &mut self.all[at];
        let by_other = value.writer.is_some_and(|writer| writer != caller);
        let read_by_other = value.readers.iter().any(|reader| *reader != caller);
        if by_other || write && read_by_other {
            return Err(format!(
                "{caller:?} acquires handle {at}, which {:?} and {:?} hold",
                value.writer, value.readers
            ));
        }
        if write {
            value.readers.remove(&caller);
            value.writer = Some(caller);
        } else {
            value.readers.insert(caller);
        }
        Ok(())
    }

    /// Records that the leader has no room to keep this value.
    pub(crate) fn record_not_kept(&mut self, at: usize) {
        self.all[at].is_not_kept = true;
    }

    /// Records that the process keeps the value open to its end.
    pub(crate) fn add_keeper(&mut self, at: usize, pid: Id) {
        self.all[at].keepers.insert(pid);
    }

    /// Records that the process has ended, or is about to. Unless another one keeps the value, it is not kept any more.
    pub(crate) fn remove_keeper(&mut self, pid: Id) {
        for value in &mut self.all {
            if value.keepers.remove(&pid) && value.keepers.is_empty() {
                value.is_not_kept = true;
            }
        }
    }

    /// Records that a thread sees the value. Checks `values`.
    pub(crate) fn record_read(&mut self, at: usize, pid: Id, stamp: Stamp) -> Result<(), String> {
        let value = &mut self.all[at];
        let begins_anew = value.is_not_kept && stamp == Stamp::default();
        if stamp != value.now && !value.maybe.contains(&stamp) && !begins_anew {
            return Err(format!(
                "{pid} reads {stamp:?} in handle {at}, not {:?} or {:?}",
                value.now, value.maybe
            ));
        }
        value.now = stamp;
        value.maybe.clear();
        if stamp.writer != pid {
            value.unseen.clear();
        }
        Ok(())
    }

    /// Records that a thread that reads the value can change it now. Checks `leases`, and exclusive access.
    pub(crate) fn record_upgrade(&mut self, at: usize, caller: Caller) -> Result<(), String> {
        // The process had the report when it acquired the value to read it.
        self.all[at].orphan_of = None;
        self.record_acquire(at, caller, true)
    }

    /// Records that a thread gets a report of deaths. Checks `owner-died`: each process that acquires the value gets
    /// one, until a process has held it to change it.
    pub(crate) fn record_report(
        &mut self,
        at: usize,
        pid: Id,
        write: bool,
        owner_died: bool,
    ) -> Result<(), String> {
        let value = &mut self.all[at];
        // A value that the leader has no room to keep is lost with its owner, and with it the report.
        let must = value.orphan_of.is_some() && !value.is_not_kept;
        let is_late = value.late.remove(&pid) && value.has_died;
        let may = value.may_be_orphan || value.may_be_again || is_late;
        if write {
            value.orphan_of = None;
            value.may_be_orphan &= !owner_died;
        }
        match (owner_died, must, may) {
            (false, true, _) => Err(format!(
                "{pid} gets no report of the death of the owner of {at}"
            )),
            (true, _, false) => Err(format!(
                "{pid} gets a report of a death at {at}, and no process died"
            )),
            _ => Ok(()),
        }
    }

    /// Records that a thread releases the value, perhaps with a change. Returns the new value.
    pub(crate) fn record_release(&mut self, at: usize, caller: Caller, changed: bool) -> Stamp {
        let value = &mut self.all[at];
        value.readers.remove(&caller);
        if value.writer == Some(caller) {
            value.writer = None;
            if changed {
                value.unseen.push(value.now);
                value.now = Stamp {
                    version: value.now.version + 1,
                    writer: caller.0,
                };
            }
        }
        value.now
    }

    /// Returns the value that a process writes that is cut off or of which another thread has died:
    /// other processes may see the value or not, and the release may arrive or not.
    pub(crate) fn record_uncertain_release(&mut self, at: usize, caller: Caller) -> Stamp {
        let value = &mut self.all[at];
        let pid = caller.0;
        value.readers.remove(&caller);
        if value.writer == Some(caller) {
            value.writer = None;
        }
        if value.orphan_of == Some(pid) {
            value.orphan_of = None;
        }
        let others = u32::try_from(value.maybe.len()).unwrap_or(u32::MAX);
        let stamp = Stamp {
            version: value.now.version + 1 + others,
            writer: pid,
        };
        // A process that never requested to change the value can't.
        if others > 0 || value.requesters.contains(&pid) {
            value.maybe.push(stamp);
        }
        stamp
    }

    /// Records that the process has died, or is cut off.
    pub(crate) fn record_death(&mut self, pid: Id, is_cut_off: bool) {
        self.remove_keeper(pid);
        for value in &mut self.all {
            value.readers.retain(|(of, _)| *of != pid);
            value.waiting.retain(|waiting| waiting.caller.0 != pid);
            if value.writer.is_some_and(|(of, _)| of == pid) {
                value.writer = None;
                // The last messages of a process that is cut off may have arrived or not.
                if !is_cut_off {
                    value.orphan_of = Some(pid);
                }
            }
            if value.requesters.remove(&pid) {
                value.may_be_orphan = true;
                value.has_died = true;
                value.may_be_again |= is_cut_off;
                value.maybe.push(value.now);
                if value.now.writer == pid {
                    value.maybe.append(&mut value.unseen);
                }
            }
        }
    }
}
