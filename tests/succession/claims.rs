//! Processes that claim a role they do not have, or that name an epoch that has ended: sockets that the test writes.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use libos_ipc::host::HostNode;
use libos_ipc::wire::{
    Answer, DismissReason, Dismissal, Expected, FrameReader, HeirList, Hello, Message, NewLeader,
    Rejoin, Rejoined, Resignation, SuccessionMode,
};
use libos_ipc::{Config, Errno, Error, Identity, Refusal, Vmid};
use tempfile::TempDir;

use crate::family::{CONFIG, Family, LONG, long, vmid, wait_until};
use crate::peer::{ALLOC_ID_RANGE, Peer, assert_closed, frame, numbers};

/// Encodes a message.
pub(crate) fn bytes_of(seq: u64, message: &Message<'_>) -> Vec<u8> {
    let mut bytes = vec![0; message.length()];
    message.encode(seq, &mut bytes).unwrap();
    bytes
}

/// The HELLO of a member that follows the succession.
pub(crate) const HELLO: Message<'static> = Message::Hello(Hello {
    features: Hello::FOLLOWS_SUCCESSION,
    ..Hello::NO_PROCESS
});

/// Opens a stream between two processes of a family.
pub(crate) fn open(base: &Path, from: u32, to: u32) -> UnixStream {
    let mut stream = UnixStream::connect(format!("{}.{to}", base.display())).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.write_all(&from.to_le_bytes()).unwrap();
    stream
}

/// Sends a message without an answer.
pub(crate) fn send(stream: &mut UnixStream, message: &Message<'_>) {
    stream.write_all(&bytes_of(0, message)).unwrap();
}

/// Returns a list of heirs with one heir.
fn list(epoch: u32, config: u32, heir: u32) -> Message<'static> {
    Message::Heirs(HeirList {
        epoch,
        config,
        heirs: [heir, 0, 0, 0],
    })
}

/// Process 2, whose leader is a socket of the test and leads in epoch 3, with process 7 as its heir.
struct LedMember {
    base: PathBuf,
    member: HostNode,
    leader: UnixStream,
    listener: UnixListener,
    _dir: TempDir,
}

impl LedMember {
    fn new() -> LedMember {
        LedMember::with(CONFIG)
    }

    fn with(config: Config) -> LedMember {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("f");
        let listener = UnixListener::bind(format!("{}.1", base.display())).unwrap();
        let identity = Identity::child(vmid(2), Vmid::LEADER);
        let member = HostNode::start(&base, identity, config).unwrap();
        let mut led = LedMember {
            leader: open(&base, 1, 2),
            base,
            member,
            listener,
            _dir: dir,
        };
        send(&mut led.leader, &HELLO);
        led.name_heir(5, 7);
        led
    }

    /// Lets the leader name an heir, and checks that the member knows it.
    fn name_heir(&mut self, config: u32, heir: u32) {
        send(&mut self.leader, &list(3, config, heir));
        wait_until("the heir is known", || {
            self.member.statistics().succession.heir == Vmid::new(heir)
        });
    }

    /// Returns how many peers the member has refused for that reason.
    fn refused(&self, reason: Refusal) -> u64 {
        self.member.statistics().refused(reason)
    }
}

/// Announces to the member, in the name of the process `from`, that the process `vmid` leads in that epoch. `config` is the
/// number of its list of heirs.
fn announce(base: &Path, from: u32, (epoch, config, vmid): (u32, u32, u32)) -> UnixStream {
    let mut stream = open(base, from, 2);
    send(&mut stream, &HELLO);
    let mode = SuccessionMode::Standby;
    let claim = NewLeader {
        epoch,
        config,
        vmid,
        mode,
    };
    send(&mut stream, &Message::Leader(claim));
    stream
}

#[test]
fn lists_of_heirs_and_dismissals_of_an_earlier_epoch_are_refused() {
    let stale = [
        list(3, 4, 8),
        list(2, 6, 8),
        Message::Dismiss(Dismissal {
            reason: DismissReason::Slow,
            epoch: 2,
        }),
    ];
    for message in stale {
        let mut led = LedMember::new();
        // The same list again changes nothing.
        send(&mut led.leader, &list(3, 5, 7));
        send(&mut led.leader, &message);
        wait_until("it is refused", || led.refused(Refusal::StaleReign) == 1);
        assert_eq!(led.member.statistics().refused_total(), 1);
    }
}

#[test]
fn process_that_was_not_named_or_leads_in_no_later_epoch_is_refused_as_leader() {
    let mut led = LedMember::new();
    let claims = [
        (8, 4, 8, Refusal::NotHeir),
        (7, 4, 9, Refusal::NotHeir),
        (7, 3, 7, Refusal::StaleReign),
    ];
    for (from, epoch, named, reason) in claims {
        let before = led.refused(reason);
        let mut stream = announce(&led.base, from, (epoch, 5, named));
        assert_closed(&mut stream, "a false leader");
        assert_eq!(led.refused(reason), before + 1);
    }
    assert_eq!(led.member.leader(), Vmid::LEADER);
    // The connection with the leader goes on.
    led.name_heir(6, 8);
    assert_eq!(led.member.statistics().refused_total(), 3);
}

