//! The image of the leader: its whole state as bytes, by which another leader gets it.
//!
//! The image is exact: a leader that has loaded all slices has the same digest, and comes to the same outcomes from then
//! on. It has the same [`LeaderCapacities`], which a [fingerprint](LeaderCapacities::fingerprint) compares. The state may
//! change between two slices: the caller saves those again whose [checksum](Leader::slice_checksum) has changed. A
//! table of the leader is in the image as soon as it is named in the list below.

mod wire;

use core::hash::{Hash, Hasher};

use super::departed::{Departed, MAX_DEPARTED};
use super::{Leader, LeaderCapacities};
use crate::store::{
    Digest, Image, ImageCursor, Loader, MalformedImage, SMALLEST_SLICE, Saver, image,
};
use crate::wire::TooSmall;

image!(Leader<'_> {
    fields { epoch, ops }
    parts {
        outbox,
        ranges,
        pending_grants,
        processes,
        locks,
        leases,
        vmids,
        departed,
        roster,
    }
    omitted { broadcast, observers }
});

image!(Departed<'_> {
    fields { next }
    tables { vmids: MAX_DEPARTED => 0 }
    valid { *next < MAX_DEPARTED }
});

impl Leader<'_> {
    /// Saves one slice of the image to the start of `out`. Returns its length, and the cursor of the next slice; `None`
    /// after the last one. All slices of one image are saved to buffers of one length. It takes a number of steps that the
    /// length of the buffer bounds.
    ///
    /// # Errors
    /// [`TooSmall`] if the buffer is shorter than [`SMALLEST_SLICE`].
    pub fn save_slice(
        &self,
        cursor: ImageCursor,
        out: &mut [u8],
    ) -> Result<(usize, Option<ImageCursor>), TooSmall> {
        let mut saver = Saver::new(cursor, out).ok_or(TooSmall)?;
        self.save(&mut saver);
        saver.finish().ok_or(TooSmall)
    }

    /// Returns how many slices of that length the image may have: above the [number](ImageCursor::number) of each.
    pub fn slices(&self, length: usize) -> usize {
        let mut counter = Saver::counter(length.max(SMALLEST_SLICE));
        self.save(&mut counter);
        counter.slices()
    }

    /// Returns the checksum of a slice: one that has changed has another one.
    ///
    /// # Errors
    /// [`MalformedImage`] if the bytes are too short for a slice.
    pub fn slice_checksum(slice: &[u8]) -> Result<u64, MalformedImage> {
        crate::store::stored_checksum(slice)
    }

    /// Gives a slice that was changed the checksum of its bytes: for tests.
    pub fn seal_slice(slice: &mut [u8]) {
        crate::store::seal(slice);
    }

    /// Loads a slice of the image of another leader. It may be loaded again, when it has changed. The leader cannot be
    /// used before [`Leader::finish_load`].
    ///
    /// # Errors
    /// [`MalformedImage`] if these are not the bytes of a slice for a leader with such capacities.
    pub fn load_slice(&mut self, slice: &[u8]) -> Result<(), MalformedImage> {
        let mut loader = Loader::new(slice)?;
        self.load(&mut loader)?;
        loader.finish()
    }

    /// Makes what is not in the image, after the last slice. It takes a number of steps in proportion to the
    /// capacities.
    ///
    /// # Errors
    /// [`MalformedImage`] if the tables do not agree with each other. Then the leader must not be used.
    pub fn finish_load(&mut self) -> Result<(), MalformedImage> {
        self.clear_unused();
        // No image is made between the operations of one signal for all. An heir that was one before may have begun another.
        self.broadcast = None;
        let is_complete = self.ranges.complete_image()
            && self.pending_grants.complete_image()
            && self.vmids.complete_image()
            && self.processes.complete_image()
            && self.locks.complete_image()
            && self.leases.complete_image()
            && self.roster.complete_image();
        if is_complete && self.check_invariants() {
            Ok(())
        } else {
            Err(MalformedImage)
        }
    }
}

impl LeaderCapacities {
    /// Returns a number that differs for other capacities, but for one in 2⁶⁴: only a leader with the same ones can load
    /// an image.
    pub fn fingerprint(&self) -> u64 {
        let mut digest = Digest::new();
        self.hash(&mut digest);
        digest.finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
