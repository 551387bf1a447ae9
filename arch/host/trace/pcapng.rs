//! The file format of Wireshark, as far as a recording needs it: one section in little endian, an
//! interface for each sending member, and packets with times in nanoseconds.
//!
//! Source: the draft `draft-ietf-opsawg-pcapng`, "PCAP Next Generation Capture File Format".

use std::io::{self, Write};
use std::vec::Vec;

use crate::invariant::Count;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The kinds of blocks.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;

/// The mark at the beginning of a section, in the byte order of the section.
const BYTE_ORDER: u32 = 0x1a2b_3c4d;

/// The link type `LINKTYPE_USER0`, whose packets a user-defined dissector interprets.
const USER_0: u16 = 147;

/// The options: the program that wrote a section, the name of an interface, the resolution of its
/// times.
const APPLICATION: u16 = 4;
const NAME: u16 = 2;
const RESOLUTION: u16 = 9;

/// Times are in units of 10⁻⁹ s.
const NANOSECONDS: u8 = 9;

/// The alignment of every block, and of every option within it, in bytes.
const ALIGNMENT: usize = 4;
const PADDING: [u8; ALIGNMENT] = [0; ALIGNMENT];

/// The header of every block. The length stands again after its content.
#[derive(FromBytes, IntoBytes, Unaligned, KnownLayout, Immutable)]
#[repr(C)]
struct BlockHeader {
    kind: U32,
    /// The length of the whole block.
    length: U32,
}

/// The length of a block without its content, in bytes.
const BLOCK_OVERHEAD: usize = size_of::<BlockHeader>() + size_of::<U32>();

#[derive(FromBytes, IntoBytes, Unaligned, KnownLayout, Immutable)]
#[repr(C)]
struct Section {
    byte_order: U32,
    major: U16,
    minor: U16,
    /// The length of the section; all ones if it is not known.
    length: U64,
}

#[derive(IntoBytes, Unaligned, Immutable)]
#[repr(C)]
struct Interface {
    link_type: U16,
    reserved: U16,
    /// The greatest number of bytes of each packet; 0 for all.
    kept: U32,
}

#[derive(FromBytes, IntoBytes, Unaligned, KnownLayout, Immutable)]
#[repr(C)]
struct PacketHeader {
    interface: U32,
    time_high: U32,
    time_low: U32,
    kept: U32,
    length: U32,
}

#[derive(IntoBytes, Unaligned, Immutable)]
#[repr(C)]
struct OptionHeader {
    code: U16,
    length: U16,
}

/// Writes the section header, which begins a file of this application.
pub(super) fn write_section(to: &mut impl Write, application: &str) -> io::Result<()> {
    let section = Section {
        byte_order: BYTE_ORDER.into(),
        major: 1.into(),
        minor: 0.into(),
        length: u64::MAX.into(),
    };
    let options = options(&[(APPLICATION, application.as_bytes())]);
    write_block(to, SECTION, &[section.as_bytes(), &options])
}

/// Writes the next interface; the first has number 0.
pub(super) fn write_interface(to: &mut impl Write, name: &str) -> io::Result<()> {
    let interface = Interface {
        link_type: USER_0.into(),
        reserved: 0.into(),
        kept: 0.into(),
    };
    let options = options(&[(NAME, name.as_bytes()), (RESOLUTION, &[NANOSECONDS])]);
    write_block(to, INTERFACE, &[interface.as_bytes(), &options])
}

/// Writes a packet of the concatenated `parts`. The time is in nanoseconds since 1970.
pub(super) fn write_packet(
    to: &mut impl Write,
    interface: u32,
    time: u64,
    parts: [&[u8]; 2],
) -> io::Result<()> {
    let length = length_of(&parts)?;
    let [low, high] = zerocopy::transmute!(U64::new(time));
    let header = PacketHeader {
        interface: interface.into(),
        time_high: high,
        time_low: low,
        kept: length.into(),
        length: length.into(),
    };
    let [first, second] = parts;
    write_block(to, PACKET, &[header.as_bytes(), first, second])
}

