//! The leader's state goes to a new heir in slices, a few in each turn of the worker, while the family works.
//!
//! A slice that has changed since it was sent is sent again. When few change, the last round is made under
//! the lock of the tables, so that all slices are of one moment; from then on the log goes on.

use super::heirs::CONFIRM_LIMIT;
use super::leader_log::{Log, LogStage};
use crate::invariant::{Count, OrBroken};
use crate::leader::ImageCursor;
use crate::node::{Node, PeerRef};
use crate::pal::Pal;
use crate::store::{Arena, Buffer, Table, bytes_for, total};
use crate::sync::Ordering;
use crate::wire::Message;

/// The length of a slice in bytes.
const SLICE: usize = 4096;

/// The slices that are made in one turn of the worker.
const SLICES_PER_TURN: usize = 16;

/// The rounds after which the last one is made even if many slices still change.
const MOST_ROUNDS: usize = 8;

/// How far the state was sent.
pub(super) struct Filling<'m> {
    checksums: Table<'m, u64>,
    slice: Buffer<'m>,
    cursor: ImageCursor,
    round: usize,
    changed: usize,
}

/// A slice was sent, or did not change.
enum Sliced {
    Next,
    Last,
    NoRoom,
}

impl<'m> Filling<'m> {
    /// The slices whose checksums are remembered: more than there are of tables of that length.
    const fn slices(tables: usize) -> usize {
        total!(tables / (SLICE / 2), 1)
    }

    pub(super) const fn bytes(tables: usize) -> usize {
        total!(bytes_for::<u64>(Filling::slices(tables)), SLICE)
    }

    pub(super) fn new(arena: &mut Arena<'m>, tables: usize) -> Self {
        Filling {
            checksums: arena.alloc_filled(Filling::slices(tables), &0),
            slice: arena.alloc_buffer(SLICE),
            cursor: ImageCursor::default(),
            round: 0,
            changed: 0,
        }
    }

    pub(super) fn begin(&mut self) {
        for checksum in self.checksums.iter_mut() {
            *checksum = 0;
        }
        self.round = 0;
        self.begin_round();
    }

    fn begin_round(&mut self) {
        self.cursor = ImageCursor::default();
        self.changed = 0;
    }
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
                        peer.unsettled.store(2, Ordering::SeqCst);
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
