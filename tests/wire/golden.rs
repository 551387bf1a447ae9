//! Every code and every answer against bytes written by hand from the protocol's table, not from
//! the crate's own structs.

use crate::{answered, encoded, with_frame};
use libos_ipc::wire::{
    Answer, DelegatedLock, DelegatedLockList, DismissReason, Dismissal, EndQuery, ExitReport,
    Expected, FileLock, Frame, Heartbeat, HeirList, HeirReady, HeldLock, Hello, Holding, IdRange,
    KillTarget, LimitFlags, LockFamily, LockKind, Malformed, Message, MetaCode, NewLeader,
    PeerLimits, PidKill, Process, ProcessChange, ProcessFlags, ProcessNote, ProcessQuery,
    ProcessState, Rejoin, Rejoined, RelativeNote, Resignation, SuccessionMode, Sync, SyncCode,
    SyncNote, SyncState, codes,
};
use libos_ipc::{Errno, Pid, Vmid};

const SEQ: u64 = 0x0102_0304_0506_0708;

/// Makes a frame of `size` bytes that is zero except for the header and these bytes at these
/// offsets of the payload.
fn frame(size: u64, code: u8, fields: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(size).unwrap()];
    bytes[0..8].copy_from_slice(&size.to_le_bytes());
    bytes[8..16].copy_from_slice(&[8, 7, 6, 5, 4, 3, 2, 1]);
    bytes[16] = code;
    for (offset, field) in fields {
        bytes[17 + offset..17 + offset + field.len()].copy_from_slice(field);
    }
    bytes
}

/// Checks that the message encodes to exactly these bytes, and that they decode to it.
fn is(message: Message<'_>, bytes: &[u8]) {
    assert_eq!(encoded(&message, SEQ), bytes, "{message:?}");
    assert_eq!(message.code(), bytes[16]);
    with_frame(bytes, |frame| {
        assert_eq!((frame.seq, frame.code), (SEQ, message.code()));
        assert_eq!(frame.message(), Ok(message));
    });
}

/// Checks that the answer encodes to exactly these bytes, and that they decode to it.
fn answers(answer: Answer<'_>, expected: Expected, bytes: &[u8]) {
    assert_eq!(answered(&answer, SEQ), bytes, "{answer:?}");
    with_frame(bytes, |frame| {
        assert_eq!(frame.seq, SEQ);
        assert_eq!(frame.message(), Ok(Message::Response(&bytes[17..])));
        assert_eq!(Answer::decode(expected, frame.payload), Ok(answer));
    });
}

#[test]
fn a_whole_frame_has_the_golden_bytes() {
    let bytes = [
        21, 0, 0, 0, 0, 0, 0, 0, // size
        8, 7, 6, 5, 4, 3, 2, 1, // seq
        6, // code
        0x78, 0x56, 0x34, 0x12, // id
    ];
    is(Message::GetIdOwner(0x1234_5678), &bytes);
}

#[test]
fn messages_without_payload_have_the_golden_bytes() {
    is(Message::GetNewVmid, &frame(17, 1, &[]));
    is(Message::AllocIdRange, &frame(17, 3, &[]));
    let free = (18..64).chain([84, 85]).chain(89..=95).chain([98]);
    for code in free.chain(103..=109).chain(113..=255) {
        is(Message::Unknown(code), &frame(17, code, &[]));
    }
}

#[test]
fn response_has_the_expected_bytes() {
    is(Message::Response(&[]), &frame(17, 0, &[]));
    is(Message::Response(b"abc"), &frame(20, 0, &[(0, b"abc")]));
}

#[test]
fn child_exit_has_the_expected_bytes() {
    let exit = ExitReport {
        parent_pid: 0x11,
        pid: 0x2222,
        uid: 0x33_3333,
        code: 4,
        signal: 30,
    };
    let fields: &[(usize, &[u8])] = &[
        (0, &[0x11, 0, 0, 0]),
        (4, &[0x22, 0x22, 0, 0]),
        (8, &[0x33, 0x33, 0x33, 0]),
        (12, &[4, 0, 0, 0]),
        (16, &[30, 0, 0, 0]),
    ];
    is(Message::ChildExit(exit), &frame(17 + 20, 2, fields));
}