/// Returns the options of a block, with the mark of their end.
fn options(all: &[(u16, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (code, value) in all.iter().copied().chain([(0, [].as_slice())]) {
        let header = OptionHeader {
            code: code.into(),
            length: u16::try_from(value.len()).unwrap_or(u16::MAX).into(),
        };
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend(value.iter().take(usize::from(u16::MAX)));
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
    bytes
}

fn write_block(to: &mut impl Write, kind: u32, parts: &[&[u8]]) -> io::Result<()> {
    let contents = length_of(parts)? as usize;
    let padded = contents.next_multiple_of(ALIGNMENT);
    let length = u32::try_from(padded.saturating_add(BLOCK_OVERHEAD)).map_err(|_| too_long())?;
    let header = BlockHeader {
        kind: kind.into(),
        length: length.into(),
    };
    to.write_all(header.as_bytes())?;
    for part in parts {
        to.write_all(part)?;
    }
    let padding = PADDING.get(..padded.minus(contents));
    to.write_all(padding.unwrap_or_default())?;
    to.write_all(U32::new(length).as_bytes())
}

fn length_of(parts: &[&[u8]]) -> io::Result<u32> {
    let lengths = parts.iter().map(|part| part.len());
    let length = lengths.fold(0, usize::saturating_add);
    u32::try_from(length).map_err(|_| too_long())
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "a block of more than 4 GiB")
}

/// A packet of a file.
#[derive(Debug)]
pub(super) struct Packet<'f> {
    /// In nanoseconds since 1970.
    pub(super) time: u64,
    pub(super) data: &'f [u8],
}

/// The next part of a file.
#[derive(Debug)]
pub(super) enum Next<'f> {
    Packet(Packet<'f>),
    /// The end of the file.
    End,
    /// The file ends within a block.
    CutOff,
}

/// The packets of a file that the functions above wrote.
#[derive(Debug)]
pub(super) struct Packets<'f> {
    rest: &'f [u8],
    /// The section header was read.
    has_section: bool,
}

impl<'f> Packets<'f> {
    pub(super) fn new(file: &'f [u8]) -> Self {
        Packets {
            rest: file,
            has_section: false,
        }
    }

    /// Returns the next packet. Other blocks are skipped.
    ///
    /// # Errors
    /// The fault of the file.
    pub(super) fn next(&mut self) -> Result<Next<'f>, &'static str> {
        loop {
            if self.rest.is_empty() {
                return Ok(if self.has_section {
                    Next::End
                } else {
                    Next::CutOff
                });
            }
            let Ok((header, _)) = BlockHeader::ref_from_prefix(self.rest) else {
                return Ok(Next::CutOff);
            };
            if !self.has_section && header.kind != SECTION {
                return Err("it is not a pcapng file");
            }
            let length = header.length.get() as usize;
            if length < BLOCK_OVERHEAD || !length.is_multiple_of(ALIGNMENT) {
                return Err("a block has a length that cannot be");
            }
            let Some((block, after)) = self.rest.split_at_checked(length) else {
                return Ok(Next::CutOff);
            };
            let (header, contents) =
                BlockHeader::ref_from_prefix(block).map_err(|_| "a block is short")?;
            self.rest = after;
            match header.kind.get() {
                SECTION => {
                    let section = Section::ref_from_prefix(contents);
                    let (section, _) = section.map_err(|_| "the section is short")?;
                    if section.byte_order != BYTE_ORDER {
                        return Err("it is not in little endian");
                    }
                    self.has_section = true;
                }
                PACKET => return packet(contents).map(Next::Packet),
                _ => {}
            }
        }
    }
}

fn packet(contents: &[u8]) -> Result<Packet<'_>, &'static str> {
    let short = "a packet is short";
    let (header, rest) = PacketHeader::ref_from_prefix(contents).map_err(|_| short)?;
    let time: U64 = zerocopy::transmute!([header.time_low, header.time_high]);
    Ok(Packet {
        time: time.get(),
        data: rest.get(..header.kept.get() as usize).ok_or(short)?,
    })
}