#[test]
fn leader_that_announces_itself_after_the_limit_sees_that_the_member_does_not_follow() {
    let led = LedMember::with(Config {
        succession_limit: Duration::from_millis(20),
        ..CONFIG
    });
    drop(led.leader);
    assert_eq!(led.member.owner_of(1, long()), Err(Error::LeaderGone));
    let mut stream = announce(&led.base, 7, (4, 6, 7));
    assert_closed(&mut stream, "a leader that comes too late");
}

#[test]
fn leader_that_announces_itself_before_the_limit_sees_that_the_member_has_waited_too_long_for_the_one_before()
 {
    let led = LedMember::with(Config {
        succession_limit: Duration::from_millis(20),
        ..CONFIG
    });
    // The member has a stream to the leader before its time to follow another one begins.
    led.member.connect(Vmid::LEADER).unwrap();
    let (to_leader, _) = led.listener.accept().unwrap();
    let _listener = UnixListener::bind(format!("{}.7", led.base.display())).unwrap();
    let mut stream = announce(&led.base, 7, (4, 6, 7));
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| led.member.owner_of(1, long()));
        // The leader ends the stream of the member. Frames of it may still come: its other stream does not end.
        drop(to_leader);
        assert_closed(&mut stream, "a leader that the member does not follow");
        assert_eq!(asked.join().unwrap(), Err(Error::LeaderGone));
    });
}

#[test]
fn later_of_two_successors_is_followed_in_whatever_order_their_announcements_come() {
    let led = LedMember::new();
    let listener = UnixListener::bind(format!("{}.8", led.base.display())).unwrap();
    let frames = || led.member.statistics().frames_in;
    let before = frames();
    let _later = announce(&led.base, 8, (5, 8, 8));
    wait_until("the announcement of the later one has come", || {
        frames() >= before + 2
    });
    let ended = announce(&led.base, 7, (4, 6, 7));
    wait_until("the announcement of the one before has come", || {
        frames() >= before + 4
    });
    drop(ended);
    drop(led.leader);
    wait_until("the member rejoins the later one", || {
        led.member.leader() == vmid(8)
    });
    drop(listener);
}

/// Makes a family with an heir.
fn family_with_heir() -> (Family, HostNode) {
    let family = Family::new();
    let heir = family.member(CONFIG);
    let expected = Some(heir.identity().vmid);
    wait_until("an heir is named", || {
        family.leader.named_heir() == expected
    });
    (family, heir)
}

#[test]
fn records_of_a_log_from_a_member_are_refused_and_change_nothing_at_the_heir() {
    let (family, heir) = family_with_heir();
    let member = family.member(CONFIG);
    let records = [
        Message::Log(&[]),
        Message::Log(&[1; 24]),
        Message::State(&[9; 64]),
        Message::Resign(Resignation {
            epoch: 1,
            heir: heir.identity().vmid.get(),
            op: 1,
        }),
        list(1, 9, 50),
        Message::Dismiss(Dismissal {
            reason: DismissReason::Slow,
            epoch: 1,
        }),
    ];
    let mut open_streams = Vec::new();
    for (number, record) in (50..).zip(&records) {
        let address = format!("{}.{number}", family.base.display());
        let listener = UnixListener::bind(address).unwrap();
        for node in [&family.leader, &member, &heir] {
            let before = node.statistics().refused(Refusal::WrongRole);
            let mut stream = open(&family.base, number, node.identity().vmid.get());
            send(&mut stream, &HELLO);
            send(&mut stream, record);
            if node.identity() == heir.identity() {
                // The heir keeps what a process without a leader sends to it until it leads itself.
                open_streams.push(stream);
            } else {
                assert_closed(&mut stream, "a process that is not the leader");
                let after = node.statistics().refused(Refusal::WrongRole);
                assert_eq!(after, before + 1, "{record:?}");
            }
        }
        drop(listener);
    }
    assert_eq!(heir.statistics().refused_total(), 0);
    heir.take_id(long()).unwrap();
    wait_until("the heir has all", || {
        heir.tables_state() == family.leader.tables_state()
    });
    assert_eq!(family.leader.named_heir(), Some(heir.identity().vmid));
}

/// Ends the leader, so that the heir leads.
fn end_leader(family: Family, heir: &HostNode) -> (PathBuf, TempDir) {
    wait_until("the heir has all", || {
        heir.tables_state() == family.leader.tables_state()
    });
    let Family {
        base,
        leader,
        _dir: dir,
    } = family;
    drop(leader);
    wait_until("the heir leads", || heir.leader() == heir.identity().vmid);
    (base, dir)
}

