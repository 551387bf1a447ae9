//! Secure streams beside plain ones.

use std::io::Result;
use std::path::Path;
use std::time::{Duration, Instant};

use libos_ipc::host::{HostNode, SecureHost};
use libos_ipc::pal::Pal;
use libos_ipc::pal::secure::FamilyKey;
use libos_ipc::wire::{IdRange, Message};
use libos_ipc::{Config, Identity, Node, Vmid};

use crate::common::process::{ready, wait_for_the_end};
use crate::common::{Bar, REPETITIONS, WAIT, judged_row, large, median, row};
use crate::process::Family;

/// Returns the key of the family. The bench has no secrets, so the key is constant.
fn key() -> FamilyKey {
    FamilyKey::new(1, &[1; 32])
}

/// Runs a leader with secure streams. `spin` is in nanoseconds.
pub(crate) fn leader(base: &str, spin: u64) -> Result<()> {
    let config = Config {
        spin: Duration::from_nanos(spin),
        ..large()
    };
    let node = HostNode::start_secure(Path::new(base), Identity::LEADER, config, key())?;
    ready()?;
    wait_for_the_end()?;
    drop(node);
    Ok(())
}

/// A plain family and a secure one, and a member of each in this process.
struct Pair {
    plain: HostNode,
    secure: HostNode<SecureHost>,
    _families: [Family; 2],
}

impl Pair {
    fn start(spin: Duration) -> Result<Pair> {
        let config = Config { spin, ..large() };
        let families = [
            Family::start(&config)?,
            Family::start_as("secure-leader", &config)?,
        ];
        let identity = Identity::child(Vmid::new(2).expect("not 0"), Vmid::LEADER);
        let config = Config {
            spin,
            ..Config::DEFAULT
        };
        let [plain, secure] = &families;
        Ok(Pair {
            plain: HostNode::start(plain.base(), identity, config)?,
            secure: HostNode::start_secure(secure.base(), identity, config, key())?,
            _families: families,
        })
    }
}

fn round_trip<P: Pal>(node: &Node<'_, P>, count: u32) -> Duration {
    let start = Instant::now();
    for id in 1..=count {
        node.owner_of(id, WAIT).expect("the leader answers");
    }
    start.elapsed() / count
}

/// Sends small frames in batches, until the last is handled.
fn queued<P: Pal>(node: &Node<'_, P>, count: u32) -> Duration {
    let frame = Message::ReleaseIdRange(IdRange { start: 1, end: 32 });
    let start = Instant::now();
    for _ in 0..count {
        node.queue(Vmid::LEADER, &frame, WAIT).expect("room");
    }
    node.owner_of(1, WAIT).expect("the leader answers");
    start.elapsed() / count
}

pub(crate) fn measure(pinned: bool) -> Result<()> {
    let count = if pinned { 10_000 } else { 2_000 };
    let sleeping = Pair::start(Duration::ZERO)?;
    let spinning = Pair::start(Config::DEFAULT.spin)?;
    let mut rows = [const { Vec::new() }; 6];
    for _ in 0..=REPETITIONS {
        rows[0].push(round_trip(&sleeping.plain, count));
        rows[1].push(round_trip(&sleeping.secure, count));
        rows[2].push(round_trip(&spinning.plain, count));
        rows[3].push(round_trip(&spinning.secure, count));
        rows[4].push(queued(&spinning.plain, 200_000));
        rows[5].push(queued(&spinning.secure, 200_000));
    }
    let [
        sleeping,
        sleeping_secure,
        spinning,
        spinning_secure,
        queued,
        queued_secure,
    ] = rows.map(median);
    row(
        "plain streams: look-up at the leader, spin off",
        sleeping,
        None,
    );
    let bar = Some(Bar::AtMost(1.25));
    judged_row("secure streams", sleeping_secure, sleeping, bar);
    row("plain streams: look-up at the leader", spinning, None);
    judged_row("secure streams", spinning_secure, spinning, bar);
    row("plain streams: one way, 25 bytes, queued", queued, None);
    row("secure streams", queued_secure, Some(queued));
    Ok(())
}
