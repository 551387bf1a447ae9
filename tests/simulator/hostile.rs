//! A member that sends anything.

use fastrand::Rng;
use libos_ipc::Vmid;
use libos_ipc::pal::{Pal, Stream};

/// One stream to the leader at a time, and no patience.
pub(crate) struct Hostile<P: Pal> {
    pal: P,
    stream: Option<P::Stream>,
}

impl<P: Pal> Hostile<P> {
    pub(crate) fn new(pal: P) -> Self {
        Hostile { pal, stream: None }
    }

    /// Does one bad thing.
    pub(crate) fn act(&mut self, rng: &mut Rng) {
        if self.stream.is_none() || rng.u8(..) < 10 {
            self.stream = self.pal.connect(Vmid::FIRST).ok();
            let Some(stream) = &self.stream else { return };
            // Its own VMID, that of nobody, or one that it can't have.
            let vmid: u32 = [7, 900, 901, 0, 1][rng.usize(0..5)];
            let said = vmid.to_le_bytes();
            let _ = stream.write(&[&said[..rng.usize(0..=4)]]);
        }
        let Some(stream) = &self.stream else { return };
        let mut frame = [0; 96];
        rng.fill(&mut frame);
        if rng.u8(..) < 200 {
            // Something like a frame.
            let length = [17, 17, 21, 25, 25, 37, 66, 96][rng.usize(0..8)];
            let size = if rng.u8(..) < 240 {
                length as u64
            } else {
                rng.u64(..)
            };
            frame[..8].copy_from_slice(&size.to_le_bytes());
            frame[16] = rng.u8(0..20);
            if rng.bool() {
                // About IDs that exist.
                frame[17..21].copy_from_slice(&rng.u32(0..200).to_le_bytes());
                frame[21..25].copy_from_slice(&rng.u32(0..200).to_le_bytes());
            }
            let _ = stream.write(&[&frame[..length]]);
        } else {
            let _ = stream.write(&[&frame[..rng.usize(0..96)]]);
        }
        // What it is answered it may read or not.
        if rng.bool()
            && let Ok(back) = self.pal.accept()
        {
            let _ = back.read(&mut frame);
        }
    }
}
