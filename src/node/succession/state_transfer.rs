//! State transfer: the leader sends its state to a new heir in slices, a few in each poll iteration, while the family
//! works.
//!
//! The leader sends a slice again if it has changed since it was sent. When few slices change in a round, the leader makes
//! the last round under the lock of the tables, so that all slices are of one moment. From then on it appends each operation
//! to the log.

use core::time::Duration;

use super::leader_log::{Log, LogStage};
use super::transfer_progress::{SLICE, TransferProgress};
use crate::invariant::{Count, OrBroken};
use crate::node::{LeaderTables, Node, PeerRef};
use crate::pal::Pal;
use crate::store::total;
use crate::sync::Ordering;
use crate::wire::Message;

/// The time in which the heir must confirm the state.
const CONFIRM_LIMIT: Duration = Duration::from_secs(2);

/// The slices that are made in one poll iteration.
const SLICES_PER_ITERATION: usize = 16;

/// The number of rounds after which the leader makes the last one even if many slices still change.
const MAX_ROUNDS: usize = 8;

/// The result of [`send_slice`].
enum Sliced {
    /// The slice was sent, or has not changed; others follow in this round.
    Next,
    /// The same, of the last slice of the round.
    Last,
    /// The log has no room for the slice.
    NoRoom,
}

impl<'m, P: Pal> Node<'m, P> {
    /// Sends some slices of the state to the heir.
    pub(super) fn poll_state_transfer(
        &self,
        log: &Log<'m, P::Stream>,
        peer: &PeerRef<'_, 'm, P::Stream>,
    ) {
        let Some(tables) = self.leading() else { return };
        let Some(mut writer) = log.writer.try_lock() else {
            return;
        };
        let progress = &mut writer.transfer;
        for _ in 0..SLICES_PER_ITERATION {
            // The lock is taken for each slice, so that other threads use the tables in between.
            let sliced = send_slice(log, progress, &tables.lock());
            match sliced {
                Sliced::Next => {}
                Sliced::NoRoom => return,
                Sliced::Last => {
                    // Half of the slices that the queue has room for: more may change until the last round.
                    let few = log.half().checked_div(SLICE + SLICE).or_broken(0);
                    let is_last = progress.changed <= few || progress.round >= MAX_ROUNDS;
                    progress.round.increment();
                    progress.begin_round();
                    if !is_last {
                        return;
                    }
                    if !self.make_last_round(log, progress, tables) {
                        return progress.begin_round();
                    }
                    drop(writer);
                    self.flush_log();
                    if self.put(peer, 0, &Message::Mark(0)).is_ok() {
                        self.flush(peer);
                    }
                    return;
                }
            }
        }
    }

    /// Sends the slices that have changed in the last round, and the end of the state, under the lock of the tables.
    /// Returns false if the log has no room for them: then the round is made again.
    #[inline]
    fn make_last_round(
        &self,
        log: &Log<'m, P::Stream>,
        progress: &mut TransferProgress<'m>,
        tables: &LeaderTables<'m>,
    ) -> bool {
        let tables = tables.lock();
        loop {
            match send_slice(log, progress, &tables) {
                Sliced::Next => {}
                Sliced::NoRoom => return false,
                Sliced::Last => break,
            }
        }
        if !log.append(&Message::State(&[])) {
            return false;
        }
        log.expected_op.store(tables.ops(), Ordering::SeqCst);
        log.expected_digest.store(tables.digest(), Ordering::SeqCst);
        let limit = self.now() + CONFIRM_LIMIT;
        log.confirm_by.store(limit.0, Ordering::SeqCst);
        log.set_stage(LogStage::Unconfirmed);
        // Still under the lock of the tables: the heir computes each frame that is queued after this.
        for peer in self.peers.all() {
            let is_handed_over = self.hand_over_queue(log, &tables, &peer);
            let unsettled = if is_handed_over { 0 } else { 2 };
            peer.member.unsettled.store(unsettled, Ordering::SeqCst);
        }
        true
    }
}

/// Appends the next slice to the log, if it has changed since it was sent.
fn send_slice<S: crate::pal::Stream>(
    log: &Log<'_, S>,
    progress: &mut TransferProgress<'_>,
    leader: &crate::leader::Leader<'_>,
) -> Sliced {
    if log.room() < total!(SLICE, SLICE) {
        return Sliced::NoRoom;
    }
    let slice = progress.slice.prefix_mut(SLICE);
    let Ok((length, next)) = leader.save_slice(progress.cursor, slice) else {
        return Sliced::NoRoom;
    };
    let slice = slice.get(..length).or_broken(&[]);
    let checksum = crate::leader::Leader::slice_checksum(slice).or_broken(0);
    let known = progress
        .checksums
        .get_mut(progress.cursor.number() as usize);
    if known.as_ref().is_none_or(|known| **known != checksum) {
        if !log.append(&Message::State(slice)) {
            return Sliced::NoRoom;
        }
        progress.changed.increment();
        if let Some(known) = known {
            *known = checksum;
        }
    }
    match next {
        Some(next) => {
            progress.cursor = next;
            Sliced::Next
        }
        None => Sliced::Last,
    }
}
