//! Logs that no leader writes: the heir closes them, and is no heir any more. And a log that never ends.

use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use libos_ipc::host::HostNode;
use libos_ipc::leader::{ImageCursor, Leader, Op};
use libos_ipc::store::Arena;
use libos_ipc::testing::leader_capacities;
use libos_ipc::wire::{
    FrameReader, HeirList, HeirReady, Hello, KillTarget, Message, PidKill, Resignation,
};
use libos_ipc::{Config, Error, Identity, Refusal, Vmid};
use tempfile::TempDir;

use crate::claims::{HELLO, bytes_of, open, rejoin, send};
use crate::family::{CONFIG, LONG, long, vmid, wait_until};
use crate::peer::assert_closed;

/// The length of the slices of an image.
const SLICE: usize = 4096;

/// The key of the log: stated on the ordinary stream, and the beginning of the log.
const KEY: Message<'static> = Message::Log(&[7; 8]);

/// Process 2, the heir. Its leader is a socket of the test, and has applied no operation yet.
struct Heir {
    base: PathBuf,
    node: HostNode,
    log: UnixStream,
    _to: UnixStream,
    _from: UnixStream,
    _dir: TempDir,
}

impl Heir {
    fn new() -> Heir {
        Heir::after(CONFIG, |_, _| ())
    }

    /// Like [`Heir::new`], with `act` before the leader states the key of its log.
    fn after(config: Config, act: impl FnOnce(&Path, &HostNode)) -> Heir {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("f");
        let listener = listen(&base, 1);
        let identity = Identity::child(vmid(2), Vmid::LEADER);
        let node = HostNode::start(&base, identity, config).unwrap();
        let mut to = open(&base, 1, 2);
        let features = Hello::FOLLOWS_SUCCESSION;
        let hello = Hello {
            features,
            ..Hello::NO_PROCESS
        };
        send(&mut to, &Message::Hello(hello));
        is_known(&node);
        act(&base, &node);
        let mut log = open(&base, 1, 2);
        send(&mut log, &KEY);
        send(&mut to, &KEY);
        let capacities = leader_capacities(&config);
        let mut memory = Box::new_uninit_slice(Leader::bytes(&capacities));
        let leader = Leader::new(&mut Arena::new(&mut memory), &capacities).unwrap();
        let mut cursor = Some(ImageCursor::START);
        while let Some(at) = cursor {
            let mut slice = vec![0; SLICE];
            let (length, next) = leader.save_slice(at, &mut slice).unwrap();
            send(&mut log, &Message::State(&slice[..length]));
            cursor = next;
        }
        send(&mut log, &Message::State(&[]));
        let mut from = accept(&listener);
        assert_eq!(read_ready(&mut from).digest, leader.digest());
        let mut heir = Heir {
            base,
            node,
            log,
            _to: to,
            _from: from,
            _dir: dir,
        };
        heir.write_record(&list(1, 2));
        heir
    }

    /// Writes a record to the log.
    fn write_record(&mut self, record: &Message<'_>) {
        send(&mut self.log, record);
    }

    /// Writes an operation to the log.
    fn write_operation(&mut self, op: &Op<'_>) {
        let mut bytes = [0; 256];
        let length = op.encode(&mut bytes).unwrap();
        self.write_record(&Message::Log(&bytes[..length]));
    }

    /// Waits until the heir closes the log.
    fn await_close(&mut self) {
        match self.log.read(&mut [0]) {
            Ok(0) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("{other:?}"),
        }
    }

    /// Connects a member, and waits until the heir has applied so many operations.
    fn await_operations(&mut self, operations: u64) {
        self.write_operation(&Op::Connected(vmid(3)));
        wait_until("the heir has all", || {
            self.node.tables_state().unwrap().0 == operations
        });
    }
}

/// Waits until the node has got the HELLO of its leader: the next stream in the name of that is a log, in whatever order
/// the node notices new streams and their first bytes.
fn is_known(node: &HostNode) {
    wait_until("the leader is known", || node.statistics().frames_in > 0);
}