#[test]
fn ids_has_the_expected_bytes() {
    let range = IdRange {
        start: 0x0102,
        end: 0xFFFF_FFFE,
    };
    let fields: &[(usize, &[u8])] = &[(0, &[2, 1, 0, 0]), (4, &[0xFE, 0xFF, 0xFF, 0xFF])];
    is(Message::ReleaseIdRange(range), &frame(17 + 8, 4, fields));
    is(
        Message::ChangeIdOwner {
            id: 0x0102,
            owner: 0xFFFF_FFFE,
        },
        &frame(17 + 8, 5, fields),
    );
    is(Message::GetIdOwner(0x0102), &frame(17 + 4, 6, &fields[..1]));
    is(
        Message::FileLockClearPid(0x0102),
        &frame(17 + 4, 17, &fields[..1]),
    );
    // The decoder does not check whether an ID is valid.
    is(Message::GetIdOwner(0), &frame(17 + 4, 6, &[]));
}

#[test]
fn pid_kill_has_the_expected_bytes() {
    let targets = [
        KillTarget::Thread,
        KillTarget::Process,
        KillTarget::Group,
        KillTarget::All,
    ];
    for (number, target) in (0..).zip(targets) {
        let kill = PidKill {
            sender: 1,
            pid: 0x0200,
            id: 0x03_0000,
            signal: -2,
            target,
        };
        let fields: &[(usize, &[u8])] = &[
            (0, &[1]),
            (4, &[0, 2]),
            (8, &[0, 0, 3]),
            (12, &[0xFE, 0xFF, 0xFF, 0xFF]),
            (16, &[number]),
        ];
        is(Message::PidKill(kill), &frame(17 + 20, 7, fields));
    }
}

#[test]
fn pid_get_meta_has_the_expected_bytes() {
    let codes = [
        MetaCode::Credentials,
        MetaCode::Executable,
        MetaCode::WorkingDirectory,
        MetaCode::Root,
    ];
    for (number, code) in (0..).zip(codes) {
        let fields: &[(usize, &[u8])] = &[(0, &[9, 8, 7, 6]), (4, &[number])];
        is(
            Message::PidGetMeta {
                pid: 0x0607_0809,
                code,
            },
            &frame(17 + 8, 8, fields),
        );
    }
}

#[test]
fn sync_has_the_expected_bytes() {
    let kinds = [
        SyncCode::RequestUpgrade,
        SyncCode::RequestDowngrade,
        SyncCode::RequestClose,
        SyncCode::ConfirmUpgrade,
        SyncCode::ConfirmDowngrade,
        SyncCode::ConfirmClose,
    ];
    let states = [
        SyncState::None,
        SyncState::Invalid,
        SyncState::Shared,
        SyncState::Exclusive,
    ];
    for (code, kind) in (9..).zip(kinds) {
        for (number, state) in (0..).zip(states) {
            let id = 0x8877_6655_4433_2211;
            let head: &[(usize, &[u8])] = &[
                (0, &[0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]),
                (16, &[number]),
            ];
            let empty = Message::Sync(
                kind,
                Sync {
                    id,
                    state,
                    data: &[],
                },
            );
            is(empty, &frame(17 + 24, code, head));
            let full = Message::Sync(
                kind,
                Sync {
                    id,
                    state,
                    data: b"data!",
                },
            );
            let fields = [head, &[(8, &[5]), (20, b"data!")]].concat();
            is(full, &frame(17 + 24 + 5, code, &fields));
        }
    }
}

#[test]
fn file_lock_has_the_expected_bytes() {
    for (family_number, family) in [(1, LockFamily::Posix), (2, LockFamily::Flock)] {
        for (number, kind) in (0..).zip([LockKind::Read, LockKind::Write, LockKind::Unlock]) {
            for (wait_number, wait) in [(0, false), (1, true)] {
                let mut lock = FileLock {
                    family,
                    kind,
                    start: 0x0A0B,
                    end: u64::MAX,
                    pid: 0x0C0D_0E0F,
                    handle: 0x1112_1314_1516_1718,
                    wait,
                    path: b"/dir/file",
                };
                let fields: &[(usize, &[u8])] = &[
                    (0, &[family_number]),
                    (4, &[number]),
                    (8, &[0x0B, 0x0A]),
                    (16, &[0xFF; 8]),
                    (24, &[0x0F, 0x0E, 0x0D, 0x0C]),
                    (32, &[0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11]),
                    (40, &[wait_number]),
                    (41, b"/dir/file"),
                ];
                is(
                    Message::FileLockSet(lock),
                    &frame(17 + 48 + 9 + 1, 15, fields),
                );
                is(
                    Message::FileLockGet(lock),
                    &frame(17 + 48 + 9 + 1, 16, fields),
                );
                lock.path = b"";
                is(
                    Message::FileLockSet(lock),
                    &frame(17 + 48 + 1, 15, &fields[..7]),
                );
            }
        }
    }
}

