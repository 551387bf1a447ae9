//! Heirs that do not follow, and processes that only claim to be heir or leader: sockets that the test writes.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use libos_ipc::host::{HostNode, HostStream};
use libos_ipc::pal::{LogWriterEnd, Stream, StreamError};
use libos_ipc::testing::leader_capacities;
use libos_ipc::wire::{
    DismissReason, Dismissal, FrameReader, HeirReady, Hello, LimitFlags, Message, NewLeader,
    PeerLimits, Rejoin, SuccessionMode,
};
use libos_ipc::{Config, FileLock, LockFamily, LockKind, Refusal};

use crate::claims::{HELLO, bytes_of};
use crate::family::{CONFIG, Family, LONG, await_heir_of, long, vmid, wait_until};
use crate::peer::Peer;

/// Returns the HELLO of a process that can lead this family. `features`: others that it has.
fn hello_of_an_heir(features: u32) -> Hello {
    let hash = (leader_capacities(&CONFIG).fingerprint() >> 40) as u32;
    Hello {
        features: Hello::FOLLOWS_SUCCESSION | Hello::features_to_lead(hash) | features,
        ..Hello::NO_PROCESS
    }
}

/// The limits of a process that uses no shared values.
const LIMITS: Message<'_> = Message::Limits(PeerLimits {
    version: PeerLimits::VERSION,
    flags: LimitFlags::empty(),
    frame_length: u32::MAX,
    sync_data: 0,
});

/// The length of the frame with the key of a log.
const KEY_FRAME: usize = 25;

/// A member that the leader chooses as its heir. It has the streams of the leader to it: the first one, and the log.
struct FalseHeir {
    peer: Peer,
    log: Option<HostStream>,
}

impl FalseHeir {
    /// Joins before any other member, so that it is chosen. `features`: as above.
    fn join(family: &Family, number: u32, features: u32) -> FalseHeir {
        let mut peer = Peer::join(&family.base, number);
        let hello = Message::Hello(hello_of_an_heir(features));
        peer.to.write_all(&bytes_of(0, &hello)).unwrap();
        // A member sends this after it has got LIMITS of the leader.
        peer.to.write_all(&bytes_of(0, &LIMITS)).unwrap();
        peer.from().set_read_timeout(Some(LONG)).unwrap();
        let mut log = peer.accept();
        log.read_exact(&mut [0; KEY_FRAME]).unwrap();
        let mut log = HostStream::over(OwnedFd::from(log));
        if features & Hello::SHARES_LOGS != 0 {
            log.accept_log();
        }
        FalseHeir {
            peer,
            log: Some(log),
        }
    }

    /// Reads the log up to the end of the leader's state.
    fn read_state(&mut self) {
        let mut bytes = vec![0; 1 << 20];
        let mut frames = FrameReader::new(&mut bytes);
        loop {
            while let Some(frame) = frames.peek().unwrap() {
                let is_end = matches!(frame.message().unwrap(), Message::State([]));
                let length = frame.length();
                frames.skip(length);
                if is_end {
                    return;
                }
            }
            match self.log.as_ref().unwrap().read(frames.space()) {
                Ok(0) => panic!("the log ends before the state is complete"),
                Ok(count) => frames.mark_filled(count),
                Err(error) => assert_eq!(error, StreamError::WouldBlock),
            }
        }
    }

    /// Waits for the leader's dismissal.
    fn await_dismissal(&mut self) -> Dismissal {
        let mut bytes = vec![0; 1 << 20];
        let mut frames = FrameReader::new(&mut bytes);
        loop {
            while let Some(frame) = frames.peek().unwrap() {
                if let Ok(Message::Dismiss(dismissal)) = frame.message() {
                    return dismissal;
                }
                let length = frame.length();
                frames.skip(length);
            }
            let count = self.peer.from().read(frames.space()).unwrap();
            assert_ne!(count, 0, "the stream ends without a dismissal");
            frames.mark_filled(count);
        }
    }
}

/// Has the leader choose the false heir, which then does `act`: it is dismissed for that reason, and the member that
/// can follow becomes heir.
fn check_replacement(reason: DismissReason, act: impl FnOnce(&mut FalseHeir, &HostNode)) {
    check_replacement_with(Hello::SHARES_LOGS, reason, act);
}

