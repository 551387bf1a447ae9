//! The kinds of frames between a member and its leader.

use crate::leader::{Op, Signals};
use crate::wire::{KillTarget, Message, SyncCode, codes};

/// The sequence number of REJOIN: no call has it.
pub(super) const REJOIN_SEQ: u64 = u64::MAX;

/// The sequence number of `WHO_LEADS`: no call has it.
pub(super) const WHO_LEADS_SEQ: u64 = u64::MAX - 1;

/// Returns true if the leader executes the message as the leader, not as a process.
pub(in crate::node) fn is_for_leader(message: &Message<'_>) -> bool {
    is_look_up(message) || is_counted(message)
}

pub(super) fn is_look_up(message: &Message<'_>) -> bool {
    matches!(
        message,
        Message::GetIdOwner(_) | Message::ProcessQuery(_) | Message::ProcessEnd(_)
    )
}

/// Returns true if the message changes the leader's state, so that its frame is counted.
pub(super) fn is_counted(message: &Message<'_>) -> bool {
    match message {
        Message::PidKill(kill) => kill.target == KillTarget::All,
        Message::Sync(code, _) => code.is_for_server(),
        Message::SyncNote { .. } => true,
        message => Op::is_change(message),
    }
}

/// Returns true if a member sends the message to another process than the leader, too.
pub(super) const fn is_for_parent(message: &Message<'_>) -> bool {
    matches!(message, Message::ChildExit(_))
}

/// Returns true if a leader sends the message to members, too.
pub(super) const fn is_for_members(message: &Message<'_>) -> bool {
    matches!(message, Message::PidKill(_))
}

/// Returns true if a frame of the leader is a counted message: one of its outbox that is no answer.
pub(super) fn is_counted_from_leader(code: u8, seq: u64) -> bool {
    match code {
        codes::PID_KILL => Signals::is_forwarded(seq),
        codes::PID_KILL_PASSED
        | codes::CHILDEXIT
        | codes::PROCESS_NOTE
        | codes::FILE_GIVEN
        | codes::FILE_LOCK_RECALL
        | codes::SYNC_NOTE => true,
        code => SyncCode::ALL
            .iter()
            .any(|sync| sync.number() == code && !sync.is_for_server()),
    }
}

/// Returns true if a frame is the answer to a request of a member, not to a question about the
/// succession.
pub(super) fn is_answer_to_request(code: u8, seq: u64) -> bool {
    code == codes::RESP && !matches!(seq, REJOIN_SEQ | WHO_LEADS_SEQ)
}

/// Returns true if only a leader sends frames of this kind to a member, and they are not counted.
pub(super) const fn is_of_leader(code: u8) -> bool {
    matches!(
        code,
        codes::HEIRS | codes::DISMISS | codes::LOG | codes::MARK | codes::HEARTBEAT
    )
}
