//! The names of streams, as the platform's reports of readiness carry them.

use crate::pal::Token;

/// Which stream of a node a token names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Stranger(usize),
    Incoming { index: u32, generation: u32 },
    Outgoing { index: u32, generation: u32 },
}

const STRANGER: u64 = 0;
const INCOMING: u64 = 1;
const OUTGOING: u64 = 2;
/// The bits of a place's generation that a name has room for.
pub(in crate::node) const GENERATIONS: u32 = (1 << 28) - 1;

impl Name {
    pub(crate) fn token(self) -> Token {
        let (kind, generation, index) = match self {
            Name::Stranger(index) => (STRANGER, 0, index as u64),
            Name::Incoming { index, generation } => (INCOMING, generation, u64::from(index)),
            Name::Outgoing { index, generation } => (OUTGOING, generation, u64::from(index)),
        };
        Token(kind << 60 | u64::from(generation & GENERATIONS) << 32 | index)
    }

    pub(crate) fn of(token: Token) -> Option<Name> {
        let low = token.0 & u64::from(u32::MAX);
        let index = u32::try_from(low).ok()?;
        let generation = u32::try_from((token.0 >> 32) & u64::from(GENERATIONS)).ok()?;
        match token.0 >> 60 {
            STRANGER => Some(Name::Stranger(index as usize)),
            INCOMING => Some(Name::Incoming { index, generation }),
            OUTGOING => Some(Name::Outgoing { index, generation }),
            _ => None,
        }
    }
}
