//! Arbitrary messages and answers.

use libos_ipc::wire::{
    Answer, DelegatedLock, DelegatedLockList, DelegatedLocks, DismissReason, Dismissal, EndQuery,
    ExitReport, Expected, FileLock, Heartbeat, HeirList, HeirReady, HeldLock, Hello, Holding,
    IdRange, KillTarget, LimitFlags, LockFamily, LockKind, Message, MetaCode, NewLeader,
    PeerLimits, PidKill, Process, ProcessChange, ProcessFlags, ProcessNote, ProcessQuery,
    ProcessState, Rejoin, Rejoined, RelativeNote, Resignation, SuccessionMode, Sync, SyncCode,
    SyncNote, SyncState, codes,
};
use libos_ipc::{Errno, Pid, Vmid};
use proptest::prelude::*;
use proptest::sample::select;

/// Leaks the bytes, since messages only borrow them and tests end soon.
fn bytes(longest: usize) -> impl Strategy<Value = &'static [u8]> {
    prop::collection::vec(any::<u8>(), 0..=longest).prop_map(|bytes| &*bytes.leak())
}

fn path() -> impl Strategy<Value = &'static [u8]> {
    prop::collection::vec(1..=255u8, 0..60).prop_map(|bytes| &*bytes.leak())
}

fn range() -> impl Strategy<Value = IdRange> {
    any::<(u32, u32)>().prop_map(|(start, end)| IdRange { start, end })
}

fn kill() -> impl Strategy<Value = PidKill> {
    let target = select(KillTarget::ALL);
    (any::<(u32, u32, u32, i32)>(), target).prop_map(|((sender, pid, id, signal), target)| {
        PidKill {
            sender,
            pid,
            id,
            signal,
            target,
        }
    })
}

fn exit() -> impl Strategy<Value = ExitReport> {
    any::<[u32; 5]>().prop_map(|[parent_pid, pid, uid, code, signal]| ExitReport {
        parent_pid,
        pid,
        uid,
        code,
        signal,
    })
}

fn lock() -> impl Strategy<Value = FileLock<'static>> {
    let choices = (
        select(LockFamily::ALL),
        select(LockKind::ALL),
        any::<bool>(),
    );
    (choices, any::<(u64, u64, u32, u64)>(), path()).prop_map(
        |((family, kind, wait), (start, end, pid, handle), path)| FileLock {
            family,
            kind,
            start,
            end,
            pid,
            handle,
            wait,
            path,
        },
    )
}

fn delegated_locks() -> impl Strategy<Value = DelegatedLocks<'static>> {
    let lock = (any::<(u64, u64)>(), any::<(u32, bool)>());
    prop::collection::vec(lock, 0..=DelegatedLocks::MAX).prop_map(|locks| {
        let mut list = DelegatedLockList::new();
        for ((one, other), (pid, write)) in locks {
            assert!(list.push(DelegatedLock {
                start: one.min(other),
                end: one.max(other),
                pid,
                write,
            }));
        }
        Box::leak(Box::new(list)).locks()
    })
}