/// Accepts a stream, which must come.
fn accept(listener: &UnixListener) -> UnixStream {
    listener.set_nonblocking(true).unwrap();
    let accepted = RefCell::new(None);
    wait_until("a stream comes", || {
        *accepted.borrow_mut() = listener.accept().ok();
        accepted.borrow().is_some()
    });
    let (stream, _) = accepted.into_inner().unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

/// Listens as that process.
fn listen(base: &Path, number: u32) -> UnixListener {
    UnixListener::bind(format!("{}.{number}", base.display())).unwrap()
}

/// A member of the family, which has sent so many frames, rejoins after the end of the leader, and gets that many signals.
fn check_signals(base: &Path, (number, listener): (u32, &UnixListener), sent: u64, expected: u32) {
    let mut to = open(base, number, 2);
    send(&mut to, &HELLO);
    let mut from = accept(listener);
    from.read_exact(&mut [0; 4]).unwrap();
    let mut buffer = vec![0; 1 << 16];
    let mut frames = FrameReader::new(&mut buffer);
    let taken = rejoin(&mut to, (&mut from, &mut frames), 7, 1, sent);
    assert_eq!(taken, Ok(sent));
    let mut signals = 0;
    for seq in 8..10 {
        let request = Message::GetIdOwner(1);
        to.write_all(&bytes_of(seq, &request)).unwrap();
        let mut is_answered = false;
        while !is_answered || signals < expected {
            let Some(frame) = frames.peek().unwrap() else {
                let count = from.read(frames.space()).unwrap();
                assert_ne!(count, 0, "the stream ends");
                frames.mark_filled(count);
                continue;
            };
            is_answered |= frame.seq == seq;
            let message = frame.message();
            let is_signal = matches!(message, Ok(Message::PidKill(_) | Message::KillPassed(_)));
            signals += u32::from(is_signal);
            let length = frame.length();
            frames.skip(length);
        }
    }
    assert_eq!(signals, expected, "process {number}");
}

#[test]
fn signal_for_all_reaches_each_member_once_if_the_leader_dies_before_all_of_it_is_in_the_log() {
    let kill = PidKill {
        sender: 33,
        pid: 0,
        id: 0,
        signal: 15,
        target: KillTarget::All,
    };
    let from = vmid(3);
    for written in 0..=3 {
        let mut heir = Heir::new();
        for member in 2..6 {
            heir.write_operation(&Op::Connected(vmid(member)));
        }
        heir.write_operation(&Op::SignalAll {
            from,
            seq: 5,
            kill,
            result: Ok(()),
        });
        for member in [2, 4, 5].into_iter().take(written) {
            heir.write_operation(&Op::Signal(vmid(member), kill));
        }
        let Heir {
            base,
            node,
            log,
            _to: to,
            _from: from_heir,
            _dir,
        } = heir;
        let listeners = [3, 4, 5].map(|number| listen(&base, number));
        drop((log, to, from_heir));
        wait_until("the heir leads", || node.leader() == vmid(2));
        let [sender, fourth, fifth] = &listeners;
        // The sender does not send it again.
        check_signals(&base, (3, sender), 1, 0);
        check_signals(&base, (4, fourth), 0, 1);
        check_signals(&base, (5, fifth), 0, 1);
    }
}

/// Returns a list of heirs with one heir.
fn list(epoch: u32, heir: u32) -> Message<'static> {
    Message::Heirs(HeirList {
        epoch,
        config: 1,
        heirs: [heir, 0, 0, 0],
    })
}

/// Reads up to the heir's confirmation that it has the state.
fn read_ready(from: &mut UnixStream) -> HeirReady {
    from.read_exact(&mut [0; 4]).unwrap();
    let mut buffer = vec![0; 1 << 16];
    let mut frames = FrameReader::new(&mut buffer);
    loop {
        while let Some(frame) = frames.peek().unwrap() {
            if let Ok(Message::HeirReady(ready)) = frame.message() {
                return ready;
            }
            let length = frame.length();
            frames.skip(length);
        }
        let count = from.read(frames.space()).unwrap();
        assert_ne!(count, 0, "the heir has not confirmed the state");
        frames.mark_filled(count);
    }
}