/// Like [`check_replacement`], with those features of the false heir.
fn check_replacement_with(
    features: u32,
    reason: DismissReason,
    act: impl FnOnce(&mut FalseHeir, &HostNode),
) {
    // A busy machine may stop a process for a while: the patience ends before the act only where the act is to do
    // nothing.
    let heir_patience = match reason {
        DismissReason::Slow => Duration::from_secs(2),
        _ => LONG,
    };
    let family = Family::with(Config {
        heir_patience,
        ..CONFIG
    });
    let number = family.leader.new_vmid(long()).unwrap().get();
    let mut heir = FalseHeir::join(&family, number, features);
    let member = family.member(CONFIG);
    act(&mut heir, &member);
    assert_eq!(heir.await_dismissal().reason, reason);
    await_heir_of(&family.leader, &member);
    let expected = Some(member.identity().vmid);
    // The new heir keeps that place though the other is still there.
    member.take_id(long()).unwrap();
    wait_until("the heir has all", || {
        member.tables_state() == family.leader.tables_state()
    });
    assert_eq!(family.leader.named_heir(), expected);
    // The dismissed heir would know it even if it had not got the dismissal.
    if let Some(log) = heir
        .log
        .as_ref()
        .filter(|_| features & Hello::SHARES_LOGS != 0)
    {
        read_to_end(log);
        assert_eq!(log.end_of_log(), LogWriterEnd::Revoked);
    }
}

/// Reads what is left of a log.
fn read_to_end(log: &HostStream) {
    let mut buffer = [0; 4096];
    loop {
        match log.read(&mut buffer) {
            Ok(0) | Err(StreamError::Closed) => return,
            Ok(_) | Err(_) => {}
        }
    }
}

#[test]
fn an_heir_whose_state_has_another_digest_is_dismissed_and_another_one_is_named() {
    check_replacement(DismissReason::Differs, |heir, _| {
        heir.read_state();
        // The false heir does not know the number of the operation, so it tries all.
        for op in 0..200 {
            let false_digest = Message::HeirReady(HeirReady { op, digest: 2 });
            heir.peer.to.write_all(&bytes_of(0, &false_digest)).unwrap();
        }
    });
}

#[test]
fn an_heir_whose_log_is_cut_is_dismissed_and_another_one_is_named() {
    check_replacement(DismissReason::Broken, |heir, member| {
        heir.log = None;
        // The leader notices it with its next operation.
        member.new_vmid(long()).unwrap();
    });
}

#[test]
fn an_heir_of_a_platform_without_shared_memory_gets_the_log_through_the_stream() {
    check_replacement_with(0, DismissReason::Slow, |heir, _| heir.read_state());
}

#[test]
fn an_heir_that_confirms_nothing_is_dismissed_and_another_one_is_named() {
    check_replacement(DismissReason::Slow, |heir, _| heir.read_state());
}

#[test]
fn a_process_that_is_not_named_as_the_heir_yet_delays_no_call_for_long() {
    let family = Family::with(Config {
        heir_patience: LONG,
        ..CONFIG
    });
    let number = family.leader.new_vmid(long()).unwrap().get();
    let mut heir = FalseHeir::join(&family, number, 0);
    let member = family.process(Config::DEFAULT);
    heir.read_state();
    // The false heir reads no more and confirms nothing, while the log gets full.
    let path = [b'x'; 240];
    let slowest = (0..3_000).map(|round| {
        let lock = FileLock {
            family: LockFamily::Flock,
            kind: [LockKind::Write, LockKind::Unlock][round % 2],
            start: 0,
            end: u64::MAX,
            pid: member.pid().unwrap().get(),
            handle: 1,
            wait: false,
            path: &path,
        };
        let start = Instant::now();
        member.set_lock(&lock, long()).unwrap();
        start.elapsed()
    });
    let slowest = slowest.max().unwrap();
    // Far shorter than the patience, and longer than a busy machine stops a process.
    assert!(slowest < LONG / 4, "{slowest:?}");
}

#[test]
fn a_member_that_was_not_chosen_is_refused_as_heir_and_as_leader() {
    let family = Family::new();
    let heir = family.member(CONFIG);
    let expected = Some(heir.identity().vmid);
    wait_until("an heir is named", || {
        family.leader.named_heir() == expected
    });
    let claims = [
        Message::HeirReady(HeirReady { op: 1, digest: 2 }),
        Message::Leader(NewLeader {
            epoch: 9,
            config: 9,
            vmid: 50,
            mode: SuccessionMode::Standby,
        }),
    ];
    for (number, claim) in (50_u32..).zip(claims) {
        let mut peer = Peer::join(&family.base, number);
        let hello = Message::Hello(Hello::NO_PROCESS);
        peer.to.write_all(&bytes_of(0, &hello)).unwrap();
        peer.from().read_exact(&mut [0]).unwrap();
        peer.to.write_all(&bytes_of(7, &claim)).unwrap();
        let _ = peer.from().read_to_end(&mut Vec::new());
    }
    let refused = family.leader.statistics();
    let refused = refused.refused(Refusal::NotHeir) + refused.refused(Refusal::WrongRole);
    assert_eq!(refused, 2);
    assert_eq!(family.leader.named_heir(), expected);
    assert_eq!(heir.leader(), vmid(1));
}

