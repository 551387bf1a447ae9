//! Values just inside and just outside of a limit.

use libos_ipc::wire::{
    DelegatedLock, DelegatedLockList, DelegatedLocks, FileLock, Frame, FrameReader, LockFamily,
    LockKind, Malformed, Message, SyncCode,
};

fn lock(start: u64, end: u64, write: bool) -> DelegatedLock {
    DelegatedLock {
        start,
        end,
        pid: 7,
        write,
    }
}

/// Returns the payload of a returned delegation.
fn payload(delegation: u64, count: u64, locks: &[(u64, u64, u32, i32)]) -> Vec<u8> {
    let mut payload = [delegation, count].map(u64::to_le_bytes).concat();
    for (start, end, pid, kind) in locks {
        payload.extend(start.to_le_bytes());
        payload.extend(end.to_le_bytes());
        payload.extend(pid.to_le_bytes());
        payload.extend(kind.to_le_bytes());
    }
    payload
}

fn read(payload: &[u8]) -> Result<Message<'_>, Malformed> {
    let (seq, code) = (0, 75);
    Frame { seq, code, payload }.message()
}

#[test]
fn a_list_of_delegated_locks_reads_back_as_written() {
    let mut list = DelegatedLockList::new();
    assert!(list.locks().is_empty());
    let locks = [lock(0, 9, true), lock(20, 20, false)];
    for lock in locks {
        assert!(list.push(lock));
    }
    assert!(!list.locks().is_empty());
    assert_eq!(list.locks().len(), 2);
    assert_eq!(list.locks().iter().collect::<Vec<_>>(), locks);
    assert!(format!("{:?}", list.locks()).contains("start: 20"));
    let message = Message::FileLockReturn {
        delegation: 5,
        locks: list.locks(),
    };
    assert_eq!(message.length(), DelegatedLocks::frame_length(2));
    let bytes = payload(5, 2, &[(0, 9, 7, 1), (20, 20, 7, 0)]);
    assert_eq!(read(&bytes), Ok(message));
    let others = [
        payload(5, 2, &[(0, 9, 7, 1), (20, 21, 7, 0)]),
        payload(5, 1, &[(0, 9, 7, 1)]),
    ];
    for other in &others {
        assert!(read(other).is_ok_and(|other| other != message));
    }
    list.clear();
    assert!(list.locks().is_empty());
    for at in 0..DelegatedLocks::MAX as u64 {
        assert!(list.push(lock(at, at, true)));
    }
    assert!(!list.push(lock(99, 99, true)));
}

#[test]
fn a_damaged_list_of_delegated_locks_is_refused() {
    let wrong = [
        (payload(5, 1, &[(0, 9, 7, 2)]), Malformed::BadValue),
        (payload(5, 1, &[(0, 9, 7, 3)]), Malformed::BadValue),
        (payload(5, 1, &[(9, 8, 7, 0)]), Malformed::BadValue),
        (payload(5, 2, &[(0, 9, 7, 0)]), Malformed::LengthsDisagree),
        (payload(5, 0, &[(0, 9, 7, 0)]), Malformed::LengthsDisagree),
    ];
    for (bytes, reason) in &wrong {
        assert_eq!(read(bytes), Err(*reason));
    }
    assert!(read(&payload(5, 1, &[(8, 8, 7, 0)])).is_ok());
}

#[test]
fn open_file_messages_state_holder_and_direction() {
    let of_clients: Vec<_> = SyncCode::ALL
        .iter()
        .map(|code| code.is_for_server())
        .collect();
    assert_eq!(of_clients, [true, false, true, false, true, false]);
}

#[test]
fn an_unknown_message_has_a_code_that_is_unknown() {
    let mut buffer = [0; 32];
    for code in 0..=u8::MAX {
        let is_written = Message::Unknown(code).encode(0, &mut buffer).is_ok();
        // 0 to 17, 64 to 83, and some from 86 on, are defined.
        let is_free = matches!(code, 18..=63 | 84..=85 | 89..=95 | 98 | 103..=109 | 113..);
        assert_eq!(is_written, is_free, "{code}");
    }
}

#[test]
fn only_record_locks_can_be_delegated() {
    let delegate = |family| {
        Message::FileLockDelegate(FileLock {
            family,
            kind: LockKind::Write,
            start: 0,
            end: 9,
            pid: 1,
            handle: 1,
            wait: false,
            path: b"file",
        })
    };
    let mut buffer = [0; 128];
    for &family in LockFamily::ALL {
        let is_written = delegate(family).encode(1, &mut buffer).is_ok();
        assert_eq!(is_written, family == LockFamily::Posix, "{family:?}");
    }
}

#[test]
fn a_reader_with_room_for_a_header_only_reads_one() {
    let mut buffer = [0; 17];
    let mut reader = FrameReader::new(&mut buffer);
    assert!(reader.is_empty());
    reader.space()[..3].copy_from_slice(&[17, 0, 0]);
    reader.mark_filled(3);
    assert!(!reader.is_empty());
    assert_eq!(reader.peek().map(|frame| frame.is_none()), Ok(true));
    reader.space().copy_from_slice(&[0; 14]);
    reader.mark_filled(14);
    let frame = reader.peek().unwrap().unwrap();
    assert_eq!((frame.length(), frame.payload), (17, &[][..]));
    reader.skip(17);
    assert!(reader.is_empty());
    // One byte less leaves no room for a lock.
    let mut buffer = [0; 16];
    let mut reader = FrameReader::new(&mut buffer);
    reader.space()[0] = 17;
    reader.mark_filled(1);
    assert_eq!(reader.peek().err(), Some(Malformed::TooLong));
}
