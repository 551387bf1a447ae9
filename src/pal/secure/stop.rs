//! Why a read or write of a secure stream moved nothing.

use super::Breach;
use crate::pal::StreamError;

/// Why a read or write moved nothing.
#[derive(Clone, Copy)]
pub(super) enum Stop {
    Stream(StreamError),
    Breach(Breach),
}

impl From<StreamError> for Stop {
    fn from(error: StreamError) -> Stop {
        Stop::Stream(error)
    }
}

impl From<Breach> for Stop {
    fn from(breach: Breach) -> Stop {
        Stop::Breach(breach)
    }
}
