//! Families over secure streams, in memory and on the host, and processes that are refused.

use std::time::Duration;

use libos_ipc::pal::secure::{Breach, SecurePal};
use libos_ipc::pal::{Deadline, Pal, Stream};
use libos_ipc::testing::fault_injector::{FaultInjector, Faults};
use libos_ipc::testing::loopback::{Loopback, Network};
use libos_ipc::wire::{Answer, IdRange, Message};
use libos_ipc::{Config, Driving, Identity, Node, Refusal, StartError, Vmid};

use super::{assert_breaches, key, random, vmid};

type Net = Network<4, 24, 600>;

const CALLER: Config = Config {
    driving: Driving::Caller,
    spin: Duration::ZERO,
    ..Config::DEFAULT
};

fn identity(number: u32) -> Identity {
    if number == 1 {
        Identity::LEADER
    } else {
        Identity::child(vmid(number), Vmid::LEADER)
    }
}

fn node<'m, P: Pal + 'm>(pal: P, number: u32) -> Node<'m, P> {
    let memory = Box::leak(Box::new_uninit_slice(
        Node::<P>::memory(&identity(number), &CALLER).total(),
    ));
    Node::new(pal, identity(number), CALLER, memory).unwrap()
}

/// Returns the leader's answer, with both nodes polled until it arrives or the time is over; `None`
/// then.
fn ask<P: Pal, Q: Pal>(
    net: &Net,
    leader: &Node<'_, P>,
    member: &Node<'_, Q>,
    message: &Message<'_>,
) -> Option<Answer<'static>> {
    let mut request = member.request(Vmid::LEADER, message).ok()?;
    for _ in 0..6_000 {
        leader.poll(Deadline::Now);
        member.poll(Deadline::Now);
        net.advance(Duration::from_millis(1));
        if let Some(answer) = request.poll() {
            return answer.ok();
        }
    }
    None
}

#[test]
fn a_family_works_over_streams_with_faults() {
    for seed in 0..20 {
        let faults = if seed == 0 {
            Faults::NONE
        } else {
            Faults::HARMLESS
        };
        let net = Net::new();
        let pal = |number| FaultInjector::new(net.join(vmid(number)).unwrap(), faults, seed);
        let (one, two) = (pal(1), pal(2));
        let one = SecurePal::new(&one, vmid(1), key(), random);
        let two = SecurePal::new(&two, vmid(2), key(), random);
        let (leader, member) = (node(&one, 1), node(&two, 2));
        for round in 0..40 {
            let range = IdRange {
                start: 1 + round * 32,
                end: 32 + round * 32,
            };
            assert_eq!(
                ask(&net, &leader, &member, &Message::AllocIdRange),
                Some(Answer::IdRange(range)),
                "seed {seed}"
            );
        }
        assert_breaches(&one, &[]);
        assert_breaches(&two, &[]);
        assert_eq!(one.statistics().handshakes, 2);
        assert_eq!(leader.statistics().refused_total(), 0);
        drop(member);
    }
}

#[test]
fn many_members_join_at_once_with_few_unidentified_connections() {
    let net: Network<21, 60, 600> = Network::new();
    let pal = |number| {
        let place = net.join(vmid(number)).unwrap();
        SecurePal::new(place, vmid(number), key(), random)
    };
    let pals: Vec<_> = (1..=20).map(pal).collect();
    let mut config = CALLER;
    config.capacities.unidentified = 2;
    let identity = Identity::LEADER;
    let bytes = Node::<&SecurePal<Loopback<'_, 21, 60, 600>>>::memory(&identity, &config).total();
    let mut memory = Box::new_uninit_slice(bytes);
    let leader = Node::new(&pals[0], identity, config, &mut memory).unwrap();
    let members: Vec<_> = (2..)
        .zip(&pals[1..])
        .map(|(number, pal)| node(pal, number))
        .collect();
    let question = Message::GetIdOwner(1);
    let mut requests: Vec<_> = members
        .iter()
        .map(|member| member.request(Vmid::LEADER, &question).unwrap())
        .collect();
    let mut answered = 0;
    for _ in 0..2_000 {
        leader.poll(Deadline::Now);
        for (member, request) in members.iter().zip(&mut requests) {
            member.poll(Deadline::Now);
            if let Some(answer) = request.poll() {
                assert_eq!(answer, Ok(Answer::Owner(0)));
                answered += 1;
            }
        }
        net.advance(Duration::from_millis(1));
    }
    assert_eq!(answered, members.len());
    assert_eq!(leader.statistics().refused_total(), 0);
    // Processes that never send a byte do not exclude others for ever.
    let silent = net.join(vmid(30)).unwrap();
    let streams: Vec<_> = (0..10)
        .map(|_| silent.connect(Vmid::LEADER).unwrap())
        .collect();
    drop(requests);
    drop(members);
    for _ in 0..20_000 {
        leader.poll(Deadline::At(net.now()));
        net.advance(Duration::from_millis(1));
    }
    assert_eq!(leader.statistics().refused(Refusal::NoVmid), 10);
    drop(streams);
}