#[test]
fn small_answers_have_the_expected_bytes() {
    let number: &[(usize, &[u8])] = &[(0, &[4, 3, 2, 1])];
    let minus_three: &[(usize, &[u8])] = &[(0, &[0xFD, 0xFF, 0xFF, 0xFF])];
    answers(Answer::Empty, Expected::StatusOrEmpty, &frame(17, 0, &[]));
    answers(
        Answer::Vmid(0x0102_0304),
        Expected::Vmid,
        &frame(21, 0, number),
    );
    answers(
        Answer::Owner(0x0102_0304),
        Expected::Owner,
        &frame(21, 0, number),
    );
    answers(Answer::Owner(0), Expected::Owner, &frame(21, 0, &[]));
    answers(
        Answer::Status(Err(Errno::ESRCH)),
        Expected::Status,
        &frame(21, 0, minus_three),
    );
    answers(
        Answer::Status(Err(Errno::ESRCH)),
        Expected::StatusOrEmpty,
        &frame(21, 0, minus_three),
    );
    let range: &[(usize, &[u8])] = &[(0, &[33]), (4, &[64])];
    let ids = IdRange { start: 33, end: 64 };
    answers(
        Answer::IdRange(ids),
        Expected::IdRange,
        &frame(25, 0, range),
    );
    answers(
        Answer::IdRange(IdRange::NONE),
        Expected::IdRange,
        &frame(25, 0, &[]),
    );
}

#[test]
fn meta_answer_has_the_expected_bytes() {
    let credentials = [0xE8, 3, 0, 0, 0xE9, 3, 0, 0];
    let fields: &[(usize, &[u8])] = &[(0, &[8]), (12, &credentials)];
    let answer = Answer::Meta(Ok(&credentials));
    answers(answer, Expected::Meta, &frame(17 + 12 + 8, 0, fields));
    let fields: &[(usize, &[u8])] = &[(8, &[0xFE, 0xFF, 0xFF, 0xFF])];
    let answer = Answer::Meta(Err(Errno::ENOENT));
    answers(answer, Expected::Meta, &frame(17 + 12, 0, fields));
}

#[test]
fn lock_answer_has_the_expected_bytes() {
    for (write, kind) in [(false, 0), (true, 1)] {
        let held = HeldLock {
            family: LockFamily::Flock,
            write,
            start: 0x0A0B,
            end: 0x0C0D,
            pid: 0x0E0F,
            handle: 0x1011,
        };
        let fields: &[(usize, &[u8])] = &[
            (4, &[2]),
            (8, &[kind]),
            (16, &[0x0B, 0x0A]),
            (24, &[0x0D, 0x0C]),
            (32, &[0x0F, 0x0E]),
            (40, &[0x11, 0x10]),
        ];
        let answer = Answer::Lock(Ok(Some(held)));
        answers(answer, Expected::Lock, &frame(17 + 48, 0, fields));
    }
    let free = frame(17 + 48, 0, &[(8, &[2])]);
    answers(Answer::Lock(Ok(None)), Expected::Lock, &free);
    let failed = frame(17 + 48, 0, &[(0, &[0xEA, 0xFF, 0xFF, 0xFF])]);
    answers(Answer::Lock(Err(Errno::EINVAL)), Expected::Lock, &failed);
}

#[test]
fn a_status_is_an_error_number_whatever_its_sign_if_success_has_data() {
    for (status, number) in [
        (-22, 22),
        (22, 22),
        (i32::MAX, i32::MAX),
        (i32::MIN, i32::MAX),
    ] {
        let mut payload = [0; 48];
        payload[..4].copy_from_slice(&i32::to_le_bytes(status));
        let lock = Answer::Lock(Err(Errno::new(number).unwrap()));
        assert_eq!(Answer::decode(Expected::Lock, &payload), Ok(lock));
        let end = Answer::End(Err(Errno::new(number).unwrap()));
        assert_eq!(Answer::decode(Expected::End, &payload[..24]), Ok(end));
        // The number of a success is that of another kind of answer.
        let result = u32::try_from(status).map_err(|_| Errno::new(number).unwrap());
        let answer = Answer::decode(Expected::Status, &payload[..4]);
        assert_eq!(answer, Ok(Answer::Status(result)));
    }
}

