//! The streams to and from peers, and the loop that moves their bytes.

mod adaptive_spin;
mod close;
mod dispatch;
mod halves;
mod identification;
mod limits;
mod member_messages;
mod member_state;
mod peer;
mod peer_share;
mod peer_table;
mod poll_loop;
mod recall_debt;
mod rejoin_state;
mod rx;
mod stream_key;
mod tx;
mod unidentified;
mod vmid_index;
mod work_queue;

pub(crate) use adaptive_spin::AdaptiveSpin;
pub(in crate::node) use halves::SendQueue;
pub(crate) use halves::{RxHalf, TxHalf};
pub(super) use limits::NONE as NO_LIMIT;
pub(crate) use peer_share::PollIterations;
pub(crate) use peer_table::{PeerRef, Peers};
pub(in crate::node) use poll_loop::UnidentifiedStream;
pub(crate) use poll_loop::{Retry, WorkerState};
pub(super) use rx::ReadingThread;
pub(crate) use stream_key::StreamKey;
pub(crate) use tx::longer_pause;
