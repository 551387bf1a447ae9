use std::string::ToString;

use std::format;
use std::string::String;
use std::vec::Vec;

use super::*;

/// Every error, with one value of each number. The match has no arm for other errors, so a new one is added here.
fn all() -> Vec<Error> {
    let mut errors: Vec<_> = Invalid::ALL.map(Error::Invalid).into();
    let limits = [
        Resource::Peers,
        Resource::SendQueue,
        Resource::Waiters,
        Resource::Ranges,
        Resource::OwnRanges,
        Resource::Processes,
        Resource::Children,
        Resource::ReplyBuffers,
        Resource::SyncHandles,
        Resource::FrameLength,
        Resource::SyncData,
        Resource::Memory,
    ];
    errors.extend(limits.map(Error::Full));
    let (peer, errno) = (Vmid::LEADER, Errno::EPERM);
    let mut next = Some(Error::NoSuchProcess);
    while let Some(error) = next {
        errors.push(error);
        next = match error {
            Error::NoSuchProcess => Some(Error::LeaderGone),
            Error::LeaderGone => Some(Error::CutOff),
            Error::CutOff => Some(Error::TimedOut),
            Error::TimedOut => Some(Error::Interrupted),
            Error::Interrupted => Some(Error::LimitsDiffer {
                limit: Resource::SyncData,
                ours: ByteCount::new(64),
                theirs: ByteCount::new(128),
            }),
            Error::LimitsDiffer { .. } => Some(Error::NoIds),
            Error::NoIds => Some(Error::Refused { errno, by: None }),
            Error::Refused { by: None, .. } => Some(Error::Refused {
                errno,
                by: Some(peer),
            }),
            Error::Refused { by: Some(_), .. } => Some(Error::NoChild),
            Error::NoChild => Some(Error::Unsupported),
            Error::Unsupported => Some(Error::NotJoined),
            Error::NotJoined => Some(Error::NotLeader),
            Error::NotLeader => Some(Error::NotSecure),
            Error::NotSecure => Some(Error::ShuttingDown),
            Error::ShuttingDown => Some(Error::Platform),
            Error::Platform | Error::Full(_) | Error::Invalid(_) => None,
        };
    }
    errors
}

#[test]
fn the_text_of_each_error_says_what_was_wrong_and_what_to_do() {
    let texts: Vec<String> = all().iter().map(|error| format!("{error}")).collect();
    for (at, text) in texts.iter().enumerate() {
        let (wrong, advice) = text.split_once(": ").unwrap();
        assert!(wrong.len() > 15 && advice.len() > 10, "{text}");
        assert!(
            wrong.starts_with(char::is_lowercase) && !text.ends_with('.'),
            "{text}"
        );
        assert!(!texts[..at].contains(text), "twice: {text}");
    }
    assert!(texts.len() > 50);
}

#[test]
fn an_error_fits_into_a_register() {
    assert_eq!(size_of::<Error>(), 8);
    assert_eq!(size_of::<Result<(), Error>>(), 8);
    let causes = Invalid::ALL.map(|cause| Error::Invalid(cause).errno());
    let others = causes.iter().filter(|errno| **errno != Errno::EINVAL);
    // A lock behind the end of a file, and too many permits.
    assert_eq!(others.collect::<Vec<_>>(), [&Errno::EOVERFLOW; 2]);
}

#[test]
fn a_refusal_names_the_process_that_refused_and_the_number_by_name() {
    let peer = Vmid::new(7).unwrap();
    let errno = Errno::EPERM;
    let text = Error::Refused {
        errno,
        by: Some(peer),
    }
    .to_string();
    assert!(text.contains("process 7 refused with EPERM (1)"), "{text}");
    let text = Error::Refused {
        errno: Errno::EDEADLK,
        by: None,
    }
    .to_string();
    assert!(
        text.contains("the leader refused with EDEADLK (35)"),
        "{text}"
    );
}

#[test]
fn an_error_number_is_above_0_and_prints_its_name() {
    assert_eq!(Errno::new(0), None);
    assert_eq!(Errno::new(-35), None);
    assert_eq!(Errno::new(35), Some(Errno::EDEADLK));
    assert_eq!(Errno::EDEADLK.to_string(), "EDEADLK (35)");
    let unnamed = Errno::new(95).unwrap();
    assert_eq!(unnamed.to_string(), "error 95");
    assert_eq!(
        Error::Refused {
            errno: unnamed,
            by: None
        }
        .errno(),
        unnamed
    );
    assert_eq!(size_of::<Result<(), Errno>>(), size_of::<u16>());
    assert_eq!(Errno::new(65_535).unwrap().get(), 65_535);
    assert_eq!(Errno::new(i32::MAX), Errno::new(65_535));
}

#[test]
fn an_error_keeps_numbers_of_bytes_below_16_mib_exactly() {
    for (number, kept) in [(0, 0), (0x12_3456, 0x12_3456), (u32::MAX, 0xFF_FFFF)] {
        assert_eq!(ByteCount::new(number).get(), kept);
    }
    assert_eq!(ByteCount::new(1024).to_string(), "1024");
}

#[test]
fn a_status_of_a_peer_becomes_a_result_whatever_it_is() {
    assert_eq!(Errno::check(0), Ok(0));
    assert_eq!(Errno::check(i32::MAX), Ok(i32::MAX.cast_unsigned()));
    for (status, number) in [(-1, 1), (-i32::MAX, 65_535), (i32::MIN, 65_535)] {
        let errno = Errno::new(number).unwrap();
        assert_eq!(Errno::check(status), Err(errno));
        assert_eq!(Errno::status::<()>(&Err(errno)), -number);
    }
}
