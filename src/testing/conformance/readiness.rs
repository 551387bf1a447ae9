//! Checks of watches and of their reports, in one thread.

use core::time::Duration;

use super::pair::{Pair, Side, StreamEnds};
use super::rules::Rule;
use super::setup::CheckSetup;
use super::violation::{Checked, broken};
use crate::pal::{Interest, Pal, Token};

/// Tokens with the highest bits that a node uses, so that the checks find a platform that cuts them off.
const FIRST: Token = Token((1 << 61) | (1 << 32) | 1);
const SECOND: Token = Token((1 << 61) | (1 << 32) | 2);
const OUT: (Side, Token) = (Side::One, FIRST);
const INWARD: (Side, Token) = (Side::Two, SECOND);

/// Begins a watch.
#[track_caller]
pub(super) fn watch<P: Pal>(
    pair: &Pair<'_, P>,
    stream: &P::Stream,
    (side, token): (Side, Token),
    interest: Interest,
) -> Checked {
    pair.note_call(Rule::Token, "Pal::watch");
    pair.pal(side).watch(stream, token, interest).map_err(|_| {
        broken(
            Rule::Token,
            "a watch of a stream that is not watched",
            format_args!("OutOfResources"),
        )
    })
}

/// Opens a stream and watches its reading end for bytes.
#[track_caller]
fn open_watched<P: Pal>(pair: &Pair<'_, P>) -> Checked<StreamEnds<P::Stream>> {
    let open = pair.open()?;
    watch(pair, &open.inward, INWARD, Interest::READ)?;
    Ok(open)
}

/// Checks that bytes and the end of a stream are reported.
pub(super) fn readable<P: Pal>(setup: &CheckSetup<'_, P>) -> Checked {
    let pair = setup.pair();
    let open = open_watched(&pair)?;
    let nothing = "no report of a stream without bytes";
    let read = Interest::READ | Interest::HANG_UP;
    pair.stays_quiet(INWARD, read, Rule::Readable, nothing)?;
    pair.send(&open.out, 0, 10)?;
    let bytes = "READ, since bytes have arrived";
    pair.await_report(INWARD, Interest::READ, Rule::Readable, bytes)?;
    pair.receive(&open.inward, 0, 10, Rule::Order)?;
    drop(open.out);
    let end = "READ, since the end can be read";
    pair.await_report(INWARD, Interest::READ, Rule::Readable, end)?;
    pair.two.unwatch(&open.inward);
    Ok(())
}

/// Checks that a report has the token of its watch.
pub(super) fn token<P: Pal>(setup: &CheckSetup<'_, P>) -> Checked {
    let pair = setup.pair();
    let (first, second) = (open_watched(&pair)?, pair.open()?);
    let other = (Side::Two, Token(0));
    watch(&pair, &second.inward, other, Interest::READ)?;
    let mine = "a report with the token of the watch";
    let others = "no report with the token of another stream";
    pair.send(&second.out, 0, 10)?;
    pair.await_report(other, Interest::READ, Rule::Token, mine)?;
    pair.stays_quiet(INWARD, Interest::READ, Rule::Token, others)?;
    pair.receive(&second.inward, 0, 10, Rule::Order)?;
    pair.send(&first.out, 0, 10)?;
    pair.await_report(INWARD, Interest::READ, Rule::Token, mine)?;
    pair.stays_quiet(other, Interest::READ, Rule::Token, others)?;
    pair.two.unwatch(&second.inward);
    let only_one =
        "a report of a stream that is still watched, after the watch of another one has ended";
    pair.await_report(INWARD, Interest::READ, Rule::Unwatch, only_one)?;
    drop(second);
    pair.send(&first.out, 10, 10)?;
    pair.receive(&first.inward, 0, 20, Rule::Order)?;
    pair.two.unwatch(&first.inward);
    Ok(())
}

/// Checks that a stream is reported until it is no longer ready.
pub(super) fn level<P: Pal>(setup: &CheckSetup<'_, P>) -> Checked {
    let pair = setup.pair();
    let open = open_watched(&pair)?;
    pair.send(&open.out, 0, 10)?;
    let first = "READ, since bytes have arrived";
    pair.await_report(INWARD, Interest::READ, Rule::Readable, first)?;
    let again = "a report by each wait, until the bytes are read";
    for _ in 0..3 {
        pair.await_report(INWARD, Interest::READ, Rule::Level, again)?;
    }
    pair.receive(&open.inward, 0, 4, Rule::Order)?;
    let rest = "a report by each wait, since some bytes are not read yet";
    for _ in 0..3 {
        pair.await_report(INWARD, Interest::READ, Rule::Level, rest)?;
    }
    pair.receive(&open.inward, 4, 6, Rule::Order)?;
    let no_more = "no report, since all bytes were read";
    pair.stays_quiet(INWARD, Interest::READ, Rule::Level, no_more)?;
    watch(&pair, &open.out, OUT, Interest::WRITE)?;
    let writable = "a report by each wait, as long as there is room";
    for _ in 0..3 {
        pair.await_report(OUT, Interest::WRITE, Rule::Level, writable)?;
    }
    pair.one.unwatch(&open.out);
    pair.two.unwatch(&open.inward);
    Ok(())
}

