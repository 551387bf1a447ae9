//! Display of events as lines of text.

use core::fmt;

use super::{Call, EventKind, EventRecord, Events, FrameInfo};
use crate::number::{Number, Padded};
use crate::wire::codes;

impl fmt::Display for Events<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.clone().try_for_each(|event| writeln!(f, "{event}"))
    }
}

impl fmt::Display for EventRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = core::time::Duration::from_nanos(self.time.0);
        let seconds = Padded(time.as_secs(), 7, " ");
        let micros = Padded(time.subsec_micros().into(), 6, "0");
        write!(f, "{seconds}.{micros}  {}", self.kind)
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EventKind::FrameIn(frame) => write!(f, "<- {frame}"),
            EventKind::FrameOut(frame) => write!(f, "-> {frame}"),
            EventKind::Connected(peer) => write!(f, "process {peer} is connected"),
            EventKind::Disconnected(peer) => write!(f, "process {peer} is gone"),
            EventKind::LeaderChanged { leader, epoch } => {
                let epoch = Number((*epoch).into());
                write!(f, "the leader is now process {leader}, in epoch {epoch}")
            }
            EventKind::Refused {
                peer: Some(peer),
                reason,
            } => write!(f, "process {peer} is refused: {reason}"),
            EventKind::Refused { peer: None, reason } => {
                write!(f, "a connection is refused: {reason}")
            }
            EventKind::CallBegun(call) => write!(f, "call {call}"),
            EventKind::CallEnded(call, Ok(())) => write!(f, "call {call}: done"),
            EventKind::CallEnded(call, Err(error)) => write!(f, "call {call}: {}", error.errno()),
        }
    }
}

impl fmt::Display for FrameInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.peer, codes::CodeName(self.code))?;
        if self.seq != 0 {
            write!(f, " #{}", Number(self.seq.into()))?;
        }
        write!(f, ", {} bytes", Number(self.length.into()))
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Call { peer, code, seq } = self;
        write!(
            f,
            "{peer} {} #{}",
            codes::CodeName(*code),
            Number((*seq).into())
        )
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::string::ToString;

    use super::*;
    use crate::Vmid;
    use crate::error::Error;
    use crate::pal::Time;

    #[test]
    fn an_event_is_displayed_as_text() {
        let event = |kind| EventRecord {
            number: 7,
            time: Time(12_345_678_999),
            kind,
        };
        let frame = FrameInfo {
            peer: Vmid::LEADER,
            code: codes::GET_ID_OWNER,
            seq: 64,
            length: 21,
        };
        let line = event(EventKind::FrameIn(frame)).to_string();
        assert_eq!(line, "     12.345678  <- 1 GET_ID_OWNER #64, 21 bytes");
        let call = Call {
            peer: Vmid::LEADER,
            code: 200,
            seq: 64,
        };
        let line = event(EventKind::CallEnded(call, Err(Error::NoChild))).to_string();
        assert_eq!(line, "     12.345678  call 1 code 200 #64: ECHILD (10)");
    }
}
