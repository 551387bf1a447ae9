//! Platforms with one defect each, which the checks must find.

mod event;
mod platform;
mod state;
mod stream;
mod waits;

use core::fmt;

pub use self::platform::Defective;
use super::rules::Rule;

macro_rules! defects {
    ($($defect:ident, $rule:ident, $text:literal;)*) => {
        /// A defect of a platform.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Defect {
            $(#[doc = $text] $defect,)*
        }

        impl Defect {
            /// All defects.
            pub const ALL: &[Defect] = &[$(Defect::$defect,)*];

            /// Returns the rule that the defect breaks.
            pub const fn rule(self) -> Rule {
                match self { $(Defect::$defect => Rule::$rule,)* }
            }
        }

        impl fmt::Display for Defect {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Defect::$defect => $text,)* })
            }
        }
    };
}

defects! {
    ClockStands, ClockStands, "the clock stands";
    ClockJumpsBack, ClockGoesBack, "the clock jumps back now and then";
    ClockInMicroseconds, ClockUnit, "the clock counts microseconds";
    ClockJumpsAhead, ClockUnit, "the clock jumps ahead by an hour";
    EventsShareState, EventState, "all events have one state";
    EventResets, EventState, "a wait clears the event";
    SetIsLost, EventSetBefore, "an event that is set before the wait does not end it";
    EventWaitIgnoresTime, EventTime, "a wait for an event has no time limit";
    SetWakesNobody, EventWakesAll, "setting an event wakes no thread";
    SetWakesOne, EventWakesAll, "setting an event wakes one thread";
    SetWakesOnce, EventWakesAll, "setting an event again wakes no thread";
    WaitIgnoresTime, WaitTime, "a wait has no time limit";
    WakeBeforeIsLost, WakeBefore, "a wake before the wait is lost";
    FarLimitHangs, WakeBefore, "a wait with a limit in 500 years has no end";
    WakeDuringIsLost, WakeDuring, "a wake during the wait is lost";
    WakeIsLate, WakeDuring, "a wait looks for a wake once a second";
    AbsentIsBusy, NotListening, "a process that does not exist is busy";
    FullIsAbsent, Backlog, "a process with a full backlog does not listen";
    ListenerStays, NeverAccepted, "the streams that an ending node has not accepted stay open";
    ReadBlocks, WouldBlock, "a read waits for bytes";
    ReadReorders, Order, "a read swaps two bytes";
    FourthPartIsLost, Order, "the fourth part of a write is lost";
    ReadTooLong, ReadCount, "a read returns more bytes than its buffer has";
    WriteTooLong, WriteCount, "a write returns more bytes than it was given";
    WriteReturnsAll, WriteCount, "a partial write is taken for a whole one";
    EndLosesBytes, End, "the end comes before the last bytes were read";
    EarlyBytesAreLost, End, "a stream that has ended before it is accepted is empty";
    DropStaysOpen, DropEnds, "dropping a stream does not end it";
    ReaderGoneIsFull, ReaderGone, "a write without a reader would block";
    FullStopsOthers, Independent, "a full stream stops all others";
    EdgeTriggered, Level, "a ready stream is reported once";
    WriteOnce, Writable, "a stream that was full is never writable again";
    MoreThanInterest, Interest, "readiness is reported without an interest";
    EmptyIsRead, EmptyInterest, "an empty interest is taken for READ";
    HangUpForReadOnly, HangUp, "a hang-up is reported for READ alone";
    ZeroIsNoToken, Token, "a stream with the token 0 is not reported";
    RewatchKeepsToken, Rewatch, "a changed watch keeps its token";
    UnwatchIsIgnored, Unwatch, "a watch does not end";
    UnwatchEndsAll, Unwatch, "the end of a watch ends all watches";
    OldToken, Dropped, "the token of a dropped stream is reported with other streams";
    FirstOnly, InTurn, "only the first 64 ready streams are reported";
    ListenerIsLast, Listener, "the listener is not reported while many streams are ready";
    ListenerIsLate, Listener, "a stream to be accepted does not end the wait under way";
    ListenerIsReported, WatchListener, "the report of the listener cannot be turned off";
    WatchIsLate, WatchDuring, "a watch takes effect for the next wait";
    RewatchIsLate, RewatchDuring, "a change of a watch takes effect for the next wait";
    WaitReadableIgnoresEvent, WaitReadableEvent, "an event does not end the wait for a stream";
    WaitReadableIgnoresTime, WaitReadableTime, "a wait for a stream has no time limit";
    ReadWaitingHasNoEnd, ReadWaiting, "a read that waits does not return the end";
    ConnectWaits, Threads, "no stream is opened during a wait";
    SharedBuffer, Threads, "the writes of all threads go through one buffer";
}