#[test]
fn a_lock_answer_without_a_lock_ignores_the_other_fields() {
    // A failure leaves the other fields unset.
    let mut payload = [0xFF; 48];
    payload[0..4].copy_from_slice(&(-22i32).to_le_bytes());
    assert_eq!(
        Answer::decode(Expected::Lock, &payload),
        Ok(Answer::Lock(Err(Errno::EINVAL)))
    );
    // A test without a conflicting lock does, too.
    payload[0..4].fill(0);
    payload[8..12].copy_from_slice(&[2, 0, 0, 0]);
    assert_eq!(
        Answer::decode(Expected::Lock, &payload),
        Ok(Answer::Lock(Ok(None)))
    );
}

#[test]
fn the_extensions_for_processes_have_the_expected_bytes() {
    let hello = Hello {
        version: 1,
        features: 0x0202,
        pid: 0x0303,
        parent: 0x0404,
    };
    is(
        Message::Hello(hello),
        &frame(
            33,
            64,
            &[(0, &[1]), (4, &[2, 2]), (8, &[3, 3]), (12, &[4, 4])],
        ),
    );
    is(
        Message::ProcessStart {
            vmid: 0x0101,
            pid: 0x0202,
        },
        &frame(25, 65, &[(0, &[1, 1]), (4, &[2, 2])]),
    );
    is(
        Message::ProcessReap(0x0101),
        &frame(21, 66, &[(0, &[1, 1])]),
    );
    is(
        Message::ProcessChange {
            what: ProcessChange::Stopped,
            pid: 0x0101,
            value: 0x0202,
        },
        &frame(29, 67, &[(0, &[4]), (4, &[1, 1]), (8, &[2, 2])]),
    );
    let query = ProcessQuery {
        pid: 0x0101,
        group: 0x0202,
        parent: 0x0303,
        after: 0x0404,
    };
    is(
        Message::ProcessQuery(query),
        &frame(
            41,
            68,
            &[(0, &[1, 1]), (4, &[2, 2]), (8, &[3, 3]), (16, &[4, 4])],
        ),
    );
    let process = Process {
        pid: Pid::new(0x0101).unwrap(),
        vmid: Vmid::new(0x0202),
        parent: Pid::new(0x0303),
        group: Pid::new(0x0404).unwrap(),
        session: Pid::new(0x0505).unwrap(),
        state: ProcessState::Zombie,
        flags: ProcessFlags::STOPPED,
        start_seq: 0x0606,
    };
    answers(
        Answer::Process(Ok(process)),
        Expected::Process,
        &frame(
            57,
            0,
            &[
                (4, &[1, 1]),
                (8, &[2, 2]),
                (12, &[3, 3]),
                (16, &[4, 4]),
                (20, &[5, 5]),
                (24, &[2]),
                (28, &[4]),
                (32, &[6, 6]),
            ],
        ),
    );
    answers(
        Answer::Process(Err(Errno::ESRCH)),
        Expected::Process,
        &frame(57, 0, &[(0, &[0xFD, 0xFF, 0xFF, 0xFF])]),
    );
}