/// Checks that no readiness is reported that the watch is not interested in.
pub(super) fn interest<P: Pal>(setup: &CheckSetup<'_, P>) -> Checked {
    let pair = setup.pair();
    let open = pair.open()?;
    pair.send(&open.out, 0, 10)?;
    watch(&pair, &open.inward, INWARD, Interest::HANG_UP)?;
    let unread = "no READ for a watch that is interested in HANG_UP";
    let not_read = Interest::READ | Interest::HANG_UP;
    pair.stays_quiet(INWARD, not_read, Rule::Interest, unread)?;
    watch(&pair, &open.out, OUT, Interest::HANG_UP)?;
    let unwritten = "no WRITE for a watch that is interested in HANG_UP";
    let not_written = Interest::WRITE | Interest::HANG_UP;
    pair.stays_quiet(OUT, not_written, Rule::Interest, unwritten)?;
    pair.one.rewatch(&open.out, FIRST, Interest::READ);
    let only_read = "no WRITE for a watch that is interested in READ";
    pair.stays_quiet(OUT, Interest::WRITE, Rule::Interest, only_read)?;
    pair.two.rewatch(&open.inward, SECOND, Interest::READ);
    let bytes = "READ alone, since bytes have arrived and no end is hung up";
    let found = pair.await_report(INWARD, Interest::READ, Rule::Readable, bytes)?;
    if found != Interest::READ {
        return Err(broken(Rule::Interest, bytes, format_args!("{found:?}")));
    }
    pair.one.unwatch(&open.out);
    pair.two.unwatch(&open.inward);
    Ok(())
}

/// Checks that nothing but one hang-up is reported for an empty interest.
pub(super) fn empty_interest<P: Pal>(setup: &CheckSetup<'_, P>) -> Checked {
    let pair = setup.pair();
    let open = pair.open()?;
    watch(&pair, &open.inward, INWARD, Interest::empty())?;
    pair.send(&open.out, 0, 10)?;
    let nothing = "no report of bytes for an empty interest";
    pair.stays_quiet(INWARD, Interest::all(), Rule::EmptyInterest, nothing)?;
    drop(open.out);
    let mut reports = 0;
    for _ in 0..10 {
        let found = pair.report(Side::Two, SECOND, Duration::from_millis(3));
        reports += u32::from(!found.is_empty());
    }
    if reports > 1 {
        return Err(broken(
            Rule::EmptyInterest,
            "at most one report of a hang-up",
            format_args!("{reports} reports by 10 waits"),
        ));
    }
    pair.two.rewatch(&open.inward, SECOND, Interest::READ);
    let again = "a report after the interest has changed";
    pair.await_report(INWARD, Interest::READ, Rule::Rewatch, again)?;
    pair.two.unwatch(&open.inward);
    Ok(())
}

/// Checks that room for bytes is reported.
pub(super) fn writable<P: Pal>(setup: &CheckSetup<'_, P>) -> Checked {
    let pair = setup.pair();
    let open = pair.open()?;
    watch(&pair, &open.out, OUT, Interest::WRITE)?;
    let room = "WRITE, since there is room";
    pair.await_report(OUT, Interest::WRITE, Rule::Writable, room)?;
    let Some(mut sent) = pair.fill_up(&open.out, 0)? else {
        pair.one.unwatch(&open.out);
        return Ok(());
    };
    // Bytes may still be on their way out of the sender's memory.
    let full = pair.until(|| {
        let mut reports = 0;
        for _ in 0..3 {
            let found = pair.report(Side::One, FIRST, Duration::from_millis(5));
            reports += u32::from(found.contains(Interest::WRITE));
        }
        if reports == 0 {
            return Ok(Some(()));
        }
        sent += pair.fill_up(&open.out, sent)?.map_or(0, |more| more);
        Ok(None)
    })?;
    if full.is_none() {
        return Err(broken(
            Rule::Writable,
            "no WRITE, since writes find no room",
            format_args!("WRITE again and again for {:?}", pair.patience),
        ));
    }
    pair.receive(&open.inward, 0, sent, Rule::WriteCount)?;
    let again = "WRITE, since the reader has made room";
    pair.await_report(OUT, Interest::WRITE, Rule::Writable, again)?;
    pair.one.unwatch(&open.out);
    Ok(())
}

