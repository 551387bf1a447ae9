//! The lock table against a model of bytes: whatever the members do, no two owners hold conflicting
//! locks, and every query gets the true answer.
#![no_main]

#[allow(dead_code, reason = "not all of it is needed here")]
#[path = "../../tests/locks/model.rs"]
mod model;

use std::collections::{BTreeMap, BTreeSet};

use libfuzzer_sys::fuzz_target;
use libos_ipc::file_locks::{Completion, LockLimits, LockTable, Owner, SetOutcome};
use libos_ipc::store::Arena;
use libos_ipc::wire::{Answer, FileLock, LockFamily, LockKind};
use libos_ipc::{Errno, Vmid};

use model::{BYTES, Model, WantedLock};

const LIMITS: LockLimits = LockLimits {
    locks: 24,
    files: 3,
    waiting: 5,
    open_files: 6,
};
/// The bound on the entries that an operation visits in tables of this size.
const MAX_STEPS: u64 = 4_000;

/// The lock table, the model, and the requests that wait.
struct Comparison<'m> {
    locks: LockTable<'m>,
    model: Model,
    /// The waiting requests, by member and sequence number.
    waiting: BTreeMap<(u32, u64), WantedLock>,
    /// The holders of each open file.
    holders: BTreeMap<u64, Vec<u32>>,
    /// Open files that a member closed while it waited for a lock of them.
    closing: BTreeSet<(u64, u32)>,
}

