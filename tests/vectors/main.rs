//! Every message and answer against the bytes that C code makes of it: `vectors.c`, compiled here.
#![allow(missing_docs)]

use libos_ipc::Errno;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use libos_ipc::wire::{
    Answer, ExitReport, Expected, FileLock, Frame, FrameReader, HeldLock, IdRange, KillTarget,
    LockFamily, LockKind, Message, MetaCode, PidKill, Sync, SyncCode, SyncState,
};

const SEQ: u64 = 0x0102_0304_0506_0708;

/// Returns the bytes that C makes, by name. None if there is no C compiler.
fn vectors() -> Option<BTreeMap<String, Vec<u8>>> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/vectors.c");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("vectors");
    let built = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .arg(source)
        .status();
    let Ok(built) = built else {
        assert!(std::env::var_os("CI").is_none(), "there is no `cc`");
        println!("skipped: there is no C compiler (`cc`)");
        return None;
    };
    assert!(built.success(), "it does not compile");
    let output = Command::new(program).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |line: &str| {
        let (name, digits) = line.split_once(' ').unwrap();
        let byte = |at: usize| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap();
        let bytes = (0..digits.len() / 2).map(byte).collect();
        (name.to_owned(), bytes)
    };
    Some(text.lines().map(line).collect())
}

fn messages() -> Vec<(&'static str, Message<'static>)> {
    let kill = |pid, id, signal, target| {
        Message::PidKill(PidKill {
            sender: 1,
            pid,
            id,
            signal,
            target,
        })
    };
    let meta = |code| Message::PidGetMeta { pid: 7, code };
    let sync = |code, state, data| {
        let id = 0x1112_1314_1516_1718;
        Message::Sync(code, Sync { id, state, data })
    };
    let lock = |family, kind, wait, path| FileLock {
        family,
        kind,
        start: 0x2122_2324_2526_2728,
        end: u64::MAX,
        pid: 0x3132_3334,
        handle: 0x4142_4344_4546_4748,
        wait,
        path,
    };
    let exit = ExitReport {
        parent_pid: 1,
        pid: 2,
        uid: 1000,
        code: 3,
        signal: 9,
    };
    let (posix, flock) = (LockFamily::Posix, LockFamily::Flock);
    vec![
        ("get_new_vmid", Message::GetNewVmid),
        ("child_exit", Message::ChildExit(exit)),
        ("alloc_id_range", Message::AllocIdRange),
        (
            "release_id_range",
            Message::ReleaseIdRange(IdRange { start: 33, end: 64 }),
        ),
        (
            "change_id_owner",
            Message::ChangeIdOwner { id: 40, owner: 3 },
        ),
        ("get_id_owner", Message::GetIdOwner(4_194_303)),
        ("kill_thread", kill(2, 3, 10, KillTarget::Thread)),
        ("kill_process", kill(2, 2, 15, KillTarget::Process)),
        ("kill_pgroup", kill(5, 5, 64, KillTarget::Group)),
        ("kill_all", kill(0, 0, 1, KillTarget::All)),
        ("getmeta_cred", meta(MetaCode::Credentials)),
        ("getmeta_exec", meta(MetaCode::Executable)),
        ("getmeta_cwd", meta(MetaCode::WorkingDirectory)),
        ("getmeta_root", meta(MetaCode::Root)),
        (
            "sync_request_upgrade",
            sync(SyncCode::RequestUpgrade, SyncState::Exclusive, b""),
        ),
        (
            "sync_request_downgrade",
            sync(SyncCode::RequestDowngrade, SyncState::Invalid, b""),
        ),
        (
            "sync_request_close",
            sync(SyncCode::RequestClose, SyncState::Exclusive, b"data"),
        ),
        (
            "sync_confirm_upgrade",
            sync(SyncCode::ConfirmUpgrade, SyncState::Shared, b"datadata"),
        ),
        (
            "sync_confirm_downgrade",
            sync(SyncCode::ConfirmDowngrade, SyncState::Shared, b"d"),
        ),
        (
            "sync_confirm_close",
            sync(SyncCode::ConfirmClose, SyncState::None, b""),
        ),
        (
            "lock_set",
            Message::FileLockSet(lock(posix, LockKind::Write, true, b"/data/accounts")),
        ),
        (
            "lock_drop",
            Message::FileLockSet(lock(flock, LockKind::Unlock, false, b"")),
        ),
        (
            "lock_get",
            Message::FileLockGet(lock(posix, LockKind::Read, false, b"a")),
        ),
        ("lock_clear_pid", Message::FileLockClearPid(99)),
    ]
}