#[test]
fn heir_closes_a_log_with_a_record_that_no_leader_writes() {
    let resignation = Resignation {
        epoch: 1,
        heir: 2,
        op: 1,
    };
    let false_records = [
        // The family has one leader until the log ends.
        vec![Op::Succeed { to: vmid(2) }],
        vec![Op::Succeed { to: vmid(9) }],
    ];
    for operations in &false_records {
        let mut heir = Heir::new();
        heir.write_operation(&Op::Connected(vmid(3)));
        for op in operations {
            heir.write_operation(op);
        }
        heir.await_close();
        assert_eq!(heir.node.tables_state().unwrap().0, 1);
    }
    let records = [
        Message::Log(&[0xFF; 40]),
        Message::Log(&[]),
        Message::State(&[9; 64]),
        list(2, 2),
        list(1, 3),
        Message::Resign(Resignation {
            op: 2,
            ..resignation
        }),
        Message::Resign(Resignation {
            epoch: 2,
            ..resignation
        }),
        Message::Resign(Resignation {
            heir: 3,
            ..resignation
        }),
        Message::GetNewVmid,
    ];
    for record in &records {
        let mut heir = Heir::new();
        heir.write_operation(&Op::Connected(vmid(3)));
        heir.write_record(record);
        heir.await_close();
        assert_eq!(heir.node.tables_state().unwrap().0, 1, "{record:?}");
    }
    // Nothing comes after a resignation.
    let mut heir = Heir::new();
    heir.write_operation(&Op::Connected(vmid(3)));
    heir.log
        .write_all(&bytes_of(0, &Message::Resign(resignation)))
        .unwrap();
    heir.write_operation(&Op::Connected(vmid(4)));
    heir.await_close();
}

#[test]
fn member_that_is_given_bytes_that_are_no_state_closes_the_log() {
    for state in [&[9; 64][..], &[0; 5000], &[1]] {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("f");
        let _listener = UnixListener::bind(format!("{}.1", base.display())).unwrap();
        let identity = Identity::child(vmid(2), Vmid::LEADER);
        let node = HostNode::start(&base, identity, CONFIG).unwrap();
        let mut to = open(&base, 1, 2);
        send(&mut to, &Message::Hello(Hello::NO_PROCESS));
        is_known(&node);
        let mut log = open(&base, 1, 2);
        send(&mut to, &KEY);
        send(&mut log, &KEY);
        send(&mut log, &Message::State(state));
        match log.read(&mut [0]) {
            Ok(0) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(node.statistics().succession.heir, None);
    }
}

#[test]
fn logs_in_the_leaders_name_with_another_key_are_refused_before_and_after_the_leaders_own() {
    let false_key = Message::Log(&[8; 8]);
    let beginnings = [
        bytes_of(0, &false_key),
        [bytes_of(0, &Message::Log(&[])), bytes_of(0, &list(1, 2))].concat(),
        bytes_of(0, &Message::State(&[9; 64])),
        vec![0xFF; 64],
        // The rest never comes.
        bytes_of(0, &KEY)[..24].to_vec(),
    ];
    let mut early = Vec::new();
    let mut heir = Heir::after(CONFIG, |base, node| {
        for beginning in &beginnings {
            let mut stream = open(base, 1, 2);
            stream.write_all(beginning).unwrap();
            early.push(stream);
        }
        // Bytes that can't be a key are refused at once.
        wait_until("three are refused", || {
            node.statistics().refused(Refusal::NotHeir) == 3
        });
    });
    // The log with another key is refused.
    assert_closed(&mut early[0], "a false log");
    heir.await_operations(1);
    // The key is for one log.
    for beginning in &beginnings[1..4] {
        let mut late = open(&heir.base, 1, 2);
        late.write_all(beginning).unwrap();
        assert_closed(&mut late, "a false log");
    }
    let mut late = open(&heir.base, 1, 2);
    send(&mut late, &KEY);
    heir.await_operations(2);
    assert_eq!(heir.node.statistics().refused(Refusal::NotHeir), 7);
}

#[test]
fn heir_whose_log_never_ends_serves_others_after_the_end_of_the_family() {
    let config = Config {
        succession_limit: Duration::from_millis(20),
        ..CONFIG
    };
    let Heir {
        base,
        node,
        log: _log,
        _to: to,
        _from: from,
        _dir,
    } = Heir::after(config, |_, _| ());
    wait_until("it knows that it is the heir", || {
        node.statistics().succession.heir == Some(vmid(2))
    });
    drop((to, from));
    assert_eq!(node.owner_of(1, long()), Err(Error::LeaderGone));
    let listener = listen(&base, 3);
    listener.set_nonblocking(true).unwrap();
    let mut member = open(&base, 3, 2);
    send(&mut member, &HELLO);
    member.write_all(&bytes_of(5, &Message::WhoLeads)).unwrap();
    wait_until("the member is answered", || listener.accept().is_ok());
}
