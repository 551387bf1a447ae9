//! A client in C and one of this crate that both upgrade from reading to changing.

use std::io::Read;
use std::thread;
use std::time::Duration;

use libos_ipc::host::HostNode;
use libos_ipc::{Config, Errno, Error, Identity, Wait};

use crate::c_server::{
    CONFIRM_DOWNGRADE, CONFIRM_UPGRADE, EXCLUSIVE, INVALID, REQUEST_DOWNGRADE, REQUEST_UPGRADE,
    SHARED,
};
use crate::peer::Peer;

const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(10));
const ID: u64 = 7;

fn send_message(peer: &mut Peer, code: u8, state: i32, data: &[u8]) {
    let payload = [
        &ID.to_le_bytes()[..],
        &(data.len() as u64).to_le_bytes(),
        &state.to_le_bytes(),
        data,
        &[0; 4],
    ]
    .concat();
    peer.send(code, &payload);
}

/// Returns the code and the state of the server's next message.
fn next(peer: &mut Peer) -> (u8, i32) {
    let from = peer.from();
    let mut header = [0; 17];
    from.read_exact(&mut header).unwrap();
    let size = u64::from_le_bytes(header[..8].try_into().unwrap());
    let mut payload = vec![0; usize::try_from(size).unwrap() - 17];
    from.read_exact(&mut payload).unwrap();
    let state = i32::from_le_bytes(payload[16..20].try_into().unwrap());
    (header[16], state)
}

#[test]
fn an_upgrade_deadlock_serves_the_c_client_and_refuses_the_other() {
    for is_first in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("f");
        let leader = HostNode::start(&base, Identity::LEADER, Config::DEFAULT).unwrap();
        leader.join(WAIT).unwrap();
        let identity = leader.start_child(WAIT).unwrap();
        let node = HostNode::start(&base, identity, Config::DEFAULT).unwrap();
        node.join(WAIT).unwrap();
        let mut peer = Peer::join(&base, 9);
        send_message(&mut peer, REQUEST_UPGRADE, SHARED, b"");
        assert_eq!(next(&mut peer), (CONFIRM_UPGRADE, SHARED));
        let value = node.share::<u64>(Some(ID)).unwrap();
        let reader = value.read(WAIT).unwrap();
        if is_first {
            send_message(&mut peer, REQUEST_UPGRADE, EXCLUSIVE, b"");
            // The leader has handled it.
            assert_eq!(
                peer.owner_of(identity.pid.unwrap().get()),
                identity.vmid.get()
            );
        }
        thread::scope(|scope| {
            let upgraded = scope.spawn(|| match reader.upgrade(WAIT) {
                Ok(_) => panic!("both can change it"),
                Err((reader, error)) => {
                    drop(reader);
                    error
                }
            });
            if !is_first {
                // The leader has handled the other's request.
                assert_eq!(next(&mut peer), (REQUEST_DOWNGRADE, INVALID));
                send_message(&mut peer, REQUEST_UPGRADE, EXCLUSIVE, b"");
            }
            assert_eq!(
                upgraded.join().unwrap(),
                Error::Refused {
                    errno: Errno::EDEADLK,
                    by: None
                }
            );
        });
        assert_eq!(next(&mut peer), (CONFIRM_UPGRADE, EXCLUSIVE));
        thread::scope(|scope| {
            let read = scope.spawn(|| *value.read(WAIT).unwrap());
            let mut state = INVALID;
            if is_first {
                let (code, wanted) = next(&mut peer);
                assert_eq!(code, REQUEST_DOWNGRADE);
                // The other may have requested to change it, too.
                state = wanted;
            }
            send_message(&mut peer, CONFIRM_DOWNGRADE, state, &5_u64.to_le_bytes());
            assert_eq!(read.join().unwrap(), 5);
        });
    }
}