/// Checks that a hang-up is reported for each of the three interests.
pub(super) fn hang_up<P: Pal>(setup: &CheckSetup<'_, P>) -> Checked {
    for interest in [Interest::READ, Interest::WRITE, Interest::HANG_UP] {
        let pair = setup.pair();
        let hung_up = Interest::HANG_UP;
        let open = pair.open()?;
        watch(&pair, &open.out, OUT, interest)?;
        drop(open.inward);
        let of_reader = "HANG_UP by each wait, since the reader has dropped its end";
        for _ in 0..3 {
            pair.await_report(OUT, hung_up, Rule::HangUp, of_reader)?;
        }
        pair.one.unwatch(&open.out);
        let open = pair.open()?;
        watch(&pair, &open.inward, INWARD, interest)?;
        drop(open.out);
        let of_writer = "HANG_UP by each wait, since the writer has dropped its end";
        for _ in 0..3 {
            pair.await_report(INWARD, hung_up, Rule::HangUp, of_writer)?;
        }
        pair.two.unwatch(&open.inward);
        let open = pair.open()?;
        drop(open.out);
        pair.poll();
        watch(&pair, &open.inward, INWARD, interest)?;
        let before = "HANG_UP of a stream whose writer had dropped its end before the watch began";
        pair.await_report(INWARD, hung_up, Rule::HangUp, before)?;
        pair.two.unwatch(&open.inward);
    }
    Ok(())
}

/// Checks that a changed watch has its new token and its new interest.
pub(super) fn rewatch<P: Pal>(setup: &CheckSetup<'_, P>) -> Checked {
    let pair = setup.pair();
    let open = open_watched(&pair)?;
    pair.send(&open.out, 0, 10)?;
    let first = "READ, since bytes have arrived";
    pair.await_report(INWARD, Interest::READ, Rule::Readable, first)?;
    let renamed = (Side::Two, Token(9));
    for _ in 0..3 {
        pair.two.rewatch(&open.inward, Token(9), Interest::READ);
        let new = "a report with the new token";
        pair.await_report(renamed, Interest::READ, Rule::Rewatch, new)?;
        let old = "no report with the token of before";
        pair.stays_quiet(INWARD, Interest::all(), Rule::Rewatch, old)?;
        pair.two.rewatch(&open.inward, SECOND, Interest::HANG_UP);
        let none = "no report, since the new interest has no READ";
        pair.stays_quiet(INWARD, Interest::all(), Rule::Rewatch, none)?;
        pair.two.rewatch(&open.inward, SECOND, Interest::READ);
        let again = "a report, since the new interest has READ";
        pair.await_report(INWARD, Interest::READ, Rule::Rewatch, again)?;
    }
    pair.two.unwatch(&open.inward);
    Ok(())
}

/// Checks that a watch that has ended, and a dropped stream, are not reported.
pub(super) fn unwatch<P: Pal>(setup: &CheckSetup<'_, P>) -> Checked {
    let pair = setup.pair();
    let open = open_watched(&pair)?;
    pair.send(&open.out, 0, 10)?;
    let bytes = "READ, since bytes have arrived";
    pair.await_report(INWARD, Interest::READ, Rule::Readable, bytes)?;
    pair.two.unwatch(&open.inward);
    let over = "no report after the end of the watch";
    pair.stays_quiet(INWARD, Interest::all(), Rule::Unwatch, over)?;
    // The stream can be watched again.
    let renamed = (Side::Two, Token(9));
    watch(&pair, &open.inward, renamed, Interest::READ)?;
    let again = "a report of the new watch";
    pair.await_report(renamed, Interest::READ, Rule::Token, again)?;
    pair.two.unwatch(&open.inward);
    // A new stream may have the place, or the descriptor, of one that was dropped.
    let StreamEnds { out, inward } = open;
    drop((out, inward));
    let second = pair.open()?;
    let third = (Side::Two, Token(10));
    watch(&pair, &second.inward, third, Interest::READ)?;
    pair.send(&second.out, 0, 10)?;
    let new = "a report with the token of the new stream";
    pair.await_report(third, Interest::READ, Rule::Dropped, new)?;
    let old = "no report with the token of a stream that was dropped";
    pair.stays_quiet(renamed, Interest::all(), Rule::Dropped, old)?;
    pair.two.unwatch(&second.inward);
    Ok(())
}