#[test]
fn the_extensions_for_file_locks_have_the_expected_bytes() {
    let lock = FileLock {
        family: LockFamily::Ofd,
        kind: LockKind::Write,
        start: 0x0101,
        end: 0x0202,
        pid: 0,
        handle: 0x0303,
        wait: true,
        path: b"a",
    };
    let body: &[(usize, &[u8])] = &[
        (0, &[3]),
        (4, &[1]),
        (8, &[1, 1]),
        (16, &[2, 2]),
        (32, &[3, 3]),
        (40, &[1, b'a']),
    ];
    is(Message::FileLockSet(lock), &frame(67, 69, body));
    is(Message::FileLockGet(lock), &frame(67, 70, body));
    is(
        Message::FileLockCancel(0x0101),
        &frame(25, 71, &[(0, &[1, 1])]),
    );
    is(
        Message::FileHandle {
            handle: 0x0101,
            held: true,
            vmid: 0x0202,
        },
        &frame(33, 72, &[(0, &[1, 1]), (8, &[1]), (12, &[2, 2])]),
    );
    is(
        Message::FileGiven {
            handle: 0x0101,
            vmid: 0x0202,
        },
        &frame(29, 97, &[(0, &[1, 1]), (8, &[2, 2])]),
    );
    let record = FileLock {
        family: LockFamily::Posix,
        pid: 4,
        ..lock
    };
    let body: &[(usize, &[u8])] = &[
        (0, &[1]),
        (4, &[1]),
        (8, &[1, 1]),
        (16, &[2, 2]),
        (24, &[4]),
        (32, &[3, 3]),
        (40, &[1, b'a']),
    ];
    is(Message::FileLockDelegate(record), &frame(67, 73, body));
    is(
        Message::FileLockRecall(0x0303),
        &frame(25, 74, &[(0, &[3, 3])]),
    );
    let mut delegated = DelegatedLockList::new();
    for (pid, write) in [(4, false), (5, true)] {
        assert!(delegated.push(DelegatedLock {
            start: 0x0101,
            end: 0x0202,
            pid,
            write,
        }));
    }
    let body: &[(usize, &[u8])] = &[
        (0, &[3, 3]),
        (8, &[2]),
        (16, &[1, 1]),
        (24, &[2, 2]),
        (32, &[4]),
        (40, &[1, 1]),
        (48, &[2, 2]),
        (56, &[5]),
        (60, &[1]),
    ];
    is(
        Message::FileLockReturn {
            delegation: 0x0303,
            locks: delegated.locks(),
        },
        &frame(81, 75, body),
    );
}

#[test]
fn the_extensions_for_relatives_have_the_expected_bytes() {
    is(
        Message::ProcessEnd(EndQuery {
            pid: 0x0101,
            group: 0x0202,
        }),
        &frame(25, 101, &[(0, &[1, 1]), (4, &[2, 2])]),
    );
    is(
        Message::ProcessNote(RelativeNote {
            note: ProcessNote::ParentEnded,
            pid: 0x0101,
            vmid: 0x0202,
        }),
        &frame(29, 102, &[(0, &[3]), (4, &[1, 1]), (8, &[2, 2])]),
    );
    let exit = ExitReport {
        parent_pid: 0x0101,
        pid: 0x0202,
        uid: 0x0303,
        code: 0x0404,
        signal: 0x0505,
    };
    let body: &[(usize, &[u8])] = &[
        (4, &[1, 1]),
        (8, &[2, 2]),
        (12, &[3, 3]),
        (16, &[4, 4]),
        (20, &[5, 5]),
    ];
    answers(Answer::End(Ok(exit)), Expected::End, &frame(41, 0, body));
    answers(
        Answer::End(Err(Errno::ECHILD)),
        Expected::End,
        &frame(41, 0, &[(0, &[0xF6, 0xFF, 0xFF, 0xFF])]),
    );
}

#[test]
fn the_extension_for_sync_handles_has_the_expected_bytes() {
    let note = SyncNote::NoRoom;
    is(
        Message::SyncNote { id: 0x0101, note },
        &frame(29, 76, &[(0, &[1, 1]), (8, &[2])]),
    );
}

#[test]
fn the_extension_for_heartbeats_has_the_expected_bytes() {
    let beat = Heartbeat {
        sent_at: 0x0101,
        limit: 0x0202,
    };
    let body: &[(usize, &[u8])] = &[(0, &[1, 1]), (8, &[2, 2])];
    is(Message::Heartbeat(beat), &frame(33, 110, body));
}

#[test]
fn the_extensions_for_fencing_numbers_have_the_expected_bytes() {
    let block = Message::FencingBlock {
        holding: Holding::Lease,
        number: 0x0202,
    };
    is(block, &frame(33, 112, &[(0, &[1]), (8, &[2, 2])]));
    let lock = FileLock {
        family: LockFamily::Flock,
        kind: LockKind::Write,
        start: 0,
        end: u64::MAX,
        pid: 0x0101,
        handle: 0x0202,
        wait: false,
        path: b"a",
    };
    for family in LockFamily::ALL {
        let lock = FileLock {
            family: *family,
            ..lock
        };
        let set = FileLock {
            family: LockFamily::Flock,
            ..lock
        };
        let mut bytes = [0; 128];
        let length = Message::FileLockSet(set).encode(SEQ, &mut bytes).unwrap();
        // The payload is that of a request for the lock.
        bytes[16] = 111;
        bytes[17] = u8::try_from(family.number()).unwrap();
        is(Message::FencingNumber(lock), &bytes[..length]);
    }
    answers(
        Answer::Fencing(Ok(0x0101)),
        Expected::Fencing,
        &frame(33, 0, &[(8, &[1, 1])]),
    );
    answers(
        Answer::Fencing(Err(Errno::EPERM)),
        Expected::Fencing,
        &frame(33, 0, &[(0, &[0xFF, 0xFF, 0xFF, 0xFF])]),
    );
}

