//! The valid signals, and those that discard each other (`signal(7)`, `kill(2)`).

/// The highest signal number (`signal(7)`).
pub const SIGNAL_MAX: i32 = 64;
/// The lowest real-time signal.
pub(super) const REAL_TIME: i32 = 32;

pub(in crate::leader) const SIGHUP: i32 = 1;
pub(in crate::leader) const SIGCONT: i32 = 18;
/// SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU.
const STOPS: u64 = 1 << 18 | 1 << 19 | 1 << 20 | 1 << 21;
const CONT: u64 = 1 << 17;

/// The leader's answer to [`Message::KillOrdered`](crate::wire::Message): nothing is under way, so
/// the requester sends its signal itself.
pub(crate) const SEND_DIRECTLY: u32 = 1;
/// The leader's answer to [`Message::KillOrdered`](crate::wire::Message): the signal is pending at the
/// leader.
pub(crate) const QUEUED: u32 = 2;

/// Returns true if the signal exists, or is 0.
pub(crate) fn is_signal(signal: i32) -> bool {
    (0..=SIGNAL_MAX).contains(&signal)
}

/// Returns the bit of a signal; none for 0, which only checks the target.
pub(super) fn signal_bit(signal: i32) -> Option<u64> {
    let bit = u32::try_from(signal).ok()?.checked_sub(1)?;
    1_u64.checked_shl(bit)
}

/// Returns the signals that a new one discards if they are not delivered yet: SIGCONT discards the
/// stop signals, and each of them discards SIGCONT.
pub(super) fn discarded_by(signal: i32) -> u64 {
    match signal_bit(signal).unwrap_or(0) {
        CONT => STOPS,
        bit if bit & STOPS != 0 => CONT,
        _ => 0,
    }
}