#[test]
fn a_node_that_requires_secure_streams_is_not_made_without_a_key() {
    let net = Net::new();
    let config = Config {
        require_secure: true,
        ..CALLER
    };
    let identity = Identity::LEADER;
    let plain = SecurePal::plain(net.join(vmid(1)).unwrap(), vmid(1));
    let secure = SecurePal::new(net.join(vmid(2)).unwrap(), vmid(2), key(), random);
    let below = net.join(vmid(3)).unwrap();
    let injected = FaultInjector::new(&secure, Faults::NONE, 1);
    let memory = || vec![std::mem::MaybeUninit::uninit(); 4 << 20];
    let made = [
        Node::new(&plain, identity, config, &mut memory()).err(),
        Node::new(&secure, identity, config, &mut memory()).err(),
        Node::new(below, identity, config, &mut memory()).err(),
        Node::new(&injected, identity, config, &mut memory()).err(),
    ];
    let refused = Some(StartError::NotSecure);
    assert_eq!(made, [refused, None, refused, None]);
}

#[test]
fn replayed_first_messages_do_not_keep_a_newcomer_out() {
    // The host holds back the first message of a stream to the leader.
    let elsewhere: Network<3, 8, 600> = Network::new();
    let spy = elsewhere.join(Vmid::LEADER).unwrap();
    let pal = SecurePal::new(elsewhere.join(vmid(2)).unwrap(), vmid(2), key(), random);
    let stream = (&&pal).connect(Vmid::LEADER).unwrap();
    assert!(stream.write(&[&2_u32.to_le_bytes()]).is_err());
    let mut first_message = [0; 60];
    assert_eq!(spy.accept().unwrap().read(&mut first_message), Ok(60));

    let net: Network<4, 100, 600> = Network::new();
    let one = SecurePal::new(net.join(vmid(1)).unwrap(), vmid(1), key(), random);
    let three = SecurePal::new(net.join(vmid(3)).unwrap(), vmid(3), key(), random);
    let mut config = CALLER;
    config.capacities.unidentified = 2;
    let identity = Identity::LEADER;
    let bytes = Node::<&SecurePal<Loopback<'_, 4, 100, 600>>>::memory(&identity, &config).total();
    let mut memory = Box::new_uninit_slice(bytes);
    let leader = Node::new(&one, identity, config, &mut memory).unwrap();
    let host = net.join(vmid(30)).unwrap();
    let replays: Vec<_> = (0..64)
        .map(|_| {
            let stream = host.connect(Vmid::LEADER).unwrap();
            assert_eq!(stream.write(&[&first_message]), Ok(60));
            stream
        })
        .collect();
    let member = node(&three, 3);
    let question = Message::GetIdOwner(1);
    let mut request = member.request(Vmid::LEADER, &question).unwrap();
    let start = net.now();
    let answer = loop {
        leader.poll(Deadline::Now);
        member.poll(Deadline::Now);
        if let Some(answer) = request.poll() {
            break answer;
        }
        net.advance(Duration::from_millis(1));
        assert!(net.now() < start + Duration::from_millis(200));
    };
    assert_eq!(answer, Ok(Answer::Owner(0)));
    // The first one is no replay: the leader has not seen it before.
    assert_eq!(one.statistics().breaches(Breach::Handshake), 63);
    drop(replays);
}

#[test]
fn a_process_without_a_key_is_refused_and_disturbs_no_member() {
    let net = Net::new();
    let one = SecurePal::new(net.join(vmid(1)).unwrap(), vmid(1), key(), random);
    let two = SecurePal::new(net.join(vmid(2)).unwrap(), vmid(2), key(), random);
    let (leader, member) = (node(&one, 1), node(&two, 2));
    let plain = node(net.join(vmid(3)).unwrap(), 3);
    let question = Message::GetIdOwner(1);
    let owner = Some(Answer::Owner(0));
    assert_eq!(ask(&net, &leader, &member, &question), owner);
    assert_eq!(ask(&net, &leader, &plain, &question), None);
    assert_eq!(one.statistics().breaches(Breach::NotSecure), 1);
    assert_eq!(leader.statistics().refused(Refusal::NoVmid), 1);
    assert_eq!(leader.statistics().pools.peers.now, 1);
    assert_eq!(ask(&net, &leader, &member, &question), owner);
}

