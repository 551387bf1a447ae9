//! Opening streams between two platforms, and moving bytes through them.

use super::pair::{Moved, Pair, StreamEnds, TRIES, fill, mismatch};
use super::rules::Rule;
use super::violation::{Checked, Violation, broken};
use crate::pal::fault::fault_count;
use crate::pal::{AcceptError, ConnectError, Pal, Stream, StreamError};

impl<P: Pal> Pair<'_, P> {
    /// Reads once.
    #[track_caller]
    pub(super) fn read(&self, stream: &P::Stream, buffer: &mut [u8]) -> Checked<Moved> {
        self.note_call(Rule::WouldBlock, "Stream::read");
        let faults = fault_count();
        let read = stream.read(buffer);
        Self::check_read(read, buffer.len(), faults)
    }

    #[track_caller]
    pub(super) fn check_read(
        read: Result<usize, StreamError>,
        room: usize,
        faults: u64,
    ) -> Checked<Moved> {
        match read {
            Ok(count) if count > room || fault_count() != faults => Err(broken(
                Rule::ReadCount,
                "a result of at most the buffer's length",
                format_args!("{count} bytes for a buffer of {room}"),
            )),
            _ if fault_count() != faults => Err(broken(
                Rule::ReadCount,
                "a result of at most the buffer's length",
                format_args!("more than the {room} bytes of the buffer"),
            )),
            Ok(0) | Err(StreamError::Closed) => Ok(Moved::End),
            Ok(count) => Ok(Moved::Bytes(count)),
            Err(StreamError::WouldBlock | StreamError::Interrupted) => Ok(Moved::Nothing),
        }
    }

    /// Writes once.
    #[track_caller]
    pub(super) fn write(&self, stream: &P::Stream, parts: &[&[u8]]) -> Checked<Moved> {
        self.note_call(Rule::WouldBlock, "Stream::write");
        let offered: usize = parts.iter().map(|part| part.len()).sum();
        let faults = fault_count();
        let written = stream.write(parts);
        let expected = "a result from 1 to the number of bytes that were offered";
        match written {
            Ok(count) if count == 0 || count > offered => Err(broken(
                Rule::WriteCount,
                expected,
                format_args!("{count} for {offered} bytes"),
            )),
            _ if fault_count() != faults => Err(broken(
                Rule::WriteCount,
                expected,
                format_args!("another number for {offered} bytes"),
            )),
            Ok(count) => Ok(Moved::Bytes(count)),
            Err(StreamError::Closed) => Ok(Moved::End),
            Err(StreamError::WouldBlock | StreamError::Interrupted) => Ok(Moved::Nothing),
        }
    }

    /// Tries to connect once.
    #[track_caller]
    pub(super) fn try_connect(&self) -> Checked<Option<P::Stream>> {
        self.note_call(Rule::Connect, "Pal::connect");
        match self.one.connect(self.vmids[1]) {
            Ok(stream) => Ok(Some(stream)),
            Err(ConnectError::Busy) => Ok(None),
            Err(error) => Err(broken(
                Rule::Connect,
                "a stream to a process that listens, or Busy for a while",
                format_args!("{error:?}"),
            )),
        }
    }

    /// Tries to accept once.
    #[track_caller]
    pub(super) fn try_accept(&self) -> Checked<Option<P::Stream>> {
        self.note_call(Rule::Accept, "Pal::accept");
        match self.two.accept() {
            Ok(stream) => Ok(Some(stream)),
            Err(AcceptError::WouldBlock) => Ok(None),
            Err(error) => Err(broken(
                Rule::Accept,
                "the stream that was opened",
                format_args!("{error:?}"),
            )),
        }
    }

    /// Opens a stream from the first node to the second. It begins with the VMID of the first, like all
    /// streams of nodes.
    #[track_caller]
    pub(super) fn open(&self) -> Checked<StreamEnds<P::Stream>> {
        self.open_if_there_is_room()?.ok_or_else(|| {
            broken(
                Rule::Connect,
                "a stream to a process that listens",
                format_args!("no stream was opened and accepted in {:?}", self.patience),
            )
        })
    }

    /// Like [`Pair::open`]; `None` if the platform has no stream for it.
    #[track_caller]
    pub(super) fn open_if_there_is_room(&self) -> Checked<Option<StreamEnds<P::Stream>>> {
        let (mut out, mut inward) = (None, None);
        // A wrapper may exchange keys first, which takes reads and writes at both ends.
        let mut sent = 0;
        let mut received = 0;
        let hello = self.vmids[0].get().to_le_bytes();
        let opened = self.until(|| {
            if out.is_none() {
                out = self.try_connect()?;
            }
            if inward.is_none() {
                inward = self.try_accept()?;
            }
            if let Some(out) = out.as_ref().filter(|_| sent < hello.len()) {
                match self.write(out, &[&hello[sent..]])? {
                    Moved::Bytes(count) => sent += count,
                    Moved::Nothing => {}
                    Moved::End => return Err(early_end("writes")),
                }
            }
            if let Some(inward) = &inward {
                let mut buffer = [0; 4];
                let room = hello.len() - received;
                match self.read(inward, &mut buffer[..room])? {
                    Moved::Bytes(count) if buffer[..count] != hello[received..][..count] => {
                        return Err(broken(
                            Rule::Order,
                            "the first bytes that were written",
                            format_args!("{:?} for {hello:?}", &buffer[..count]),
                        ));
                    }
                    Moved::Bytes(count) => received += count,
                    Moved::Nothing => {}
                    Moved::End => return Err(early_end("reads")),
                }
            }
            Ok((received == hello.len()).then_some(()))
        })?;
        if opened.is_none() && out.is_some() && inward.is_some() {
            return Err(broken(
                Rule::Order,
                "the bytes that were written arrive",
                format_args!("{received} of {sent} bytes arrived in {:?}", self.patience),
            ));
        }
        Ok(opened.and_then(|()| {
            Some(StreamEnds {
                out: out?,
                inward: inward?,
            })
        }))
    }

    /// Writes bytes of the pattern from that place on until all are written.
    #[track_caller]
    pub(super) fn send(&self, out: &P::Stream, from: usize, length: usize) -> Checked {
        let mut buffer = [0; 1024];
        let mut sent = 0;
        let done = self.until(|| {
            while sent < length {
                let part = &mut buffer[..(length - sent).min(1024)];
                fill(part, from + sent);
                match self.write(out, &[part])? {
                    Moved::Bytes(count) => sent += count,
                    Moved::Nothing => return Ok(None),
                    Moved::End => return Err(early_end("writes")),
                }
            }
            Ok(Some(()))
        })?;
        done.ok_or_else(|| {
            broken(
                Rule::WriteCount,
                "a stream with room takes bytes",
                format_args!("{sent} of {length} bytes were taken in {:?}", self.patience),
            )
        })
    }

    /// Reads bytes of the pattern from that place on until so many have arrived.
    #[track_caller]
    pub(super) fn receive(
        &self,
        inward: &P::Stream,
        from: usize,
        length: usize,
        rule: Rule,
    ) -> Checked {
        let mut buffer = [0; 1024];
        let mut received = 0;
        let done = self.until(|| {
            while received < length {
                let part = &mut buffer[..(length - received).min(1024)];
                match self.read(inward, part)? {
                    Moved::Bytes(count) => {
                        if let Some(place) = mismatch(&part[..count], from + received) {
                            return Err(broken(
                                rule,
                                "the bytes that were written, in their order",
                                format_args!("another byte at place {}", received + place),
                            ));
                        }
                        received += count;
                    }
                    Moved::Nothing => return Ok(None),
                    Moved::End => {
                        return Err(broken(
                            if rule == Rule::Order { Rule::End } else { rule },
                            "the end only after all bytes were read",
                            format_args!("the end after {received} of {length} bytes"),
                        ));
                    }
                }
            }
            Ok(Some(()))
        })?;
        done.ok_or_else(|| {
            broken(
                rule,
                "all bytes that were written arrive",
                format_args!(
                    "{received} of {length} bytes arrived in {:?}",
                    self.patience
                ),
            )
        })
    }

    /// Writes from that place on until the stream takes no more; returns how much it took. `None` if it
    /// takes any number of bytes.
    #[track_caller]
    #[allow(
        clippy::large_stack_arrays,
        reason = "a check has a stack of 64 MiB with `std`"
    )]
    pub(super) fn fill_up(&self, out: &P::Stream, from: usize) -> Checked<Option<usize>> {
        const MOST: usize = 16 << 20;
        // A long write is more often taken in part.
        const LENGTH: usize = if cfg!(feature = "std") {
            96 << 10
        } else {
            4096
        };
        let mut buffer = [0; LENGTH];
        let (mut sent, mut refused) = (0, 0);
        fill(&mut buffer, from);
        while refused < TRIES {
            let (first, second) = buffer.split_at(1000);
            match self.write(out, &[first, &[], second])? {
                Moved::Bytes(count) => {
                    (sent, refused) = (sent + count, 0);
                    // A platform may take a little each time. If that took long, a stream that nobody reads might end.
                    buffer.copy_within(count.., 0);
                    let rest = LENGTH - count;
                    fill(&mut buffer[rest..], from + sent + rest);
                }
                Moved::Nothing => {
                    refused += 1;
                    self.poll();
                }
                Moved::End => return Err(early_end("writes")),
            }
            if sent > MOST {
                return Ok(None);
            }
        }
        Ok(Some(sent))
    }
}

#[track_caller]
fn early_end(verb: &str) -> Violation {
    broken(
        Rule::End,
        "an open stream, since both ends are open",
        format_args!("the one end {verb} the end of the stream"),
    )
}
