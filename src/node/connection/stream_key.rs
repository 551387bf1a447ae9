//! The keys of streams, as the platform's readiness events carry them.

use crate::pal::Token;

/// The stream of a node that a token identifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamKey {
    Unidentified(usize),
    Incoming {
        index: u32,
        generation: u32,
    },
    Outgoing {
        index: u32,
        generation: u32,
    },
    /// The log of the leader, at its heir.
    Log,
}

const UNIDENTIFIED: u64 = 0;
const INCOMING: u64 = 1;
const OUTGOING: u64 = 2;
const LOG: u64 = 3;
/// The bits of a slot's generation that fit into a key.
pub(in crate::node) const GENERATIONS: u32 = (1 << 28) - 1;

impl StreamKey {
    pub(crate) fn token(self) -> Token {
        let (kind, generation, index) = match self {
            StreamKey::Unidentified(index) => (UNIDENTIFIED, 0, index as u64),
            StreamKey::Incoming { index, generation } => (INCOMING, generation, u64::from(index)),
            StreamKey::Outgoing { index, generation } => (OUTGOING, generation, u64::from(index)),
            StreamKey::Log => (LOG, 0, 0),
        };
        Token(kind << 60 | u64::from(generation & GENERATIONS) << 32 | index)
    }

    pub(crate) fn of(token: Token) -> Option<StreamKey> {
        let low = token.0 & u64::from(u32::MAX);
        let index = u32::try_from(low).ok()?;
        let generation = u32::try_from((token.0 >> 32) & u64::from(GENERATIONS)).ok()?;
        match token.0 >> 60 {
            UNIDENTIFIED => Some(StreamKey::Unidentified(index as usize)),
            INCOMING => Some(StreamKey::Incoming { index, generation }),
            OUTGOING => Some(StreamKey::Outgoing { index, generation }),
            LOG => Some(StreamKey::Log),
            _ => None,
        }
    }
}