impl Comparison<'_> {
    /// Sets a lock, and compares the outcome with the model.
    fn set(&mut self, from: Vmid, seq: u64, lock: &FileLock<'_>, wanted: WantedLock) {
        let waiting: Vec<WantedLock> = self.waiting.values().copied().collect();
        let is_free = self.model.conflicting_owners(&wanted).is_empty();
        let is_deadlock = self.model.is_deadlock(&wanted, &waiting);
        let unlock = lock.kind == LockKind::Unlock;
        match self.locks.set(from, seq, lock) {
            Ok(SetOutcome::Delegated(_)) => panic!("no request asks for a delegation"),
            Ok(SetOutcome::Done) => {
                assert!(unlock || is_free, "{lock:?}");
                self.model.set(&wanted, (!unlock).then_some(wanted.write));
                return;
            }
            Ok(SetOutcome::Queued) => {
                assert!(lock.wait && !unlock);
                assert!(!is_deadlock || !matches!(wanted.owner, Owner::Process { .. }));
                self.waiting.insert((from.get(), seq), wanted);
            }
            Err(Errno::EAGAIN) => assert!(!lock.wait && !is_free),
            Err(Errno::EDEADLK) => assert!(is_deadlock),
            Err(Errno::ENOLCK) => return,
            Err(errno) => panic!("{errno}"),
        }
        if lock.family == LockFamily::Flock {
            self.model.set(&wanted, None);
        }
    }

    /// Takes the completions of waiting requests, and compares them with the model.
    fn take_completions(&mut self) {
        while let Some(completion) = self.locks.take_completion() {
            let key = (completion.from.get(), completion.seq);
            let Some(wanted) = self.waiting.remove(&key) else {
                panic!("{completion:?} did not wait");
            };
            if result_of(&completion).is_ok() {
                assert!(
                    self.model.conflicting_owners(&wanted).is_empty(),
                    "{wanted:?}"
                );
                self.model.set(&wanted, Some(wanted.write));
            }
            if let Owner::Open(handle) | Owner::Flock(handle) = wanted.owner
                && !self.waits_for(key.0, handle)
                && self.closing.remove(&(handle, key.0))
            {
                self.close(handle, key.0);
            }
        }
    }

    fn waits_for(&self, vmid: u32, handle: u64) -> bool {
        let is_of_file = |owner| owner == Owner::Open(handle) || owner == Owner::Flock(handle);
        let mut all = self.waiting.iter();
        all.any(|((of, _), wanted)| *of == vmid && is_of_file(wanted.owner))
    }

    /// Closes an open file of a member. The last holder ends its locks.
    fn close(&mut self, handle: u64, vmid: u32) {
        let Some(members) = self.holders.get_mut(&handle) else {
            return;
        };
        let had = members.contains(&vmid);
        members.retain(|member| *member != vmid);
        if had && members.is_empty() {
            self.model
                .forget(|_, of| matches!(of, Owner::Open(of) | Owner::Flock(of) if of == handle));
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut memory = Box::new_uninit_slice(LockTable::bytes(&LIMITS));
    let mut comparison = Comparison {
        locks: LockTable::new(&mut Arena::new(&mut memory), &LIMITS).expect("enough"),
        model: Model::default(),
        waiting: BTreeMap::new(),
        holders: BTreeMap::new(),
        closing: BTreeSet::new(),
    };
    for (seq, step) in (1..).zip(bytes.chunks_exact(4)) {
        let [action, member, start, length] = *step else {
            return;
        };
        let from = Vmid::new(u32::from(member % 3) + 2).expect("not 0");
        let pid = u32::from(member >> 2) % 2 + 10 * from.get();
        let handle = u64::from(member >> 4) % 4;
        let path = &[action >> 6];
        let (start, end) = match length as usize % BYTES {
            0 => (start as usize % BYTES, BYTES),
            length => {
                let start = start as usize % (BYTES - 1);
                (start, (start + length).min(BYTES - 1))
            }
        };
        let family = LockFamily::ALL[usize::from(action >> 3) % 3];
        let lock = FileLock {
            family,
            kind: LockKind::ALL[usize::from(action) % 3],
            start: start as u64,
            end: if end == BYTES {
                u64::MAX
            } else {
                end as u64 - 1
            },
            pid,
            handle,
            wait: action & 0x20 != 0,
            path,
        };
        let whole = family == LockFamily::Flock;
        let wanted = WantedLock {
            owner: Owner::of(from, &lock),
            file: usize::from(action >> 6),
            start: if whole { 0 } else { start },
            end: if whole { BYTES } else { end },
            write: lock.kind == LockKind::Write,
        };
        let before = comparison.locks.steps();
        match member >> 6 {
            0 | 1 => {
                if family != LockFamily::Posix && lock.kind != LockKind::Unlock {
                    let had = comparison.locks.open_file_usage().0;
                    comparison.closing.remove(&(handle, from.get()));
                    comparison.set(from, seq, &lock, wanted);
                    let members = comparison.holders.entry(handle).or_default();
                    if !members.contains(&from.get()) && comparison.locks.open_file_usage().0 > had
                    {
                        members.push(from.get());
                    }
                } else {
                    comparison.set(from, seq, &lock, wanted);
                }
            }
            2 => {
                let found = comparison.locks.get(from, &lock);
                let start = found.map(|found| found.map(|held| held.start as usize));
                match (lock.kind, family) {
                    (LockKind::Unlock, LockFamily::Ofd) => {
                        let own = comparison.model.first_own(&wanted);
                        assert_eq!(start, Ok(own));
                    }
                    (LockKind::Unlock, _) => assert_eq!(start, Err(Errno::EINVAL)),
                    _ => {
                        let lowest = comparison.model.lowest_conflicts(&wanted);
                        let lowest = lowest.into_iter().map(|lock| lock.start).min();
                        assert_eq!(start, Ok(lowest));
                    }
                }
            }
            _ => match action % 4 {
                0 => {
                    comparison.locks.release_process(from, pid);
                    let owner = Owner::Process { vmid: from, pid };
                    comparison.model.forget(|_, of| of == owner);
                }
                1 => comparison.locks.cancel(from, u64::from(start as u8)),
                2 => {
                    comparison.locks.close_open_file(from, handle);
                    if comparison.waits_for(from.get(), handle) {
                        comparison.closing.insert((handle, from.get()));
                    } else {
                        comparison.close(handle, from.get());
                    }
                }
                _ => {
                    comparison.locks.reclaim(from);
                    comparison
                        .waiting
                        .retain(|(vmid, _), _| *vmid != from.get());
                    comparison
                        .model
                        .forget(|_, of| matches!(of, Owner::Process { vmid, .. } if vmid == from));
                    comparison.closing.retain(|(_, vmid)| *vmid != from.get());
                    for handle in comparison.holders.keys().copied().collect::<Vec<_>>() {
                        comparison.close(handle, from.get());
                    }
                }
            },
        }
        let steps = comparison.locks.steps() - before;
        assert!(steps < MAX_STEPS, "{steps} steps");
        comparison.take_completions();
        assert!(comparison.locks.check_invariants());
        for wanted in comparison.waiting.values() {
            let held = comparison.model.conflicting_owners(wanted);
            assert!(!held.is_empty(), "a wait for nobody: {wanted:?}");
        }
    }
    for vmid in 2..5 {
        comparison.locks.reclaim(Vmid::new(vmid).expect("not 0"));
    }
    while comparison.locks.take_completion().is_some() {}
    let usages = [
        comparison.locks.lock_usage(),
        comparison.locks.file_usage(),
        comparison.locks.waiting_usage(),
        comparison.locks.open_file_usage(),
    ];
    assert!(usages.iter().all(|usage| usage.0 == 0), "{usages:?}");
});

fn result_of(completion: &Completion) -> Result<u32, Errno> {
    match completion.answer {
        Answer::Status(result) => result,
        other => panic!("{other:?}"),
    }
}
