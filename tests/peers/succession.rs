//! Members that send messages about a succession although they have no role in one.

use std::io::{Read, Write};
use std::path::PathBuf;

use libos_ipc::host::HostNode;
use libos_ipc::wire::{
    DismissReason, Dismissal, HeirList, HeirReady, Hello, Message, NewLeader, Rejoin, Resignation,
    SuccessionMode,
};
use libos_ipc::{Config, Identity, Refusal, Wait};

use crate::peer::Peer;

/// Returns one message of each code that a family with a fixed leader has no use for.
fn of_succession() -> [Message<'static>; 10] {
    [
        Message::Heirs(HeirList {
            epoch: 2,
            config: 2,
            heirs: [9, 0, 0, 0],
        }),
        Message::Log(&[]),
        Message::State(&[1, 2, 3]),
        Message::HeirReady(HeirReady { op: 1, digest: 2 }),
        Message::Resign(Resignation {
            epoch: 1,
            heir: 9,
            op: 3,
        }),
        Message::Leader(NewLeader {
            epoch: 2,
            config: 2,
            vmid: 9,
            mode: SuccessionMode::Standby,
        }),
        Message::Rejoin(Rejoin {
            epoch: 1,
            config: 1,
            pid: 3,
            waiting: 0,
            sent: 5,
            received: 6,
        }),
        Message::Mark(1),
        Message::WhoLeads,
        Message::Dismiss(Dismissal {
            reason: DismissReason::Left,
            epoch: 1,
        }),
    ]
}

fn bytes_of(seq: u64, message: &Message<'_>) -> Vec<u8> {
    let mut bytes = vec![0; message.length()];
    message.encode(seq, &mut bytes).unwrap();
    bytes
}

#[test]
fn messages_about_a_succession_are_skipped_without_hello_and_end_the_connection_after_it() {
    let directory = tempfile::tempdir().unwrap();
    let base: PathBuf = directory.path().join("f");
    let leader = HostNode::start(&base, Identity::LEADER, Config::DEFAULT).unwrap();
    leader
        .join(Wait::at_most(std::time::Duration::from_secs(10)))
        .unwrap();
    let mut plain = Peer::join(&base, 9);
    for message in of_succession() {
        plain.to.write_all(&bytes_of(0, &message)).unwrap();
    }
    assert_eq!(plain.owner_of(1), 1);
    assert_eq!(leader.statistics().unknown_codes, 10);
    // A process may ask each other which one leads, and whether it can follow it: it gets an answer.
    let is_refused =
        |message: &Message<'_>| !matches!(message, Message::Rejoin(_) | Message::WhoLeads);
    let refused = of_succession().into_iter().filter(is_refused);
    for (vmid, message) in (10_u32..).zip(refused) {
        let mut peer = Peer::join(&base, vmid);
        let hello = Message::Hello(Hello::NO_PROCESS);
        peer.to.write_all(&bytes_of(0, &hello)).unwrap();
        // The leader's HELLO comes; after it LIMITS, and then the end.
        peer.from().read_exact(&mut [0]).unwrap();
        peer.to.write_all(&bytes_of(7, &message)).unwrap();
        let _ = peer.from().read_to_end(&mut Vec::new());
        let refused = leader.statistics().refused(Refusal::WrongRole);
        assert_eq!(refused, u64::from(vmid - 9), "{message:?}");
    }
    assert_eq!(plain.owner_of(1), 1, "others go on");
}