/// Asks to follow the process at the other end, and returns the answer.
pub(crate) fn rejoin(
    to: &mut UnixStream,
    (from, frames): (&mut UnixStream, &mut FrameReader<'_>),
    seq: u64,
    epoch: u32,
    sent: u64,
) -> Result<u64, Errno> {
    let rejoin = Message::Rejoin(Rejoin {
        epoch,
        config: 1,
        pid: 0,
        waiting: 0,
        sent,
        received: 0,
    });
    to.write_all(&bytes_of(seq, &rejoin)).unwrap();
    loop {
        let Some(frame) = frames.peek().unwrap() else {
            let count = from.read(frames.space()).unwrap();
            assert_ne!(count, 0, "the stream ends");
            frames.mark_filled(count);
            continue;
        };
        let answer =
            (frame.seq == seq).then(|| Answer::decode(Expected::Rejoin, frame.payload).unwrap());
        let answer = answer.map(|answer| match answer {
            Answer::Rejoin(Rejoined { taken, .. }) => taken,
            other => panic!("{other:?}"),
        });
        let length = frame.length();
        frames.skip(length);
        if let Some(taken) = answer {
            return taken;
        }
    }
}

#[test]
fn process_that_was_disconnected_can_not_rejoin_the_next_leader() {
    let (family, heir) = family_with_heir();
    let given = family.leader.new_vmid(long()).unwrap();
    let number = given.get();
    let mut peer = Peer::join(&family.base, number);
    let id = numbers(&peer.ask(ALLOC_ID_RANGE, &[]))[0];
    peer.to.write_all(&bytes_of(0, &HELLO)).unwrap();
    assert_eq!(heir.owner_of(id, long()).unwrap(), Some(given));
    // The member has a stream to the heir, too.
    let heir_vmid = heir.identity().vmid.get();
    let mut early = open(&family.base, number, heir_vmid);
    send(&mut early, &HELLO);
    peer.to.write_all(&[0; 64]).unwrap();
    wait_until("what it had is free", || {
        heir.owner_of(id, long()).unwrap().is_none()
    });
    let (base, _dir) = end_leader(family, &heir);
    let mut from = peer.accept_from(heir_vmid);
    let mut buffer = vec![0; 1 << 16];
    let mut frames = FrameReader::new(&mut buffer);
    for seq in 7..9 {
        let taken = rejoin(&mut early, (&mut from, &mut frames), seq, 1, 1);
        assert_eq!(taken, Err(Errno::ESRCH));
    }
    // A second stream in its name finds the first one.
    let mut stream = open(&base, number, heir_vmid);
    assert_closed(&mut stream, "a second stream");
    // Nothing that it requests as a member is executed.
    let before = heir.statistics().pools.ranges.now;
    early.write_all(&frame(9, ALLOC_ID_RANGE, &[])).unwrap();
    let taken = rejoin(&mut early, (&mut from, &mut frames), 10, 1, 1);
    assert_eq!(taken, Err(Errno::ESRCH));
    assert_eq!(heir.statistics().pools.ranges.now, before);
    // The others go on.
    assert_eq!(heir.owner_of(id, long()).unwrap(), None);
    heir.take_id(long()).unwrap();
}

#[test]
fn member_without_the_extensions_keeps_what_it_has_until_it_ends() {
    let (family, heir) = family_with_heir();
    let member = family.leader.new_vmid(long()).unwrap();
    let mut peer = Peer::join(&family.base, member.get());
    let id = numbers(&peer.ask(ALLOC_ID_RANGE, &[]))[0];
    assert_eq!(heir.owner_of(id, long()).unwrap(), Some(member));
    let heir_vmid = heir.identity().vmid.get();
    let (_base, _dir) = end_leader(family, &heir);
    // No message tells such a member who leads, so it does not rejoin. The new leader opens a stream to it, and sees its
    // end there.
    let from = peer.accept_from(heir_vmid);
    for _ in 0..100 {
        heir.take_id(long()).unwrap();
        assert_eq!(heir.owner_of(id, long()).unwrap(), Some(member));
    }
    drop((from, peer));
    wait_until("what it had is free", || {
        heir.owner_of(id, long()).unwrap().is_none()
    });
}

#[test]
fn rejoin_with_a_stale_epoch_or_too_few_frames_is_refused_and_a_right_one_accepted() {
    let (family, heir) = family_with_heir();
    let mut peer = Peer::join(&family.base, 50);
    let id = numbers(&peer.ask(ALLOC_ID_RANGE, &[]))[0];
    peer.to.write_all(&bytes_of(0, &HELLO)).unwrap();
    let (base, _dir) = end_leader(family, &heir);
    let heir_vmid = heir.identity().vmid.get();
    let mut stream = open(&base, 50, heir_vmid);
    let mut from = peer.accept_from(heir_vmid);
    let mut buffer = vec![0; 1 << 16];
    let mut frames = FrameReader::new(&mut buffer);
    let mut ask =
        |seq, epoch, sent| rejoin(&mut stream, (&mut from, &mut frames), seq, epoch, sent);
    assert_eq!(ask(7, 2, 1), Err(Errno::ESTALE));
    assert_eq!(ask(8, 1, 0), Err(Errno::ESTALE));
    assert_eq!(heir.statistics().refused(Refusal::StaleReign), 2);
    assert_eq!(ask(9, 1, 1), Ok(1));
    assert_eq!(heir.statistics().refused_total(), 2);
    assert_eq!(heir.owner_of(id, long()).unwrap(), Vmid::new(50));
}
