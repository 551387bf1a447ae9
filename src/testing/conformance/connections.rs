//! Checks of how streams are opened and accepted.

use core::time::Duration;

use super::pair::{Moved, Pair, Side, TRIES};
use super::rules::Rule;
use super::setup::CheckSetup;
use super::violation::{Checked, broken};
use crate::pal::{AcceptError, ConnectError, Interest, Pal, Token};

/// The greatest number of streams that the check of a full backlog opens.
const BACKLOG: usize = 160;

/// The time after which a peer that is always busy is taken for one with a full backlog.
const BUSY: Duration = Duration::from_millis(200);

/// Checks that a stream is opened, accepted, and carries bytes.
pub(super) fn connect<P: Pal>(setup: &CheckSetup<'_, P>) -> Checked {
    let pair = setup.pair();
    for _ in 0..3 {
        let open = pair.open()?;
        pair.send(&open.out, 0, 100)?;
        pair.receive(&open.inward, 0, 100, Rule::Order)?;
    }
    Ok(())
}

/// Checks that `accept` returns no stream if none was opened.
pub(super) fn nothing_to_accept<P: Pal>(setup: &CheckSetup<'_, P>) -> Checked {
    let pair = setup.pair();
    for _ in 0..3 {
        pair.poll();
        pair.note_call(Rule::Accept, "Pal::accept without a stream");
        let seen = match pair.two.accept() {
            Err(AcceptError::WouldBlock) => continue,
            Err(error) => error,
            Ok(_) => {
                return Err(broken(
                    Rule::NothingToAccept,
                    "WouldBlock, since no stream was opened",
                    format_args!("a stream"),
                ));
            }
        };
        return Err(broken(
            Rule::NothingToAccept,
            "WouldBlock, since no stream was opened",
            format_args!("{seen:?}"),
        ));
    }
    Ok(())
}

/// Checks that a process that does not exist refuses a stream.
pub(super) fn not_listening<P: Pal>(setup: &CheckSetup<'_, P>) -> Checked {
    let mut pair = setup.pair();
    // No process was ever there.
    pair.vmids[1] = setup.vmid();
    let mut seen = "Busy all the time";
    let mut opened = None;
    let hello = pair.vmids[0].get().to_le_bytes();
    let refused = pair.until(|| {
        // A platform on a network may learn only later that the stream was refused.
        if let Some(stream) = &opened {
            return Ok((pair.write(stream, &[&hello])? == Moved::End).then_some(true));
        }
        pair.note_call(Rule::Connect, "Pal::connect to no process");
        Ok(match pair.one.connect(pair.vmids[1]) {
            Err(ConnectError::NotListening) => Some(true),
            Err(ConnectError::Busy) => None,
            Err(ConnectError::NotAllowed) => {
                seen = "NotAllowed";
                Some(false)
            }
            Ok(stream) => {
                seen = "a stream that stays open";
                opened = Some(stream);
                None
            }
        })
    })?;
    if refused == Some(true) {
        return Ok(());
    }
    Err(broken(
        Rule::NotListening,
        "NotListening, or a stream that is closed soon, since no process has that VMID",
        format_args!("{seen}"),
    ))
}

/// The streams that were opened, and how many bytes were written to each.
type OpenedStreams<S> = heapless::Vec<(S, usize), BACKLOG>;

/// Opens streams to the second node, which accepts none, until there is no room for more.
fn fill_backlog<P: Pal>(pair: &Pair<'_, P>, outs: &mut OpenedStreams<P::Stream>) -> Checked {
    'opening: while !outs.is_full() {
        let timer = pair.timer();
        while pair.elapsed(&timer) < BUSY {
            pair.note_call(
                Rule::Connect,
                "Pal::connect while streams wait to be accepted",
            );
            match pair.one.connect(pair.vmids[1]) {
                Ok(stream) => {
                    let _ = outs.push((stream, 0));
                    continue 'opening;
                }
                Err(ConnectError::Busy) => pair.poll(),
                Err(ConnectError::NotListening) => {
                    return Err(broken(
                        Rule::Backlog,
                        "Busy where the backlog is full: the process listens",
                        format_args!(
                            "NotListening after {} streams that were not accepted",
                            outs.len()
                        ),
                    ));
                }
                Err(ConnectError::NotAllowed) => {
                    return Err(broken(
                        Rule::Backlog,
                        "a stream or Busy",
                        format_args!("NotAllowed"),
                    ));
                }
            }
        }
        break;
    }
    Ok(())
}

