//! The reason why a read or write of a secure stream moved no bytes.

use super::Breach;
use crate::pal::StreamError;

/// The reason why a read or write moved no bytes.
#[derive(Clone, Copy)]
pub(super) enum TransferError {
    Stream(StreamError),
    Breach(Breach),
}

impl From<StreamError> for TransferError {
    fn from(error: StreamError) -> TransferError {
        TransferError::Stream(error)
    }
}

impl From<Breach> for TransferError {
    fn from(breach: Breach) -> TransferError {
        TransferError::Breach(breach)
    }
}
