//! The one table of statuses to errors, and the results that answers stand for. They are the same
//! wherever the process that answered is.

use crate::error::{Errno, Error};
use crate::wire::{Answer, HeldLock, Process};

/// Returns the error for the error number of an answer.
pub(in crate::node) fn error_of(errno: Errno) -> Error {
    match errno {
        Errno::ESRCH => Error::NoSuchProcess,
        Errno::EINVAL => Error::Invalid,
        errno => Error::Refused(errno),
    }
}

/// Returns the result of a request whose answer is a status.
pub(in crate::node) fn done(answer: Answer<'_>) -> Result<(), Error> {
    match answer {
        Answer::Empty | Answer::DONE => Ok(()),
        Answer::Status(Err(errno)) => Err(error_of(errno)),
        _ => Err(Error::Invalid),
    }
}

/// Returns the process that was found.
pub(in crate::node) fn process(answer: Answer<'_>) -> Result<Process, Error> {
    match answer {
        Answer::Process(found) => found.map_err(error_of),
        _ => Err(Error::Invalid),
    }
}

/// Returns the lock that was found, if there is one.
pub(in crate::node) fn lock(answer: Answer<'_>) -> Result<Option<HeldLock>, Error> {
    match answer {
        Answer::Lock(found) => found.map_err(error_of),
        _ => Err(Error::Invalid),
    }
}