pub(crate) fn message() -> impl Strategy<Value = Message<'static>> {
    let sync = (
        select(SyncCode::ALL),
        any::<u64>(),
        select(SyncState::ALL),
        bytes(60),
    );
    prop_oneof![
        bytes(60).prop_map(Message::Response),
        Just(Message::GetNewVmid),
        exit().prop_map(Message::ChildExit),
        Just(Message::AllocIdRange),
        range().prop_map(Message::ReleaseIdRange),
        any::<(u32, u32)>().prop_map(|(id, owner)| Message::ChangeIdOwner { id, owner }),
        any::<u32>().prop_map(Message::GetIdOwner),
        kill().prop_map(Message::PidKill),
        (any::<u32>(), select(MetaCode::ALL))
            .prop_map(|(pid, code)| Message::PidGetMeta { pid, code }),
        sync.prop_map(|(code, id, state, data)| Message::Sync(code, Sync { id, state, data })),
        lock().prop_map(Message::FileLockSet),
        lock().prop_map(Message::FileLockGet),
        any::<u32>().prop_map(Message::FileLockClearPid),
        any::<u64>().prop_map(Message::FileLockCancel),
        any::<(u64, bool, u32)>().prop_map(|(handle, held, vmid)| Message::FileHandle {
            handle,
            held,
            vmid,
        }),
        any::<(u64, u32)>().prop_map(|(handle, vmid)| Message::FileGiven { handle, vmid }),
        lock().prop_map(|lock| Message::FileLockDelegate(FileLock {
            family: LockFamily::Posix,
            ..lock
        })),
        any::<u64>().prop_map(Message::FileLockRecall),
        (
            any::<[u32; 3]>(),
            any::<i32>(),
            select(&KillTarget::ALL[..2]),
            any::<bool>()
        )
            .prop_map(
                |([sender, pid, id], signal, target, always)| Message::KillOrdered {
                    kill: PidKill {
                        sender,
                        pid,
                        id,
                        signal,
                        target
                    },
                    always,
                }
            ),
        (any::<[u32; 3]>(), any::<i32>(), select(KillTarget::ALL)).prop_map(
            |([sender, pid, id], signal, target)| Message::KillPassed(PidKill {
                sender,
                pid,
                id,
                signal,
                target,
            })
        ),
        (any::<u64>(), select(SyncNote::ALL)).prop_map(|(id, note)| Message::SyncNote { id, note }),
        any::<(u32, u32)>().prop_map(|(pid, group)| Message::ProcessEnd(EndQuery { pid, group })),
        lock().prop_map(Message::FencingNumber),
        (select(Holding::ALL), any::<u64>())
            .prop_map(|(holding, number)| Message::FencingBlock { holding, number }),
        (any::<u64>(), 0..=Heartbeat::LONGEST)
            .prop_map(|(sent_at, limit)| Message::Heartbeat(Heartbeat { sent_at, limit })),
        (select(ProcessNote::ALL), any::<(u32, u32)>())
            .prop_map(|(note, (pid, vmid))| Message::ProcessNote(RelativeNote { note, pid, vmid })),
        (any::<u64>(), delegated_locks())
            .prop_map(|(delegation, locks)| Message::FileLockReturn { delegation, locks }),
        of_processes(),
        of_succession(),
        (18..=255u8)
            .prop_filter("a free code", |code| codes::is_unknown(*code))
            .prop_map(Message::Unknown),
    ]
}

/// Messages about processes, and the two about a connection.
fn of_processes() -> impl Strategy<Value = Message<'static>> {
    prop_oneof![
        any::<[u32; 4]>().prop_map(|[version, features, pid, parent]| {
            Message::Hello(Hello {
                version,
                features,
                pid,
                parent,
            })
        }),
        any::<[u32; 4]>().prop_map(|[version, flags, frame_length, sync_data]| {
            Message::Limits(PeerLimits {
                version,
                flags: LimitFlags::from_bits_truncate(flags),
                frame_length,
                sync_data,
            })
        }),
        any::<(u32, u32)>().prop_map(|(vmid, pid)| Message::ProcessStart { vmid, pid }),
        any::<u32>().prop_map(Message::ProcessReap),
        (select(ProcessChange::ALL), any::<(u32, u32)>())
            .prop_map(|(what, (pid, value))| Message::ProcessChange { what, pid, value }),
        any::<(u32, u32, u32, u64)>().prop_map(|(pid, group, parent, after)| {
            Message::ProcessQuery(ProcessQuery {
                pid,
                group,
                parent,
                after,
            })
        }),
    ]
}

fn new_leader() -> impl Strategy<Value = NewLeader> {
    (any::<[u32; 3]>(), select(SuccessionMode::ALL)).prop_map(|([epoch, config, vmid], mode)| {
        NewLeader {
            epoch,
            config,
            vmid,
            mode,
        }
    })
}

/// Messages about the leader that follows.
fn of_succession() -> impl Strategy<Value = Message<'static>> {
    let heirs = prop::collection::vec(any::<u32>(), 0..=HeirList::MOST);
    prop_oneof![
        (any::<[u32; 2]>(), heirs).prop_map(|([epoch, config], list)| {
            let mut heirs = [0; HeirList::MOST];
            heirs[..list.len()].copy_from_slice(&list);
            Message::Heirs(HeirList {
                epoch,
                config,
                heirs,
            })
        }),
        bytes(60).prop_map(Message::Log),
        bytes(60).prop_map(Message::State),
        any::<(u64, u64)>().prop_map(|(op, digest)| Message::HeirReady(HeirReady { op, digest })),
        any::<(u32, u32, u64)>().prop_map(|(epoch, heir, op)| Message::Resign(Resignation {
            epoch,
            heir,
            op
        })),
        new_leader().prop_map(Message::Leader),
        any::<([u32; 4], u64, u64)>().prop_map(
            |([epoch, config, pid, waiting], sent, received)| {
                Message::Rejoin(Rejoin {
                    epoch,
                    config,
                    pid,
                    waiting,
                    sent,
                    received,
                })
            }
        ),
        any::<u64>().prop_map(Message::Mark),
        Just(Message::WhoLeads),
        (select(DismissReason::ALL), any::<u32>())
            .prop_map(|(reason, epoch)| Message::Dismiss(Dismissal { reason, epoch })),
    ]
}