/// Checks a full backlog: streams are opened and not accepted until there is no room, and then each is accepted.
pub(super) fn backlog<P: Pal>(setup: &CheckSetup<'_, P>) -> Checked {
    let pair = setup.pair();
    let mut outs = OpenedStreams::new();
    fill_backlog(&pair, &mut outs)?;
    // Each stream carries the VMID of its node and its number. An attempt that was refused as `Busy` may have begun
    // a stream, which carries nothing.
    let mut inwards: heapless::Vec<(P::Stream, [u8; 8], usize), { 2 * BACKLOG }> =
        heapless::Vec::new();
    let opened = outs.len();
    let hello = pair.vmids[0].get().to_le_bytes();
    let done = pair.until(|| {
        while let Some(stream) = pair.try_accept()? {
            if inwards.push((stream, [0; 8], 0)).is_err() {
                return Err(broken(
                    Rule::Accept,
                    "as many streams as were opened",
                    format_args!("more than {opened} streams"),
                ));
            }
        }
        for (number, (out, sent)) in (0_u32..).zip(&mut outs) {
            let mut bytes = [0; 8];
            bytes[..4].copy_from_slice(&hello);
            bytes[4..].copy_from_slice(&number.to_le_bytes());
            if *sent < bytes.len()
                && let Moved::Bytes(count) = pair.write(out, &[&bytes[*sent..]])?
            {
                *sent += count;
            }
        }
        for (inward, bytes, received) in &mut inwards {
            if *received < bytes.len()
                && let Moved::Bytes(count) = pair.read(inward, &mut bytes[*received..])?
            {
                *received += count;
            }
        }
        let whole = inwards.iter().filter(|(_, _, received)| *received == 8);
        Ok((whole.count() == opened).then_some(()))
    })?;
    if done.is_none() {
        let whole = inwards.iter().filter(|(_, _, received)| *received == 8);
        return Err(broken(
            Rule::Accept,
            "each stream that was opened is accepted, with its bytes",
            format_args!("{} of {opened} streams", whole.count()),
        ));
    }
    let mut seen = [false; BACKLOG];
    for (_, bytes, _) in inwards.iter().filter(|(_, _, received)| *received > 0) {
        let number = usize::from(bytes[4]);
        if bytes[..4] != hello || number >= opened || core::mem::replace(&mut seen[number], true) {
            return Err(broken(
                Rule::Accept,
                "each stream that was opened is accepted once",
                format_args!("the bytes {bytes:?}"),
            ));
        }
    }
    // There is room again.
    outs.clear();
    inwards.clear();
    pair.open().map(drop)
}

/// Checks that a stream is closed if its node ends before it has accepted the stream.
pub(super) fn never_accepted<P: Pal>(setup: &CheckSetup<'_, P>) -> Checked {
    const WATCHED: Token = Token(5);
    let pair = setup.pair();
    let absent = setup.pair();
    // The stream is opened to a node of its own, which ends.
    let [_, there] = absent.vmids;
    let mut out = None;
    let opened = pair.until(|| {
        pair.note_call(Rule::Connect, "Pal::connect");
        match pair.one.connect(there) {
            Ok(stream) => out = Some(stream),
            Err(ConnectError::Busy) => {}
            Err(error) => {
                return Err(broken(
                    Rule::Connect,
                    "a stream to a process that listens",
                    format_args!("{error:?}"),
                ));
            }
        }
        absent.poll();
        Ok(out.is_some().then_some(()))
    })?;
    let (Some(()), Some(out)) = (opened, out) else {
        return Ok(()); // Streams to a node that does not accept are not opened here.
    };
    let watched = pair.one.watch(&out, WATCHED, Interest::HANG_UP);
    pair.note_call(Rule::NeverAccepted, "the drop of a platform");
    drop(absent);
    if watched.is_ok() {
        pair.await_report(
            (Side::One, WATCHED),
            Interest::HANG_UP,
            Rule::NeverAccepted,
            "a hang-up of the stream, since its node has ended before it accepted it",
        )?;
        pair.one.unwatch(&out);
    }
    let closed = pair.until(|| {
        let moved = pair.write(&out, &[&pair.vmids[0].get().to_le_bytes()])?;
        Ok((moved == Moved::End).then_some(()))
    })?;
    closed.ok_or_else(|| {
        broken(
            Rule::NeverAccepted,
            "Closed, since the node has ended before it accepted the stream",
            format_args!(
                "the stream takes bytes, or would block, for {:?}",
                pair.patience
            ),
        )
    })
}

