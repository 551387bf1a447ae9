//! Converts the kernel's errors to those of streams, and has advice for a process or a system that has run out of something.

use rustix::io::Errno;

use crate::pal::StreamError;

/// Returns what to do if the process or the system has run out of something; nothing for any other error.
pub(super) fn exhaustion_advice(error: Errno) -> &'static str {
    match error {
        Errno::MFILE => {
            ": the process has no descriptors left; raise its limit (`raise_descriptor_limit`)"
        }
        Errno::NFILE => {
            ": the system has no descriptors left; raise fs.file-max, or end other processes"
        }
        Errno::NOSPC => {
            ": this user watches as many descriptors as it may; raise fs.epoll.max_user_watches"
        }
        Errno::NOMEM | Errno::NOBUFS => {
            ": the system has no memory left for it; end other processes, or give it more"
        }
        _ => "",
    }
}

/// Returns the error of a stream.
pub(super) fn stream_error(error: Errno) -> StreamError {
    match error {
        // A temporary shortage of kernel memory is handled like a full stream.
        Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM => StreamError::WouldBlock,
        Errno::INTR => StreamError::Interrupted,
        _ => StreamError::Closed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_of_an_exhausted_resource_comes_with_advice() {
        for (errno, advice) in [
            (Errno::MFILE, "raise_descriptor_limit"),
            (Errno::NFILE, "fs.file-max"),
            (Errno::NOSPC, "max_user_watches"),
            (Errno::NOMEM, "memory"),
        ] {
            assert!(exhaustion_advice(errno).contains(advice), "{errno:?}");
        }
        assert_eq!(exhaustion_advice(Errno::PIPE), "");
    }
}
