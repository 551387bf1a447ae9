//! Secure streams: delivery, attacks by a hostile host, and families over them.
#![cfg(feature = "secure")]
#![allow(missing_docs, clippy::cast_possible_truncation)]

mod attacks;
mod families;
mod silence;
mod streams;

use std::sync::atomic::{AtomicU64, Ordering};

use libos_ipc::Vmid;
use libos_ipc::pal::secure::{Breach, FamilyKey, SecurePal};
use libos_ipc::pal::{Deadline, OutOfResources, Pal, ReadyList};
use libos_ipc::testing::loopback::{Loopback, LoopbackStream, Network};

const PIPE: usize = 5000;

type Net = Network<4, 8, PIPE>;
type Plain<'n> = Loopback<'n, 4, 8, PIPE>;
type Raw<'n> = LoopbackStream<'n, 4, 8, PIPE>;

fn vmid(number: u32) -> Vmid {
    Vmid::new(number).unwrap()
}

/// Never returns the same bytes twice, which suffices for a test.
#[allow(clippy::unnecessary_wraps, reason = "others can fail")]
fn random(buffer: &mut [u8]) -> Result<(), OutOfResources> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    for chunk in buffer.chunks_mut(8) {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        chunk.copy_from_slice(&mixed[..chunk.len()]);
    }
    Ok(())
}

fn key() -> FamilyKey {
    FamilyKey::new(5, &[7; 32])
}

fn member(net: &Net, number: u32) -> SecurePal<Plain<'_>> {
    SecurePal::new(net.join(vmid(number)).unwrap(), vmid(number), key(), random)
}

fn poll_ready<P: Pal>(node: &P) -> ReadyList {
    let mut ready = ReadyList::new();
    node.wait(&mut ready, Deadline::Never);
    ready
}

/// Checks the counts of all breaches.
fn assert_breaches<P: Pal>(pal: &SecurePal<P>, expected: &[(Breach, u64)]) {
    let counted: Vec<_> = Breach::ALL
        .into_iter()
        .map(|breach| (breach, pal.statistics().breaches(breach)))
        .filter(|(_, count)| *count > 0)
        .collect();
    assert_eq!(counted, expected);
}
