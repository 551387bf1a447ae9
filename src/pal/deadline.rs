//! The end of a wait.

use core::time::Duration;

use super::Time;

/// The time until which a wait may last. An earlier end compares as less, so [`Ord::min`] returns the end that comes
/// first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deadline {
    /// The wait is over at once: the caller only asks what is there.
    Now,
    /// The wait is over when the clock reaches this time. It may be in the past.
    At(Time),
    /// The wait has no limit.
    #[default]
    Never,
}

impl Deadline {
    /// Returns whether the wait is over. Reads the clock only if that decides.
    pub fn is_over(self, now: impl FnOnce() -> Time) -> bool {
        self.left(now) == Some(Duration::ZERO)
    }

    /// Returns the time that is left, zero if the wait is over; `None` if it has no limit. Reads the clock only for
    /// [`Deadline::At`].
    pub fn left(self, now: impl FnOnce() -> Time) -> Option<Duration> {
        match self {
            Deadline::Now => Some(Duration::ZERO),
            Deadline::At(time) => Some(time.since(now())),
            Deadline::Never => None,
        }
    }

    /// Returns the end as a point on the clock; `None` if there is none. [`Deadline::Now`] is the clock's start, which is
    /// always past.
    pub const fn time(self) -> Option<Time> {
        match self {
            Deadline::Now => Some(Time(0)),
            Deadline::At(time) => Some(time),
            Deadline::Never => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_over_when_the_clock_reaches_it() {
        let clock = || Time(5);
        let unread = || -> Time { unreachable!("the clock decides nothing") };
        assert!(Deadline::Now.is_over(unread));
        assert!(Deadline::At(Time(4)).is_over(clock));
        assert!(Deadline::At(Time(5)).is_over(clock));
        assert!(!Deadline::At(Time(6)).is_over(clock));
        assert!(!Deadline::Never.is_over(unread));
        let second = Duration::from_secs(1);
        assert_eq!(Deadline::At(Time(5) + second).left(clock), Some(second));
    }

    #[test]
    fn the_end_that_comes_first_is_the_lesser() {
        let ends = [
            Deadline::Now,
            Deadline::At(Time(0)),
            Deadline::At(Time(u64::MAX)),
            Deadline::Never,
        ];
        assert!(ends.is_sorted());
        assert_eq!(
            ends.map(Deadline::time).map(|time| time.map(|time| time.0)),
            [Some(0), Some(0), Some(u64::MAX), None]
        );
    }
}