#[test]
fn the_extensions_for_heirs_have_the_expected_bytes() {
    let heirs = HeirList {
        epoch: 0x0101,
        config: 0x0202,
        heirs: [0, 0x0505, 0x0606, 0],
    };
    let body: &[(usize, &[u8])] = &[
        (0, &[1, 1]),
        (4, &[2, 2]),
        (12, &[3]),
        (20, &[5, 5]),
        (24, &[6, 6]),
    ];
    is(Message::Heirs(heirs), &frame(49, 77, body));
    is(Message::Log(&[]), &frame(17, 78, &[]));
    is(Message::Log(&[1, 2]), &frame(19, 78, &[(0, &[1, 2])]));
    is(Message::State(&[3, 4]), &frame(19, 79, &[(0, &[3, 4])]));
    let ready = HeirReady {
        op: 0x0101,
        digest: 0x0202,
    };
    let body: &[(usize, &[u8])] = &[(0, &[1, 1]), (8, &[2, 2])];
    is(Message::HeirReady(ready), &frame(33, 80, body));
    is(Message::Mark(0x0101), &frame(25, 86, &[(0, &[1, 1])]));
    let dismissal = Dismissal {
        reason: DismissReason::Left,
        epoch: 0x0202,
    };
    let body: &[(usize, &[u8])] = &[(0, &[5]), (4, &[2, 2])];
    is(Message::Dismiss(dismissal), &frame(25, 88, body));
}

#[test]
fn the_extensions_for_a_new_leader_have_the_expected_bytes() {
    let resignation = Resignation {
        epoch: 0x0101,
        heir: 0x0202,
        op: 0x0303,
    };
    let body: &[(usize, &[u8])] = &[(0, &[1, 1]), (4, &[2, 2]), (8, &[3, 3])];
    is(Message::Resign(resignation), &frame(33, 81, body));
    let leader = NewLeader {
        epoch: 0x0101,
        config: 0x0202,
        vmid: 0x0303,
        mode: SuccessionMode::Reclaim,
    };
    let body: &[(usize, &[u8])] = &[(0, &[1, 1]), (4, &[2, 2]), (8, &[3, 3]), (12, &[2])];
    is(Message::Leader(leader), &frame(33, 82, body));
    is(Message::WhoLeads, &frame(17, 87, &[]));
    let answer = Answer::Leader(leader);
    answers(answer, Expected::Leader, &frame(33, 0, body));
    let rejoin = Rejoin {
        epoch: 0x0101,
        config: 0x0202,
        pid: 0x0303,
        waiting: 0x0404,
        sent: 0x0505,
        received: 0x0606,
    };
    let body: &[(usize, &[u8])] = &[
        (0, &[1, 1]),
        (4, &[2, 2]),
        (8, &[3, 3]),
        (12, &[4, 4]),
        (16, &[5, 5]),
        (24, &[6, 6]),
    ];
    is(Message::Rejoin(rejoin), &frame(49, 83, body));
    let rejoined = |taken| {
        Answer::Rejoin(Rejoined {
            epoch: 0x0202,
            taken,
        })
    };
    let body: &[(usize, &[u8])] = &[(4, &[2, 2]), (8, &[1, 1])];
    let bytes = frame(33, 0, body);
    answers(rejoined(Ok(0x0101)), Expected::Rejoin, &bytes);
    let body: &[(usize, &[u8])] = &[(0, &[0xF5, 0xFF, 0xFF, 0xFF]), (4, &[2, 2])];
    let bytes = frame(33, 0, body);
    answers(rejoined(Err(Errno::EAGAIN)), Expected::Rejoin, &bytes);
}

