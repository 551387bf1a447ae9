//! Bytes to be sent on the channel.

use super::Mux;
use crate::invariant::{Count, OrBroken};
use crate::pal::mux::frame::{FRAME, FrameKind, MuxFrame};
use crate::pal::mux::streams::{RxState, TxState};
use crate::store::total;

impl<const STREAMS: usize, const WINDOW: usize> Mux<STREAMS, WINDOW> {
    /// Appends a frame to the buffer, if there is room for it and its data.
    pub(super) fn queue_frame(&mut self, kind: FrameKind, stream: u16, value: u32) -> bool {
        let data = match kind {
            FrameKind::Data => usize::try_from(value).unwrap_or(usize::MAX),
            _ => 0,
        };
        if self.tx_buffer.room() < total!(data, FRAME) {
            return false;
        }
        let frame = MuxFrame {
            kind,
            stream,
            value,
        };
        self.tx_buffer.push(&frame.bytes());
        true
    }

    /// Appends all pending frames, as far as there is room. No queue is needed, since the state of
    /// each stream determines its pending frames.
    pub(super) fn queue_pending(&mut self) {
        if !self.all_queued {
            self.all_queued = self.queue_all_pending();
        }
    }

    fn queue_all_pending(&mut self) -> bool {
        if !self.hello_sent {
            self.hello_sent = self.queue_frame(FrameKind::Hello, Self::COUNT, 0);
            if !self.hello_sent {
                return false;
            }
        }
        (0..Self::COUNT).all(|stream| self.queue_tx_state(stream) && self.queue_rx_state(stream))
    }

    fn queue_tx_state(&mut self, stream: u16) -> bool {
        let Some(outgoing) = self.outgoing.get(usize::from(stream)) else {
            return true;
        };
        let (life, to) = (outgoing.life, outgoing.to);
        let mut queued = TxState::empty();
        let opens = life.contains(TxState::OPENED) && !life.contains(TxState::OPEN_SENT);
        let ends = life.contains(TxState::ENDED) && !life.contains(TxState::END_SENT);
        let mut all = true;
        if opens {
            all = self.queue_frame(FrameKind::Open, stream, to);
            queued.set(TxState::OPEN_SENT, all);
        }
        if all && ends {
            all = self.queue_frame(FrameKind::End, stream, 0);
            queued.set(TxState::END_SENT, all);
        }
        if !queued.is_empty()
            && let Some(outgoing) = self.outgoing.get_mut(usize::from(stream))
        {
            outgoing.life |= queued;
            outgoing.free_if_finished();
        }
        all
    }

    fn queue_rx_state(&mut self, stream: u16) -> bool {
        let Some(incoming) = self.incoming.get(usize::from(stream)) else {
            return true;
        };
        let (life, stop, pending_credit) =
            (incoming.life, incoming.stop, incoming.pending_credit());
        let stops = life.contains(RxState::STOPPED) && !life.contains(RxState::STOP_SENT);
        if stops {
            if !self.queue_frame(FrameKind::Stop, stream, stop.value()) {
                return false;
            }
        } else if pending_credit > 0 {
            let more = u32::try_from(pending_credit).or_broken(0);
            if !self.queue_frame(FrameKind::Credit, stream, more) {
                return false;
            }
        } else {
            return true;
        }
        if let Some(incoming) = self.incoming.get_mut(usize::from(stream)) {
            if stops {
                incoming.life |= RxState::STOP_SENT;
                incoming.free_if_finished();
            } else {
                incoming.granted = incoming.granted.plus(pending_credit);
                incoming.consumed = 0;
            }
        }
        true
    }
}
