//! The leader's state goes to a new heir in slices, a few in each turn of the worker, while the family works.
//!
//! A slice that has changed since it was sent is sent again. When few change, the last round is made under
//! the lock of the tables, so that all slices are of one moment; from then on the log goes on.

use core::time::Duration;

use super::leader_log::{Log, LogStage};
use super::slices::{Filling, SLICE};
use crate::invariant::{Count, OrBroken};
use crate::node::{Node, PeerRef};
use crate::pal::Pal;
use crate::store::total;
use crate::sync::Ordering;
use crate::wire::Message;

/// The time in which the heir must confirm the state.
const CONFIRM_LIMIT: Duration = Duration::from_secs(2);

/// The slices that are made in one turn of the worker.
const SLICES_PER_TURN: usize = 16;

/// The rounds after which the last one is made even if many slices still change.
const MOST_ROUNDS: usize = 8;

/// A slice was sent, or did not change.
enum Sliced {
    Next,
    Last,
    NoRoom,
}

impl<'m, P: Pal> Node<'m, P> {
    /// Sends some slices of the state to the heir.
    pub(super) fn poll_filling(&self, log: &Log<'m, P::Stream>, peer: &PeerRef<'_, 'm, P::Stream>) {
        let Some(tables) = self.leading() else { return };
        let Some(mut writer) = log.writer.try_lock() else {
            return;
        };
        let filling = &mut writer.filling;
        for _ in 0..SLICES_PER_TURN {
            // Each slice under a lock of its own: others use the tables in between.
            let sliced = send_slice(log, filling, &tables.lock());
            match sliced {
                Sliced::Next => {}
                Sliced::NoRoom => return,
                Sliced::Last => {
                    // Half of what the queue has room for: more may change until the last round.
                    let few = log.half().checked_div(SLICE + SLICE).or_broken(0);
                    let is_last = filling.changed <= few || filling.round >= MOST_ROUNDS;
                    filling.round.increment();
                    if !is_last {
                        filling.begin_round();
                        return;
                    }
                    // The queue has room for what has changed in so short a time, or the round is made again.
                    filling.begin_round();
                    let tables = tables.lock();
                    loop {
                        match send_slice(log, filling, &tables) {
                            Sliced::Next => {}
                            Sliced::NoRoom => return filling.begin_round(),
                            Sliced::Last => break,
                        }
                    }
                    if !log.append(&Message::State(&[])) {
                        return filling.begin_round();
                    }
                    log.expected_op.store(tables.ops(), Ordering::SeqCst);
                    log.expected_digest.store(tables.digest(), Ordering::SeqCst);
                    let limit = self.now() + CONFIRM_LIMIT;
                    log.confirm_by.store(limit.0, Ordering::SeqCst);
                    log.set_stage(LogStage::Unconfirmed);
                    // Under the lock of the tables: what is queued from now on, the heir computes itself.
                    for peer in self.peers.all() {
                        let is_handed_over = self.hand_over_queue(log, &tables, &peer);
                        let unsettled = if is_handed_over { 0 } else { 2 };
                        peer.unsettled.store(unsettled, Ordering::SeqCst);
                    }
                    drop(tables);
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
}

/// Appends the next slice to the log, if it has changed since it was sent.
fn send_slice<S: crate::pal::Stream>(
    log: &Log<'_, S>,
    filling: &mut Filling<'_>,
    leader: &crate::leader::Leader<'_>,
) -> Sliced {
    if log.room() < total!(SLICE, SLICE) {
        return Sliced::NoRoom;
    }
    let slice = filling.slice.prefix_mut(SLICE);
    let Ok((length, next)) = leader.save_slice(filling.cursor, slice) else {
        return Sliced::NoRoom;
    };
    let slice = slice.get(..length).or_broken(&[]);
    let checksum = crate::leader::Leader::slice_checksum(slice).or_broken(0);
    let known = filling.checksums.get_mut(filling.cursor.number() as usize);
    if known.as_ref().is_none_or(|known| **known != checksum) {
        if !log.append(&Message::State(slice)) {
            return Sliced::NoRoom;
        }
        filling.changed.increment();
        if let Some(known) = known {
            *known = checksum;
        }
    }
    match next {
        Some(next) => {
            filling.cursor = next;
            Sliced::Next
        }
        None => Sliced::Last,
    }
}
