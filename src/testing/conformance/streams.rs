//! Checks of the bytes of streams.

use super::pair::{Moved, byte, fill, mismatch};
use super::rules::Rule;
use super::setup::CheckSetup;
use super::violation::{Checked, broken};
use crate::pal::Pal;

/// Checks that reads and writes do not block.
pub(super) fn would_block<P: Pal>(setup: &CheckSetup<'_, P>) -> Checked {
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

/// Checks that bytes arrive in order, in pieces of all sizes.
pub(super) fn order<P: Pal>(setup: &CheckSetup<'_, P>) -> Checked {
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

/// Checks that a read takes no more bytes than its buffer has, and leaves the others.
pub(super) fn read_count<P: Pal>(setup: &CheckSetup<'_, P>) -> Checked {
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

/// Checks that as many bytes arrive as the writes have returned, also if a write took only some of its bytes.
pub(super) fn write_count<P: Pal>(setup: &CheckSetup<'_, P>) -> Checked {
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

/// Returns the first bytes of a stream.
fn first_bytes() -> [u8; 3000] {
    let mut bytes = [0; 3000];
    fill(&mut bytes, 0);
    bytes
}

/// Checks that the end of a stream comes after its last bytes, and stays.
pub(super) fn end<P: Pal>(setup: &CheckSetup<'_, P>) -> Checked {
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

/// Checks that a write to a stream without a reader fails.
pub(super) fn reader_gone<P: Pal>(setup: &CheckSetup<'_, P>) -> Checked {
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

/// Checks that a full stream stops no other one.
pub(super) fn independent<P: Pal>(setup: &CheckSetup<'_, P>) -> Checked {
    let pair = setup.pair();
    let unread = pair.open()?;
    let open = pair.open()?;
    pair.fill_up(&unread.out, 0)?;
    for round in 0..20 {
        // The violation of a transfer would name another rule.
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
