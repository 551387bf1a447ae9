//! Checks of connections and of the bytes of streams.

use core::time::Duration;

use super::pair::{Moved, Side, TRIES, byte, fill, mismatch};
use super::rules::Rule;
use super::setup::Setup;
use super::violation::{Checked, broken};
use crate::pal::{AcceptError, ConnectError, Interest, Pal, Token};

/// The most streams that the check of a full backlog opens.
const BACKLOG: usize = 160;

/// The time after which a peer that is busy all the time has a full backlog.
const BUSY: Duration = Duration::from_millis(200);

/// A stream is opened, accepted, and carries bytes.
pub(super) fn connect<P: Pal>(setup: &Setup<'_, P>) -> Checked {
    let pair = setup.pair();
    for _ in 0..3 {
        let open = pair.open()?;
        pair.send(&open.out, 0, 100)?;
        pair.receive(&open.inward, 0, 100, Rule::Order)?;
    }
    Ok(())
}

pub(super) fn nothing_to_accept<P: Pal>(setup: &Setup<'_, P>) -> Checked {
    let pair = setup.pair();
    for _ in 0..3 {
        pair.poll();
        pair.enter(Rule::Accept, "Pal::accept without a stream");
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

pub(super) fn not_listening<P: Pal>(setup: &Setup<'_, P>) -> Checked {
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
        pair.enter(Rule::Connect, "Pal::connect to no process");
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

/// Streams are opened and not accepted, until there is no room; then each is accepted.
pub(super) fn backlog<P: Pal>(setup: &Setup<'_, P>) -> Checked {
    let pair = setup.pair();
    let mut outs: heapless::Vec<(P::Stream, usize), BACKLOG> = heapless::Vec::new();
    let full = |opened: usize| {
        broken(
            Rule::Backlog,
            "Busy where the backlog is full: the process listens",
            format_args!("NotListening after {opened} streams that were not accepted"),
        )
    };
    'opening: while !outs.is_full() {
        let timer = pair.timer();
        while pair.elapsed(&timer) < BUSY {
            pair.enter(
                Rule::Connect,
                "Pal::connect while streams wait to be accepted",
            );
            match pair.one.connect(pair.vmids[1]) {
                Ok(stream) => {
                    let _ = outs.push((stream, 0));
                    continue 'opening;
                }
                Err(ConnectError::Busy) => pair.poll(),
                Err(ConnectError::NotListening) => return Err(full(outs.len())),
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
    // Each carries the VMID of its node and its number.
    // An attempt that was refused as `Busy` may have begun a stream, which carries nothing.
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

/// A node ends with a stream in its backlog.
pub(super) fn never_accepted<P: Pal>(setup: &Setup<'_, P>) -> Checked {
    const WATCHED: Token = Token(5);
    let pair = setup.pair();
    let absent = setup.pair();
    // The stream is opened to a node of its own, which ends.
    let [_, there] = absent.vmids;
    let mut out = None;
    let opened = pair.until(|| {
        pair.enter(Rule::Connect, "Pal::connect");
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
    pair.enter(Rule::NeverAccepted, "the drop of a platform");
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

pub(super) fn would_block<P: Pal>(setup: &Setup<'_, P>) -> Checked {
    let pair = setup.pair();
    let open = pair.open()?;
    for _ in 0..10 {
        pair.poll();
        let moved = pair.read(&open.inward, &mut [0; 16])?;
        if moved != Moved::Nothing {
            return Err(broken(
                Rule::WouldBlock,
                "WouldBlock, since there is nothing to read",
                format_args!("{moved:?}"),
            ));
        }
    }
    pair.fill_up(&open.out, 0).map(drop)
}

/// Bytes in pieces of all sizes.
pub(super) fn order<P: Pal>(setup: &Setup<'_, P>) -> Checked {
    let pair = setup.pair();
    let open = pair.open()?;
    let mut buffer = [0; 700];
    let (mut sent, mut received) = (0, 0);
    for step in 1..400_usize {
        let length = 1 + step * 37 % 500;
        let bytes = &mut buffer[..length];
        fill(bytes, sent);
        let (first, rest) = bytes.split_at(length / 3);
        let (second, third) = rest.split_at(rest.len() / 2);
        let (third, fourth) = third.split_at(third.len() / 2);
        let written = if step % 2 == 0 {
            pair.write(&open.out, &[&[], first, rest, &[]])?
        } else {
            pair.write(&open.out, &[first, second, third, fourth])?
        };
        if let Moved::Bytes(count) = written {
            sent += count;
        }
        let room = 1 + step * 53 % 600;
        if let Moved::Bytes(count) = pair.read(&open.inward, &mut buffer[..room])? {
            if received + count > sent {
                return Err(broken(
                    Rule::Order,
                    "no byte more than was written",
                    format_args!("{} bytes after {sent} were written", received + count),
                ));
            }
            if let Some(place) = mismatch(&buffer[..count], received) {
                return Err(broken(
                    Rule::Order,
                    "the bytes that were written, in their order",
                    format_args!("another byte at place {}", received + place),
                ));
            }
            received += count;
        }
    }
    pair.receive(&open.inward, received, sent - received, Rule::Order)
}

pub(super) fn read_count<P: Pal>(setup: &Setup<'_, P>) -> Checked {
    const UNTOUCHED: u8 = 0xa5;
    let pair = setup.pair();
    let open = pair.open()?;
    pair.send(&open.out, 0, 300)?;
    let mut received = 0;
    let done = pair.until(|| {
        let mut guarded = [UNTOUCHED; 64];
        let Moved::Bytes(count) = pair.read(&open.inward, &mut guarded[..7])? else {
            return Ok(None);
        };
        if guarded[7..].iter().any(|byte| *byte != UNTOUCHED) {
            return Err(broken(
                Rule::ReadCount,
                "no byte is written behind the buffer",
                format_args!("bytes behind a buffer of 7 bytes are changed"),
            ));
        }
        if let Some(place) = mismatch(&guarded[..count], received) {
            return Err(broken(
                Rule::ReadCount,
                "a read of fewer bytes than have arrived leaves the rest for the next one",
                format_args!(
                    "{} and not {} at place {}",
                    guarded[place],
                    byte(received + place),
                    received + place
                ),
            ));
        }
        received += count;
        Ok((received == 300).then_some(()))
    })?;
    done.ok_or_else(|| {
        broken(
            Rule::ReadCount,
            "a read of fewer bytes than have arrived leaves the rest for the next one",
            format_args!("{received} of 300 bytes can be read"),
        )
    })
}

/// As many bytes arrive as the writes have returned, also where a write took only some.
pub(super) fn write_count<P: Pal>(setup: &Setup<'_, P>) -> Checked {
    let pair = setup.pair();
    let open = pair.open()?;
    let mut sent = 0;
    for _ in 0..3 {
        let Some(taken) = pair.fill_up(&open.out, sent)? else {
            return Ok(());
        };
        pair.receive(&open.inward, sent, taken, Rule::WriteCount)?;
        sent += taken;
    }
    Ok(())
}

pub(super) fn end<P: Pal>(setup: &Setup<'_, P>) -> Checked {
    let pair = setup.pair();
    for length in [0, 1, 3000] {
        let open = pair.open()?;
        // A stream may have less room than that: the rest is read at once.
        let first = if length < 10 {
            pair.send(&open.out, 0, length)?;
            length
        } else if let Moved::Bytes(count) = pair.write(&open.out, &[&first_bytes()])? {
            count
        } else {
            0
        };
        drop(open.out);
        pair.receive(&open.inward, 0, first, Rule::Order)?;
        let ended = pair.until(|| match pair.read(&open.inward, &mut [0; 16])? {
            Moved::End => Ok(Some(())),
            Moved::Nothing => Ok(None),
            Moved::Bytes(count) => Err(broken(
                Rule::End,
                "the end, since all bytes were read",
                format_args!("{count} more bytes"),
            )),
        })?;
        if ended.is_none() {
            return Err(broken(
                Rule::DropEnds,
                "the end, since the writer has dropped its end",
                format_args!("WouldBlock for {:?}", pair.patience),
            ));
        }
        for _ in 0..3 {
            let moved = pair.read(&open.inward, &mut [0; 16])?;
            if let Moved::Bytes(count) = moved {
                return Err(broken(
                    Rule::End,
                    "the end again",
                    format_args!("{count} bytes after the end"),
                ));
            }
        }
    }
    Ok(())
}

/// A stream is written and dropped before it is accepted. Not where a stream takes no bytes before that.
pub(super) fn ended_before_accept<P: Pal>(setup: &Setup<'_, P>) -> Checked {
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

fn first_bytes() -> [u8; 3000] {
    let mut bytes = [0; 3000];
    fill(&mut bytes, 0);
    bytes
}

pub(super) fn reader_gone<P: Pal>(setup: &Setup<'_, P>) -> Checked {
    let pair = setup.pair();
    let open = pair.open()?;
    drop(open.inward);
    let mut sent = 0;
    let mut buffer = [0; 64];
    let closed = pair.until(|| {
        fill(&mut buffer, sent);
        match pair.write(&open.out, &[&buffer])? {
            Moved::End => return Ok(Some(())),
            Moved::Bytes(count) => sent += count,
            Moved::Nothing => {}
        }
        Ok(None)
    })?;
    closed.ok_or_else(|| {
        broken(
            Rule::ReaderGone,
            "Closed, since the reader has dropped its end",
            format_args!(
                "{sent} bytes were taken, and no error came in {:?}",
                pair.patience
            ),
        )
    })
}

pub(super) fn independent<P: Pal>(setup: &Setup<'_, P>) -> Checked {
    let pair = setup.pair();
    let unread = pair.open()?;
    let open = pair.open()?;
    pair.fill_up(&unread.out, 0)?;
    for round in 0..20 {
        // The words of the violation would be those of another rule.
        let carried = pair
            .send(&open.out, round * 100, 100)
            .and_then(|()| pair.receive(&open.inward, round * 100, 100, Rule::Independent));
        carried.map_err(|violation| {
            broken(
                Rule::Independent,
                "a stream carries bytes while another one is full",
                format_args!("{}", violation.seen),
            )
        })?;
    }
    Ok(())
}

/// The function that a thread calls while it spins.
pub(super) fn contended<P: Pal>(setup: &Setup<'_, P>) -> Checked {
    const CALLS: u32 = 100;
    let pair = setup.pair();
    pair.enter(Rule::Contended, "Pal::contended");
    let timer = pair.timer();
    for attempts in 0..CALLS {
        P::contended(attempts);
    }
    let took = pair.elapsed(&timer);
    if took > pair.patience.min(Duration::from_secs(5)) {
        return Err(broken(
            Rule::Contended,
            "a call of some microseconds",
            format_args!("{CALLS} calls took {took:?}"),
        ));
    }
    Ok(())
}