/// Checks that a stream which is written and dropped before it is accepted still carries its bytes. The check is not made on
/// a platform whose streams take no bytes before they are accepted.
pub(super) fn ended_before_accept<P: Pal>(setup: &CheckSetup<'_, P>) -> Checked {
    let pair = setup.pair();
    let mut out = None;
    let written = pair.until(|| {
        if out.is_none() {
            out = pair.try_connect()?;
        }
        Ok(out.is_some().then_some(()))
    })?;
    let (Some(()), Some(out)) = (written, out) else {
        return Ok(());
    };
    let hello = pair.vmids[0].get().to_le_bytes();
    let (mut sent, mut refused) = (0, 0);
    while sent < hello.len() && refused < TRIES {
        match pair.write(&out, &[&hello[sent..]])? {
            Moved::Bytes(count) => sent += count,
            Moved::Nothing => refused += 1,
            Moved::End => return Ok(()),
        }
        pair.poll();
    }
    if sent < hello.len() {
        return Ok(());
    }
    drop(out);
    let inward = pair.until(|| pair.try_accept())?.ok_or_else(|| {
        broken(
            Rule::Accept,
            "the stream that was opened, although its writer has dropped it",
            format_args!("no stream in {:?}", pair.patience),
        )
    })?;
    let mut bytes = [0; 8];
    let mut received = 0;
    let ended = pair.until(|| match pair.read(&inward, &mut bytes[received..])? {
        Moved::Bytes(count) if received + count <= hello.len() => {
            received += count;
            Ok(None)
        }
        Moved::Bytes(count) => Err(broken(
            Rule::Order,
            "no byte more than was written",
            format_args!("{} of 4 bytes", received + count),
        )),
        Moved::Nothing => Ok(None),
        Moved::End => Ok(Some(())),
    })?;
    if ended.is_some() && bytes[..received] == hello {
        return Ok(());
    }
    Err(broken(
        if ended.is_some() {
            Rule::End
        } else {
            Rule::DropEnds
        },
        "the bytes that were written before the stream was accepted, and its end",
        format_args!("{:?}, and then {ended:?}", &bytes[..received]),
    ))
}

/// Checks that the function that a spinning thread calls returns soon, however often that thread has called it. Other
/// threads may run meanwhile, so three quarters of the calls may take long on a busy machine.
pub(super) fn contended<P: Pal>(setup: &CheckSetup<'_, P>) -> Checked {
    const CALLS: u32 = 100;
    const MAX_SLOW: u32 = CALLS / 4 * 3;
    const SOON: Duration = Duration::from_millis(50);
    let pair = setup.pair();
    pair.note_call(Rule::Contended, "Pal::contended");
    let mut slow = 0_u32;
    for attempts in 0..CALLS {
        let timer = pair.timer();
        P::contended(attempts);
        slow += u32::from(pair.elapsed(&timer) > SOON);
    }
    if slow > MAX_SLOW {
        return Err(broken(
            Rule::Contended,
            "a call of some microseconds",
            format_args!("{slow} of {CALLS} calls took more than {SOON:?}"),
        ));
    }
    Ok(())
}