fn held() -> impl Strategy<Value = HeldLock> {
    let families: &[LockFamily] = &[LockFamily::Posix, LockFamily::Flock];
    (select(families), any::<(bool, u64, u64, u32, u64)>()).prop_map(
        |(family, (write, start, end, pid, handle))| HeldLock {
            family,
            write,
            start,
            end,
            pid,
            handle,
        },
    )
}

fn process() -> impl Strategy<Value = Process> {
    let choices = (select(ProcessState::ALL), 0..16_u32);
    (any::<[u32; 5]>(), choices, any::<u64>()).prop_map(
        |([pid, vmid, parent, group, session], (state, flags), start_seq)| Process {
            pid: Pid::new(pid.max(1)).unwrap(),
            vmid: Vmid::new(vmid),
            parent: Pid::new(parent),
            group: Pid::new(group.max(1)).unwrap(),
            session: Pid::new(session.max(1)).unwrap(),
            state,
            flags: ProcessFlags::from_bits_truncate(flags),
            start_seq,
        },
    )
}

pub(crate) fn answer() -> impl Strategy<Value = (Expected, Answer<'static>)> {
    prop_oneof![
        Just((Expected::StatusOrEmpty, Answer::Empty)),
        any::<u32>().prop_map(|vmid| (Expected::Vmid, Answer::Vmid(vmid))),
        range().prop_map(|range| (Expected::IdRange, Answer::IdRange(range))),
        any::<u32>().prop_map(|owner| (Expected::Owner, Answer::Owner(owner))),
        result(0..=i32::MAX.cast_unsigned())
            .prop_map(|status| (Expected::Status, Answer::Status(status))),
        result(0..=i32::MAX.cast_unsigned())
            .prop_map(|status| (Expected::StatusOrEmpty, Answer::Status(status))),
        result(bytes(60)).prop_map(|data| (Expected::Meta, Answer::Meta(data))),
        result(proptest::option::of(held())).prop_map(|lock| (Expected::Lock, Answer::Lock(lock))),
        result(process()).prop_map(|process| (Expected::Process, Answer::Process(process))),
        result(exit()).prop_map(|exit| (Expected::End, Answer::End(exit))),
        result(any::<u64>()).prop_map(|number| (Expected::Fencing, Answer::Fencing(number))),
        (result(any::<u64>()), any::<u32>()).prop_map(|(taken, epoch)| {
            (Expected::Rejoin, Answer::Rejoin(Rejoined { epoch, taken }))
        }),
        new_leader().prop_map(|leader| (Expected::Leader, Answer::Leader(leader))),
    ]
}

/// Returns the value, or any error number.
fn result<T: std::fmt::Debug>(
    value: impl Strategy<Value = T>,
) -> impl Strategy<Value = Result<T, Errno>> {
    let errno = (1..=65_535).prop_map(|number| Errno::new(number).unwrap());
    proptest::result::maybe_ok(value, errno)
}

fn two_delegated_locks() -> DelegatedLocks<'static> {
    let mut list = DelegatedLockList::new();
    for write in [false, true] {
        assert!(list.push(DelegatedLock {
            start: 1,
            end: 2,
            pid: 3,
            write,
        }));
    }
    Box::leak(Box::new(list)).locks()
}

/// Returns one message of each kind that carries a signal.
fn signals() -> [Message<'static>; 3] {
    let kill = PidKill {
        sender: 1,
        pid: 2,
        id: 3,
        signal: 4,
        target: KillTarget::Process,
    };
    let for_all = PidKill {
        target: KillTarget::All,
        ..kill
    };
    [
        Message::PidKill(for_all),
        Message::KillOrdered { kill, always: true },
        Message::KillPassed(for_all),
    ]
}

