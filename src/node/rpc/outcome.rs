//! The one table of statuses to errors, and the results that answers stand for. They are the same
//! wherever the process that answered is.

use crate::Vmid;
use crate::error::{Errno, Error, Invalid};
use crate::wire::{Answer, HeldLock, Process};

/// Returns the error for the error number of an answer of the leader.
pub(in crate::node) fn error_of(errno: Errno) -> Error {
    error_by(None, errno)
}

/// Returns the error for the error number of an answer, which is the library OS's of that process, or the leader's.
pub(in crate::node) fn error_by(by: Option<Vmid>, errno: Errno) -> Error {
    match errno {
        Errno::ESRCH => Error::NoSuchProcess,
        Errno::EINVAL if by.is_none() => Error::Invalid(Invalid::AtPeer),
        errno => Error::Refused { errno, by },
    }
}

/// Returns the result of a request to the leader whose answer is a status.
pub(in crate::node) fn done(answer: Answer<'_>) -> Result<(), Error> {
    done_by(None, answer)
}

/// Returns the result of a request whose answer is a status, which is the library OS's of that process, or the
/// leader's.
pub(in crate::node) fn done_by(by: Option<Vmid>, answer: Answer<'_>) -> Result<(), Error> {
    match answer {
        Answer::Empty | Answer::DONE => Ok(()),
        Answer::Status(Err(errno)) => Err(error_by(by, errno)),
        _ => Err(Error::Invalid(Invalid::Answer)),
    }
}

/// Returns the process that was found.
pub(in crate::node) fn process(answer: Answer<'_>) -> Result<Process, Error> {
    match answer {
        Answer::Process(found) => found.map_err(error_of),
        _ => Err(Error::Invalid(Invalid::Answer)),
    }
}

/// Returns the lock that was found, if there is one.
pub(in crate::node) fn lock(answer: Answer<'_>) -> Result<Option<HeldLock>, Error> {
    match answer {
        Answer::Lock(found) => found.map_err(error_of),
        _ => Err(Error::Invalid(Invalid::Answer)),
    }
}
