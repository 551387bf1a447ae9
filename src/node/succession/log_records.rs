//! The heir handles the records of the log: the slices of the leader's state, and then its operations.

use super::heir::Heir;
use super::log_reader::{LogReader, ReadStage};
use super::unreceived::take_unreceived;
use crate::leader::Op;
use crate::log::log_event;
use crate::node::{LeaderTables, Node};
use crate::pal::{Pal, Stream};
use crate::sync::Ordering;
use crate::wire::{HeirReady, Message};

impl<'m, P: Pal> Node<'m, P> {
    /// Handles the complete records that were read.
    pub(super) fn handle_records(
        &self,
        heir: &'m Heir<'m, P::Stream>,
        reader: &mut LogReader<'m, P::Stream>,
    ) {
        loop {
            let (length, next) = match reader.frames.peek() {
                Ok(Some(frame)) => {
                    let message = frame.message().ok();
                    let next = message
                        .and_then(|message| self.handle_record(heir, &message, reader.stage));
                    (frame.length(), next)
                }
                Ok(None) => return,
                Err(_) => (0, None),
            };
            let Some(next) = next else {
                log_event!(
                    warn,
                    "the log of the leader has a record that it can't have"
                );
                reader.stage = ReadStage::Broken;
                return;
            };
            reader.stage = next;
            reader.frames.skip(length);
        }
    }

    /// Handles a record. Returns the stage after it; none if no correct leader writes this record in this stage.
    fn handle_record(
        &self,
        heir: &'m Heir<'m, P::Stream>,
        message: &Message<'_>,
        stage: ReadStage,
    ) -> Option<ReadStage> {
        let tables = self.leadership.tables?;
        match (*message, stage) {
            (Message::State([]), ReadStage::State) => {
                let ready = finish_state(heir, tables)?;
                let peer = self.peers.find(self.leader_vmid())?;
                self.put(&peer, 0, &Message::HeirReady(ready)).ok()?;
                self.call_worker(&peer);
                Some(ReadStage::Operations)
            }
            (Message::State(slice), ReadStage::State) => {
                tables.lock().load_slice(slice).ok()?;
                Some(stage)
            }
            (Message::State(bytes), ReadStage::Operations) => {
                let mut sent = heir.sent.lock();
                take_unreceived(sent.as_mut()?, bytes).then_some(stage)
            }
            (Message::Log(bytes), ReadStage::Operations) => {
                apply_record(heir, tables, bytes)?;
                Some(stage)
            }
            (Message::Heirs(list), ReadStage::Operations) => {
                let [first, ..] = list.heirs;
                let is_right = first == self.identity.vmid.get()
                    && list.epoch == tables.lock().epoch()
                    && self.handle_heirs(&list) == Ok(true);
                heir.is_named.store(is_right, Ordering::SeqCst);
                is_right.then_some(stage)
            }
            (Message::Resign(resignation), ReadStage::Operations) => {
                let tables = tables.lock();
                let is_right = resignation.heir == self.identity.vmid.get()
                    && resignation.op == tables.ops()
                    && resignation.epoch == tables.epoch();
                is_right.then_some(ReadStage::Resigned)
            }
            _ => None,
        }
    }
}

/// Completes the tables after the last slice of the state. Returns the state that the heir has; none if the slices do not
/// make a state.
fn finish_state<S: Stream>(heir: &Heir<'_, S>, tables: &LeaderTables<'_>) -> Option<HeirReady> {
    let mut tables = tables.lock();
    tables.finish_load().ok()?;
    let mut sent = heir.sent.lock();
    if let Some(sent) = &mut *sent {
        sent.begin(&tables);
    }
    Some(HeirReady {
        op: tables.ops(),
        digest: tables.digest(),
    })
}

/// Applies an operation of the leader, and keeps the frames that follow from it. None if the bytes are no operation of a
/// leader.
fn apply_record<S: Stream>(
    heir: &Heir<'_, S>,
    tables: &LeaderTables<'_>,
    bytes: &[u8],
) -> Option<()> {
    let mut request = None;
    let decoded = Op::decode(bytes, &mut request);
    let (op, _) = decoded.filter(|(_, length)| *length == bytes.len())?;
    // The heir itself applies this, after the end of the log.
    if let Op::Succeed { .. } = op {
        return None;
    }
    let mut tables = tables.lock();
    let mut sent = heir.sent.lock();
    if let Some(sent) = &mut *sent {
        sent.before_op(&tables, &op);
    }
    let outcome = tables.apply(&op);
    if let Some(sent) = &mut *sent {
        sent.after_op(&tables, &op, &outcome);
    }
    Some(())
}