/// Returns one message of each form, for tests of all forms.
fn about_processes() -> Vec<Message<'static>> {
    vec![
        Message::ProcessStart { vmid: 1, pid: 2 },
        Message::ProcessReap(1),
        Message::ProcessEnd(EndQuery { pid: 1, group: 2 }),
        Message::Heartbeat(Heartbeat {
            sent_at: 1,
            limit: Heartbeat::LONGEST,
        }),
        Message::ProcessNote(RelativeNote {
            note: ProcessNote::ChildAbandoned,
            pid: 1,
            vmid: 2,
        }),
        Message::ProcessChange {
            what: ProcessChange::Session,
            pid: 1,
            value: 2,
        },
        Message::ProcessQuery(ProcessQuery {
            pid: 1,
            group: 2,
            parent: 3,
            after: 4,
        }),
    ]
}

/// Returns one message of each form for a succession, but those that hold any bytes.
fn about_succession() -> [Message<'static>; 8] {
    [
        Message::Heirs(HeirList {
            epoch: 1,
            config: 2,
            heirs: [4, 5, 0, 0],
        }),
        Message::HeirReady(HeirReady { op: 1, digest: 2 }),
        Message::Resign(Resignation {
            epoch: 1,
            heir: 2,
            op: 3,
        }),
        Message::Leader(NewLeader {
            epoch: 1,
            config: 2,
            vmid: 3,
            mode: SuccessionMode::Standby,
        }),
        Message::Rejoin(Rejoin {
            epoch: 1,
            config: 2,
            pid: 3,
            waiting: 4,
            sent: 5,
            received: 6,
        }),
        Message::Mark(1),
        Message::WhoLeads,
        Message::Dismiss(Dismissal {
            reason: DismissReason::Slow,
            epoch: 1,
        }),
    ]
}

pub(crate) fn one_of_each() -> Vec<Message<'static>> {
    let lock = FileLock {
        family: LockFamily::Posix,
        kind: LockKind::Write,
        start: 1,
        end: 2,
        pid: 3,
        handle: 4,
        wait: true,
        path: b"path",
    };
    let exit = ExitReport {
        parent_pid: 1,
        pid: 2,
        uid: 3,
        code: 4,
        signal: 5,
    };
    let mut all = vec![
        Message::GetNewVmid,
        Message::ChildExit(exit),
        Message::AllocIdRange,
        Message::ReleaseIdRange(IdRange { start: 1, end: 2 }),
        Message::ChangeIdOwner { id: 1, owner: 2 },
        Message::GetIdOwner(1),
        Message::PidGetMeta {
            pid: 1,
            code: MetaCode::Root,
        },
        Message::FileLockSet(lock),
        Message::FileLockGet(FileLock { path: b"", ..lock }),
        Message::FileLockClearPid(1),
        Message::FileLockSet(FileLock {
            family: LockFamily::Ofd,
            ..lock
        }),
        Message::FileLockGet(FileLock {
            family: LockFamily::Ofd,
            ..lock
        }),
        Message::FileLockCancel(1),
        Message::FileHandle {
            handle: 1,
            held: true,
            vmid: 2,
        },
        Message::FileGiven { handle: 1, vmid: 2 },
        Message::FileLockDelegate(lock),
        Message::FencingNumber(lock),
        Message::FencingBlock {
            holding: Holding::Delegation,
            number: 1,
        },
        Message::FileLockRecall(1),
        Message::SyncNote {
            id: 1,
            note: SyncNote::NoRoom,
        },
        Message::FileLockReturn {
            delegation: 1,
            locks: two_delegated_locks(),
        },
        Message::Hello(Hello {
            version: 1,
            features: 2,
            pid: 3,
            parent: 4,
        }),
        Message::Limits(PeerLimits {
            version: 1,
            flags: LimitFlags::USES_SYNC,
            frame_length: 3,
            sync_data: 4,
        }),
    ];
    all.extend(signals());
    all.extend(about_processes());
    all.extend(about_succession());
    for data in [&b""[..], b"d", b"data"] {
        let sync = Sync {
            id: 1,
            state: SyncState::Shared,
            data,
        };
        all.extend(SyncCode::ALL.iter().map(|&code| Message::Sync(code, sync)));
    }
    all
}