#[test]
fn a_process_with_a_key_is_refused_by_a_plain_family() {
    let net = Net::new();
    let two = SecurePal::new(net.join(vmid(2)).unwrap(), vmid(2), key(), random);
    let (leader, member) = (node(net.join(vmid(1)).unwrap(), 1), node(&two, 2));
    let plain = node(net.join(vmid(3)).unwrap(), 3);
    let question = Message::GetIdOwner(1);
    let owner = Some(Answer::Owner(0));
    assert_eq!(ask(&net, &leader, &plain, &question), owner);
    assert_eq!(ask(&net, &leader, &member, &question), None);
    assert_breaches(&two, &[(Breach::Unfinished, 1)]);
    assert_eq!(leader.statistics().refused(Refusal::BadVmid), 1);
    assert_eq!(ask(&net, &leader, &plain, &question), owner);
}

#[cfg(feature = "std")]
mod host {
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::Path;
    use std::time::Duration;

    use libos_ipc::host::{HostNode, SecureHost, random};
    use libos_ipc::pal::secure::{Breach, FamilyKey};
    use libos_ipc::{ChildSelector, Config, Error, Exit, Heirs, Identity, Vmid, Wait};

    use super::vmid;

    const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(10));

    fn start(base: &Path, identity: Identity, key: &FamilyKey) -> HostNode<SecureHost> {
        HostNode::start_secure(base, identity, Config::DEFAULT, key.clone()).unwrap()
    }

    #[test]
    fn host_processes_with_one_key_form_a_family() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("f");
        let key = FamilyKey::generate(random).unwrap();
        let first = start(&base, Identity::LEADER, &key);
        first.join(WAIT).unwrap();
        let identity = first.start_child(WAIT).unwrap();
        let child = start(&base, identity, &key);
        let pid = child.join(WAIT).unwrap();
        let grandchild = child.start_child(WAIT).unwrap();
        let other = start(&base, grandchild, &key);
        other.join(WAIT).unwrap();
        // Several threads make requests at once, so that both calls and the worker read streams.
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let owner = other.owner_of(pid.get(), WAIT).unwrap();
                        assert_eq!(owner, Some(identity.vmid));
                    }
                });
            }
            scope.spawn(|| {
                for _ in 0..300 {
                    let id = child.take_id(WAIT).unwrap();
                    assert_eq!(other.owner_of(id, WAIT).unwrap(), Some(identity.vmid));
                    child.release_id(id, WAIT).unwrap();
                }
            });
        });
        let (mine, theirs) = (first.share::<u64>(Some(7)), other.share::<u64>(Some(7)));
        let (mine, theirs) = (mine.unwrap(), theirs.unwrap());
        *mine.write(WAIT).unwrap() += 5;
        assert_eq!(*theirs.read(WAIT).unwrap(), 5);
        drop((mine, theirs));
        let exit = Exit {
            code: 3,
            ..Exit::default()
        };
        child.exit(exit, WAIT).unwrap();
        drop(child);
        let seen = first.wait_child(ChildSelector::Pid(pid), WAIT).unwrap();
        assert_eq!(seen.code, 3);
        drop(other);
        first.leave(WAIT).unwrap();
        let statistics = first.secure_statistics();
        let counts = (statistics.handshakes, statistics.ended);
        assert_eq!(counts, (4, 2), "{statistics:?}");
        for breach in Breach::ALL {
            assert_eq!(statistics.breaches(breach), 0, "{breach}");
        }
    }

    #[test]
    fn unidentified_processes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (secret, plain) = (dir.path().join("s"), dir.path().join("p"));
        let key = FamilyKey::generate(random).unwrap();
        let secure_leader = start(&secret, Identity::LEADER, &key);
        let plain_leader = HostNode::start(&plain, Identity::LEADER, Config::DEFAULT).unwrap();
        let child = |number| Identity::child(vmid(number), Vmid::LEADER);
        let plain_member = HostNode::start(&secret, child(2), Config::DEFAULT).unwrap();
        let secure_member = start(&plain, child(2), &key);
        assert_eq!(plain_member.owner_of(1, WAIT), Err(Error::LeaderGone));
        assert_eq!(secure_member.owner_of(1, WAIT), Err(Error::LeaderGone));
        let other_key = FamilyKey::generate(random).unwrap();
        let other = start(&secret, child(3), &other_key);
        assert_eq!(other.owner_of(1, WAIT), Err(Error::LeaderGone));
        let good = start(&secret, child(4), &key);
        assert_eq!(good.owner_of(1, WAIT), Ok(None));
        let statistics = secure_leader.secure_statistics();
        assert_eq!(statistics.breaches(Breach::NotSecure), 1);
        assert_eq!(statistics.breaches(Breach::Handshake), 1);
        assert_eq!(secure_leader.statistics().pools.peers.now, 1);
        assert_eq!(plain_leader.statistics().pools.peers.now, 0);
    }

    /// Forwards the bytes between two processes as the host, with one bit flipped if requested.
    fn forward(mut from: UnixStream, mut to: UnixStream, flip: Option<usize>) {
        let (mut at, mut buffer) = (0, [0; 4096]);
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if let Some(flip) = flip.filter(|flip| (at..at + count).contains(flip)) {
                buffer[flip - at] ^= 1;
            }
            at += count;
            if to.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Write);
    }

    /// Waits until the leader has named that heir.
    fn has_heir(leader: &HostNode<SecureHost>, heir: &HostNode<SecureHost>) {
        let until = std::time::Instant::now() + Duration::from_secs(10);
        while leader.named_heir() != Some(heir.identity().vmid) {
            assert!(std::time::Instant::now() < until, "there is no heir");
            std::thread::yield_now();
        }
    }

    #[test]
    fn secure_family_is_handed_over_by_a_leader_that_leaves_and_ends_with_one_that_dies() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("f");
        let key = FamilyKey::generate(random).unwrap();
        let config = Config {
            heirs: Heirs::Any,
            // Longer than a busy machine stops a process, and short, since the end of the test waits for it.
            succession_limit: Duration::from_secs(3),
            heir_patience: Duration::from_secs(5),
            silence_limit: Some(Duration::from_secs(30)),
            ..Config::DEFAULT
        };
        let start = |identity| {
            let node = HostNode::start_secure(&base, identity, config, key.clone()).unwrap();
            node.join(WAIT).unwrap();
            node
        };
        let leader = start(Identity::LEADER);
        let heir = start(leader.start_child(WAIT).unwrap());
        let member = start(leader.start_child(WAIT).unwrap());
        has_heir(&leader, &heir);
        let id = member.take_id(WAIT).unwrap();
        leader.exit(Exit::default(), WAIT).unwrap();
        leader.leave(WAIT).unwrap();
        assert!(leader.shut_down(Duration::from_secs(5)));
        let owner = member.owner_of(id, WAIT);
        assert_eq!(owner, Ok(Some(member.identity().vmid)));
        assert_eq!(member.leader(), heir.identity().vmid);
        has_heir(&heir, &member);
        // The host could pretend this: nobody leads after it.
        drop(heir);
        assert_eq!(member.owner_of(id, WAIT), Err(Error::LeaderGone));
        assert_eq!(member.statistics().successions, 1);
    }

    #[test]
    fn a_bit_changed_by_the_host_ends_one_connection_only() {
        let dir = tempfile::tempdir().unwrap();
        let key = FamilyKey::generate(random).unwrap();
        let leader = start(&dir.path().join("real"), Identity::LEADER, &key);
        let good = start(
            &dir.path().join("real"),
            Identity::child(vmid(9), Vmid::LEADER),
            &key,
        );
        assert_eq!(good.owner_of(1, WAIT), Ok(None));
        // The leader as member 2 sees it, and member 2 as the leader sees it.
        let door = UnixListener::bind(dir.path().join("seen.1")).unwrap();
        let back = UnixListener::bind(dir.path().join("real.2")).unwrap();
        let real = dir.path().join("real.1");
        let mine = dir.path().join("seen.2");
        for (listener, to, flip) in [(door, real, Some(5_000)), (back, mine, None)] {
            std::thread::spawn(move || {
                let Ok((near, _)) = listener.accept() else {
                    return;
                };
                let far = UnixStream::connect(to).unwrap();
                let (near2, far2) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                std::thread::spawn(move || forward(far2, near2, None));
                forward(near, far, flip);
            });
        }
        let member = start(
            &dir.path().join("seen"),
            Identity::child(vmid(2), Vmid::LEADER),
            &key,
        );
        let mut count = 0;
        let end = loop {
            match member.owner_of(1, WAIT) {
                Ok(owner) => assert_eq!(owner, None),
                Err(error) => break error,
            }
            count += 1;
        };
        assert_eq!(end, Error::LeaderGone);
        // The handshake takes 60 bytes, the VMID 4, HELLO and LIMITS 33 each, a request 21; a record
        // takes 18 more, and HELLO or LIMITS may share that of a request.
        let (least, most) = (
            (5_000 - 64 - 2 * (33 + 18)) / 39,
            (5_000 - 64 - 2 * 33) / 39,
        );
        assert!((least..=most).contains(&count), "{count}");
        assert_eq!(leader.secure_statistics().breaches(Breach::Record), 1);
        assert_eq!(good.owner_of(1, WAIT), Ok(None));
    }
}