fn answers() -> Vec<(&'static str, Expected, Answer<'static>)> {
    let held = HeldLock {
        family: LockFamily::Posix,
        write: true,
        start: 5,
        end: u64::MAX,
        pid: 77,
        handle: 0,
    };
    vec![
        ("answer_vmid", Expected::Vmid, Answer::Vmid(2)),
        (
            "answer_id_range",
            Expected::IdRange,
            Answer::IdRange(IdRange { start: 65, end: 96 }),
        ),
        (
            "answer_change_id_owner",
            Expected::StatusOrEmpty,
            Answer::Empty,
        ),
        ("answer_id_owner", Expected::Owner, Answer::Owner(3)),
        (
            "answer_kill",
            Expected::Status,
            Answer::Status(Err(Errno::ESRCH)),
        ),
        (
            "answer_cred",
            Expected::Meta,
            Answer::Meta(Ok(&[0xE8, 3, 0, 0, 0xE9, 3, 0, 0])),
        ),
        (
            "answer_path",
            Expected::Meta,
            Answer::Meta(Ok(b"/bin/sh\0")),
        ),
        (
            "answer_no_pid",
            Expected::Meta,
            Answer::Meta(Err(Errno::ESRCH)),
        ),
        (
            "answer_lock_set",
            Expected::Status,
            Answer::Status(Err(Errno::EAGAIN)),
        ),
        ("answer_lock_free", Expected::Lock, Answer::Lock(Ok(None))),
        (
            "answer_lock_held",
            Expected::Lock,
            Answer::Lock(Ok(Some(held))),
        ),
        (
            "answer_lock_failed",
            Expected::Lock,
            Answer::Lock(Err(Errno::ENOLCK)),
        ),
    ]
}

/// Parses a whole frame.
fn with_frame<T>(bytes: &[u8], read: impl FnOnce(Frame<'_>) -> T) -> T {
    let mut buffer = bytes.to_vec();
    let mut reader = FrameReader::new(&mut buffer);
    reader.mark_filled(bytes.len());
    read(reader.peek().unwrap().unwrap())
}

#[test]
fn c_and_this_crate_encode_and_decode_alike() {
    let Some(mut vectors) = vectors() else {
        return;
    };
    let mut codes: Vec<u8> = Vec::new();
    for (name, message) in messages() {
        let bytes = vectors.remove(name).expect(name);
        let mut ours = vec![0xEE; message.length()];
        assert_eq!(message.encode(SEQ, &mut ours), Ok(ours.len()), "{name}");
        assert_eq!(ours, bytes, "{name}");
        with_frame(&bytes, |frame| {
            assert_eq!(frame.seq, SEQ, "{name}");
            assert_eq!(frame.message(), Ok(message), "{name}");
        });
        codes.push(message.code());
    }
    codes.dedup();
    assert_eq!(codes, (1..=17).collect::<Vec<u8>>(), "every code");
    for (name, expected, answer) in answers() {
        let bytes = vectors.remove(name).expect(name);
        let mut ours = vec![0xEE; answer.length()];
        assert_eq!(answer.encode(SEQ, &mut ours), Ok(ours.len()), "{name}");
        assert_eq!(ours, bytes, "{name}");
        with_frame(&bytes, |frame| {
            assert_eq!(
                Answer::decode(expected, frame.payload),
                Ok(answer),
                "{name}"
            );
        });
    }
    assert!(vectors.is_empty(), "nothing else: {:?}", vectors.keys());
}