#[test]
fn a_hello_states_whether_its_sender_can_lead_and_with_which_tables() {
    let hello = |features| Hello {
        features,
        ..Hello::NO_PROCESS
    };
    let bytes = frame(33, 64, &[(0, &[1]), (4, &[6, 3, 2, 1])]);
    let tables = 0xAA01_0203;
    let can_lead = Hello::features_to_lead(tables) | Hello::FOLLOWS_SUCCESSION;
    is(Message::Hello(hello(can_lead)), &bytes);
    assert_eq!(hello(can_lead).tables(), Some(0x01_0203));
    for features in [0, 1, Hello::FOLLOWS_SUCCESSION, !Hello::CAN_LEAD] {
        assert_eq!(hello(features).tables(), None, "{features}");
    }
}

#[test]
fn unknown_fields_of_limits_are_skipped() {
    let limits = PeerLimits {
        version: 1,
        flags: LimitFlags::USES_SYNC,
        frame_length: 0x0202,
        sync_data: 0x0303,
    };
    let body: &[(usize, &[u8])] = &[(0, &[1]), (4, &[1]), (8, &[2, 2]), (12, &[3, 3])];
    is(Message::Limits(limits), &frame(33, 96, body));
    // A later version has more fields, and more flags.
    let more: &[(usize, &[u8])] = &[
        (0, &[1]),
        (4, &[0xfd, 0xff]),
        (8, &[2, 2]),
        (12, &[3, 3]),
        (16, &[4]),
    ];
    let bytes = frame(40, 96, more);
    let payload = &bytes[17..];
    let read = |payload| {
        let (seq, code) = (0, 96);
        Frame { seq, code, payload }.message()
    };
    assert_eq!(read(payload), Ok(Message::Limits(limits)));
    assert_eq!(read(&payload[..15]), Err(Malformed::PayloadLength));
}

#[test]
fn the_extensions_for_signals_have_the_expected_bytes() {
    let kill = PidKill {
        sender: 0x0101,
        pid: 0x0202,
        id: 0x0303,
        signal: 40,
        target: KillTarget::Thread,
    };
    let body: &[(usize, &[u8])] = &[(0, &[1, 1]), (4, &[2, 2]), (8, &[3, 3]), (12, &[40])];
    let always = [body, &[(20, &[1])]].concat();
    is(
        Message::KillOrdered { kill, always: true },
        &frame(41, 99, &always),
    );
    let kill = PidKill {
        target: KillTarget::All,
        ..kill
    };
    let for_all = [body, &[(16, &[3])]].concat();
    is(Message::KillPassed(kill), &frame(37, 100, &for_all));
}

#[test]
fn requests_and_their_answers_have_the_expected_bytes() {
    let table = [
        (codes::GET_NEW_VMID, Expected::Vmid),
        (codes::ALLOC_ID_RANGE, Expected::IdRange),
        (codes::CHANGE_ID_OWNER, Expected::StatusOrEmpty),
        (codes::GET_ID_OWNER, Expected::Owner),
        (codes::PID_KILL, Expected::Status),
        (codes::PID_KILL_ORDERED, Expected::Status),
        (codes::PID_KILL_PASSED, Expected::Status),
        (codes::PID_GETMETA, Expected::Meta),
        (codes::FILE_LOCK_SET, Expected::Status),
        (codes::FILE_LOCK_GET, Expected::Lock),
        (codes::FILE_LOCK_CLEAR_PID, Expected::Status),
        (codes::FILE_LOCK_OFD_SET, Expected::Status),
        (codes::FILE_LOCK_OFD_GET, Expected::Lock),
        (codes::FILE_LOCK_DELEGATE, Expected::Status),
        (codes::FILE_HANDLE, Expected::Status),
        (codes::FILE_GIVEN, Expected::Status),
        (codes::PROCESS_START, Expected::Status),
        (codes::PROCESS_CHANGE, Expected::Status),
        (codes::PROCESS_QUERY, Expected::Process),
        (codes::PROCESS_END, Expected::End),
        (codes::FENCING_NUMBER, Expected::Fencing),
        (codes::FENCING_BLOCK, Expected::Fencing),
        (codes::REJOIN, Expected::Rejoin),
        (codes::WHO_LEADS, Expected::Leader),
    ];
    for code in 0..=255 {
        let row = table.iter().find(|row| row.0 == code).map(|row| row.1);
        assert_eq!(Expected::of(code), row, "code {code}");
    }
}
