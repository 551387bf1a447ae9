//! A secure stream between two members, and a host that changes its bytes in either direction. The
//! target checks that nothing panics, the bytes that are read are those that were written, from the
//! first on and in order, and the end is reported only if all of them were read.
#![no_main]

use std::sync::atomic::{AtomicU64, Ordering};

use libfuzzer_sys::fuzz_target;
use libos_ipc::Vmid;
use libos_ipc::pal::secure::{FamilyKey, SecurePal};
use libos_ipc::pal::{
    Deadline, Interest, OutOfResources, Pal, ReadyList, Stream, StreamError, Token,
};
use libos_ipc::testing::loopback::{Loopback, LoopbackStream, Network};

type TestNetwork = Network<3, 4, 700>;
type Platform<'w> = Loopback<'w, 3, 4, 700>;
type Raw<'w> = LoopbackStream<'w, 3, 4, 700>;

fn vmid(number: u32) -> Vmid {
    Vmid::new(number).expect("not 0")
}

fn random(buffer: &mut [u8]) -> Result<(), OutOfResources> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    for chunk in buffer.chunks_mut(8) {
        let number = NEXT.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        chunk.copy_from_slice(&number.to_le_bytes()[..chunk.len()]);
    }
    Ok(())
}

fn member<'w>(network: &'w TestNetwork, number: u32) -> SecurePal<Platform<'w>> {
    let key = FamilyKey::new(1, &[3; 32]);
    let platform = network.join(vmid(number)).expect("there is room");
    SecurePal::new(platform, vmid(number), key, random)
}

/// The bytes of one direction, which the host has and may change.
#[derive(Default)]
struct Direction {
    bytes: Vec<u8>,
    /// All bytes so far, for a replay.
    recorded: Vec<u8>,
}

impl Direction {
    /// Receives all bytes that were sent.
    fn take(&mut self, from: &Raw<'_>) {
        let mut buffer = [0; 700];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            self.bytes.extend_from_slice(&buffer[..count]);
            self.recorded.extend_from_slice(&buffer[..count]);
        }
    }

    /// Makes one change by the host.
    fn change(&mut self, action: u8, at: u8, with: &[u8]) {
        let at = usize::from(at).min(self.bytes.len());
        let end = (at + with.len()).min(self.bytes.len());
        match action {
            0 => {
                for (byte, with) in self.bytes[at..].iter_mut().zip(with) {
                    *byte ^= with;
                }
            }
            1 => drop(self.bytes.drain(at..end)),
            2 => drop(self.bytes.splice(at..at, with.iter().copied())),
            3 => {
                let again = self.recorded[at.min(self.recorded.len())..].to_vec();
                self.bytes.extend(again);
            }
            4 => self.bytes.reverse(),
            5 => self.bytes.extend_from_slice(with),
            6 => self.bytes.rotate_left(at),
            _ => {}
        }
    }

    /// Passes on at most that many bytes.
    fn pass_on(&mut self, to: &Raw<'_>, limit: usize) {
        let length = limit.min(self.bytes.len());
        if let Ok(count) = to.write(&[&self.bytes[..length]]) {
            self.bytes.drain(..count);
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let (near_network, far_network) = (Box::new(TestNetwork::new()), Box::new(TestNetwork::new()));
    let (one, two) = (member(&near_network, 1), member(&far_network, 2));
    let (one, two) = (&&one, &&two);
    let (fake, host) = (
        near_network.join(vmid(2)).expect("there is room"),
        far_network.join(vmid(9)).expect("there is room"),
    );
    let mut out = one.connect(vmid(2)).ok();
    let near = fake.accept().expect("it was opened");
    let mut far = host.connect(vmid(2)).ok();
    let inward = two.accept().expect("it was opened");
    if let Some(out) = &out {
        one.watch(out, Token(1), Interest::WRITE | Interest::HANG_UP)
            .expect("there is room");
    }
    two.watch(&inward, Token(2), Interest::READ)
        .expect("there is room");
    let (mut there, mut back) = (Direction::default(), Direction::default());
    let (mut written, mut read) = (Vec::new(), Vec::new());
    let message: Vec<u8> = [1, 0, 0, 0]
        .into_iter()
        .chain(4..=255)
        .cycle()
        .take(9000)
        .collect();
    let (mut has_ended, mut is_broken) = (false, false);
    let mut rest = bytes;
    while let [action, at, length, tail @ ..] = rest {
        let (with, tail) = tail.split_at(usize::from(*length % 64).min(tail.len()));
        rest = tail;
        let direction = if action & 0x80 == 0 {
            &mut there
        } else {
            &mut back
        };
        direction.change(action & 0x1f, *at, with);
        match action & 0x60 {
            0x20 => {
                if let (Some(out), Some(from)) = (&out, message.get(written.len()..)) {
                    let part = &from[..(1 + usize::from(*at) * 20).min(from.len())];
                    if !part.is_empty()
                        && let Ok(count) = out.write(&[part])
                    {
                        written.extend_from_slice(&part[..count]);
                    }
                }
            }
            0x40 if *length == 255 => out = None,
            0x60 if *length == 255 => far = None,
            _ => {}
        }
        there.take(&near);
        if let Some(far) = &far {
            back.take(far);
            there.pass_on(far, 1 + usize::from(*length) * 4);
        }
        back.pass_on(&near, 1 + usize::from(*length) * 4);
        let mut buffer = [0; 300];
        match inward.read(&mut buffer[..1 + usize::from(*at)]) {
            Ok(0) => has_ended = true,
            Ok(count) => {
                assert!(!has_ended && !is_broken, "bytes after the end");
                read.extend_from_slice(&buffer[..count]);
            }
            Err(StreamError::Closed) => is_broken = true,
            Err(_) => {}
        }
        for pal in [one, two] {
            let mut ready = ReadyList::new();
            pal.wait(&mut ready, Deadline::Now);
        }
        // A part of the bytes may have been passed on by the host already.
        assert!(message.starts_with(&read), "bytes that were not written");
        assert!(
            !has_ended || out.is_none(),
            "an end that the sender did not make"
        );
        assert!(
            !has_ended || read.len() >= written.len(),
            "the end before all was read"
        );
    }
});
