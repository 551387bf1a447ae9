//! Checks of the reports of the listener.

use core::time::Duration;

use super::pair::{Side, StreamEnds, TRIES};
use super::readiness::watch;
use super::rules::Rule;
use super::setup::CheckSetup;
use super::violation::{Checked, broken};
use crate::Vmid;
use crate::pal::{Interest, Pal, READY_AT_ONCE, Token};

/// Checks that the listener is reported while a stream waits to be accepted.
pub(super) fn listener<P: Pal>(setup: &CheckSetup<'_, P>) -> Checked {
    const LISTENER: (Side, Token) = (Side::Two, Token::LISTENER);
    let pair = setup.pair();
    let before = "no report, since no stream waits to be accepted";
    pair.stays_quiet(LISTENER, Interest::all(), Rule::Listener, before)?;
    let mut out = None;
    let reported = pair.until(|| {
        if out.is_none() {
            out = pair.try_connect()?;
        }
        let found = pair.report(Side::Two, Token::LISTENER, Duration::from_millis(1));
        Ok((found.contains(Interest::READ)).then_some(()))
    })?;
    if reported.is_none() {
        return Err(broken(
            Rule::Listener,
            "READ of the listener, since a stream waits to be accepted",
            format_args!("no report in {:?}", pair.patience),
        ));
    }
    let again = "a report by each wait, since the stream still waits";
    for _ in 0..3 {
        pair.await_report(LISTENER, Interest::READ, Rule::Listener, again)?;
    }
    for _ in 0..2 {
        pair.two.watch_listener(false);
        let off = "no report, since it is turned off";
        pair.stays_quiet(LISTENER, Interest::all(), Rule::WatchListener, off)?;
        pair.two.watch_listener(true);
        let on = "a report, since it is turned on again";
        pair.await_report(LISTENER, Interest::READ, Rule::WatchListener, on)?;
    }
    // A secure stream carries nothing before it is accepted.
    let accepted = pair.until(|| {
        let hello = Vmid::get(pair.vmids[0]).to_le_bytes();
        if let Some(out) = &out {
            pair.write(out, &[&hello])?;
        }
        pair.try_accept()
    })?;
    if accepted.is_none() {
        return Err(broken(
            Rule::Accept,
            "the stream of the report",
            format_args!("WouldBlock for {:?}", pair.patience),
        ));
    }
    let mut quiet = 0;
    for _ in 0..TRIES {
        quiet = match pair.report(Side::Two, Token::LISTENER, Duration::from_millis(1)) {
            found if found.is_empty() => quiet + 1,
            _ => 0,
        };
    }
    if quiet < 3 {
        return Err(broken(
            Rule::Listener,
            "no report, since all streams were accepted",
            format_args!("it is reported again and again"),
        ));
    }
    Ok(())
}

/// Checks that each ready stream is reported in turn if more are ready than one wait reports.
pub(super) fn in_turn<P: Pal>(setup: &CheckSetup<'_, P>) -> Checked {
    const STREAMS: usize = READY_AT_ONCE + 8;
    let pair = setup.pair();
    let mut all: heapless::Vec<StreamEnds<P::Stream>, STREAMS> = heapless::Vec::new();
    for number in 0..STREAMS {
        let Some(open) = pair.open_if_there_is_room()? else {
            break;
        };
        let token = (Side::Two, Token(100 + number as u64));
        watch(&pair, &open.inward, token, Interest::READ)?;
        pair.send(&open.out, 0, 1)?;
        let _ = all.push(open);
    }
    let opened = all.len();
    // One more waits to be accepted, if there is room for it.
    let waiting = pair.try_connect()?;
    let mut is_listener_seen = waiting.is_none();
    let mut seen = [false; STREAMS];
    let complete = pair.until(|| {
        for (token, _) in &pair.wait_for(Side::Two, Duration::from_millis(1)) {
            is_listener_seen |= *token == Token::LISTENER;
            let number = token
                .0
                .checked_sub(100)
                .and_then(|n| usize::try_from(n).ok());
            if let Some(seen) = number.and_then(|number| seen.get_mut(number)) {
                *seen = true;
            }
        }
        let count = seen.iter().filter(|seen| **seen).count();
        Ok((count == opened && is_listener_seen).then_some(()))
    })?;
    for open in &all {
        pair.two.unwatch(&open.inward);
    }
    let count = seen.iter().filter(|seen| **seen).count();
    if complete.is_none() && count == opened {
        return Err(broken(
            Rule::Listener,
            "a report of the listener, also while more streams are ready than a report has",
            format_args!("no report in {:?}", pair.patience),
        ));
    }
    complete.ok_or_else(|| {
        broken(
            Rule::InTurn,
            "a report of each of the streams that are all ready",
            format_args!("{count} of {opened} streams in {:?}", pair.patience),
        )
    })
}