#[test]
fn rejoin_of_a_process_that_was_no_member_of_the_previous_leader_is_answered_with_an_error() {
    let family = Family::new();
    let mut peer = Peer::join(&family.base, 50);
    let hello = Message::Hello(Hello::NO_PROCESS);
    peer.to.write_all(&bytes_of(0, &hello)).unwrap();
    let rejoin = Message::Rejoin(Rejoin {
        epoch: 1,
        config: 1,
        pid: 0,
        waiting: 0,
        sent: 0,
        received: 0,
    });
    peer.to.write_all(&bytes_of(7, &rejoin)).unwrap();
    let mut bytes = vec![0; 1 << 16];
    let mut frames = FrameReader::new(&mut bytes);
    let payload = loop {
        match frames
            .peek()
            .unwrap()
            .map(|frame| (frame.seq, frame.payload.to_vec(), frame.length()))
        {
            Some((7, payload, _)) => break payload,
            Some((_, _, length)) => frames.skip(length),
            None => {
                let count = peer.from().read(frames.space()).unwrap();
                assert_ne!(count, 0);
                frames.mark_filled(count);
            }
        }
    };
    let status = i32::from_le_bytes(payload[..4].try_into().unwrap());
    assert_eq!(status, -1, "EPERM");
}

#[test]
fn a_log_that_another_process_writes_in_the_leaders_name_is_refused() {
    let family = Family::new();
    let heir = family.member(CONFIG);
    let expected = Some(heir.identity().vmid);
    wait_until("an heir is named", || {
        family.leader.named_heir() == expected
    });
    let address = format!("{}.{}", family.base.display(), heir.identity().vmid.get());
    let mut forged = UnixStream::connect(address).unwrap();
    forged.set_read_timeout(Some(LONG)).unwrap();
    forged.write_all(&1_u32.to_le_bytes()).unwrap();
    let _ = forged.write_all(&bytes_of(0, &Message::Log(&[])));
    let _ = forged.write_all(&bytes_of(0, &Message::State(&[9; 64])));
    match forged.read(&mut [0]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("{other:?}"),
    }
    heir.take_id(long()).unwrap();
    wait_until("the heir has all", || {
        heir.tables_state() == family.leader.tables_state()
    });
    assert_eq!(family.leader.named_heir(), expected);
    assert_eq!(heir.statistics().refused(Refusal::NotHeir), 1);
}

#[test]
fn members_are_notified_of_the_heir_and_of_its_dismissal() {
    let family = Family::new();
    let mut peer = Peer::join(&family.base, 50);
    peer.to.write_all(&bytes_of(0, &HELLO)).unwrap();
    let mut bytes = vec![0; 1 << 16];
    let mut frames = FrameReader::new(&mut bytes);
    let mut next_list = || loop {
        let frame = frames.peek().unwrap();
        let Some(length) = frame.as_ref().map(libos_ipc::wire::Frame::length) else {
            let count = peer.from().read(frames.space()).unwrap();
            assert_ne!(count, 0);
            frames.mark_filled(count);
            continue;
        };
        let list = match frame.unwrap().message() {
            Ok(Message::Heirs(list)) => Some(list),
            _ => None,
        };
        frames.skip(length);
        if let Some(list) = list {
            break list;
        }
    };
    let first = family.member(CONFIG);
    let named = next_list();
    assert_eq!(named.heirs[0], first.identity().vmid.get());
    let second = family.member(CONFIG);
    drop(first);
    let dismissed = next_list();
    assert!(
        dismissed.config > named.config && dismissed.heirs[0] == 0,
        "{dismissed:?}"
    );
    let next = next_list();
    assert!(next.config > dismissed.config, "{next:?}");
    assert_eq!(next.heirs[0], second.identity().vmid.get());
}

#[test]
fn new_leader_names_no_heir_while_a_member_is_about_to_rejoin_and_does_not_wait_for_ever() {
    let family = Family::new();
    // The silent member follows, and never rejoins.
    let mut silent = Peer::join(&family.base, 50);
    silent.to.write_all(&bytes_of(0, &HELLO)).unwrap();
    silent.from().read_exact(&mut [0]).unwrap();
    let first = family.member(CONFIG);
    let second = family.member(CONFIG);
    let expected = Some(first.identity().vmid);
    wait_until("the first member is the heir", || {
        family.leader.named_heir() == expected && second.statistics().succession.heir == expected
    });
    let Family { leader, _dir, .. } = family;
    let end = Instant::now();
    drop(leader);
    let announcement = silent.accept_from(first.identity().vmid.get());
    // The new leader alone has the frames of the dead one for the silent member. It waits for 250 ms, from a moment
    // after that end.
    let pause = Duration::from_millis(240);
    while end.elapsed() < pause {
        let named = first.named_heir();
        if end.elapsed() < pause {
            assert_eq!(named, None);
        }
        std::thread::yield_now();
    }
    let expected = Some(second.identity().vmid);
    wait_until("the second member is the heir", || {
        first.named_heir() == expected
    });
    drop(announcement);
}
