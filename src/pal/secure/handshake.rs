//! The handshake: `Noise_NNpsk0_25519_AESGCM_BLAKE2s`, one message each way.

use core::hint::black_box;

use clatter::bytearray::ByteArray;
use clatter::crypto::cipher::AesGcm;
use clatter::crypto::dh::X25519;
use clatter::crypto::hash::Blake2s;
use clatter::handshakepattern::noise_nn_psk0;
use clatter::rand_core::{CryptoRng, Error, RngCore};
use clatter::traits::Dh;
use clatter::{Handshaker, KeyPair, NqHandshakeCore};
use zeroize::Zeroizing;

use super::record::Key;
use super::{Breach, HandshakeParameters};
use crate::Vmid;

/// The first bytes of every secure stream. The first four bytes are where a plain stream has its
/// VMID, which is never 0: a process without a key refuses the stream at once, and a process with a
/// key refuses a plain stream at once.
pub(super) const MAGIC: [u8; 8] = *b"\0\0\0\0ipc1";
/// The length of the magic and the opener's VMID.
const PREFIX: usize = MAGIC.len() + 4;
/// The length of a public key and a tag.
const MESSAGE: usize = 32 + 16;
/// The length of the opener's first message.
pub(super) const HELLO: usize = PREFIX + MESSAGE;
/// The length of the accepter's answer.
pub(super) const ANSWER: usize = MESSAGE;

/// Part of the prologue: handshakes of other versions or programs have another.
const PROTOCOL: &[u8; 18] = b"libos-ipc secure 1";

type Noise = NqHandshakeCore<X25519, AesGcm, Blake2s, NoRng>;

/// The opener's handshake while it waits for the answer.
pub(super) struct Handshake(Noise);

/// Returns the prologue. Both ends get the same keys only if they agree on it.
fn prologue(family: &HandshakeParameters, opener: u32, accepter: Vmid) -> [u8; 34] {
    let mut prologue = [0; 34];
    let parts = [
        &PROTOCOL[..],
        family.key.instance(),
        &opener.to_le_bytes(),
        &accepter.get().to_le_bytes(),
    ];
    for (to, from) in prologue.iter_mut().zip(parts.iter().copied().flatten()) {
        *to = *from;
    }
    prologue
}

fn start(family: &HandshakeParameters, prologue: &[u8], initiator: bool) -> Result<Noise, Breach> {
    let mut secret = Zeroizing::new([0; 32]);
    (family.random)(secret.as_mut_slice()).map_err(|_| Breach::NoRandom)?;
    let secret = <X25519 as Dh>::PrivateKey::from_slice(secret.as_slice());
    let ephemeral = KeyPair::new(X25519::pubkey(&secret), secret);
    let pattern = noise_nn_psk0();
    let mut noise = Noise::new(
        pattern,
        prologue,
        initiator,
        None,
        Some(ephemeral),
        None,
        None,
    )
    .map_err(|_| Breach::Handshake)?;
    noise.push_psk(family.key.key());
    Ok(noise)
}

/// Overwrites the family's key in a handshake that has used it. Dropping the handshake would not
/// wipe the key.
fn forget_key(noise: &mut Noise) {
    noise.push_psk(&[0; 32]);
    black_box(noise);
}

impl Handshake {
    /// Begins a handshake with `accepter`, and writes the first message.
    pub(super) fn begin(
        family: &HandshakeParameters,
        own: Vmid,
        accepter: Vmid,
        hello: &mut [u8],
    ) -> Result<Handshake, Breach> {
        let own = own.get();
        let mut noise = start(family, &prologue(family, own, accepter), true)?;
        let (prefix, message) = hello
            .split_at_mut_checked(PREFIX)
            .ok_or(Breach::Handshake)?;
        let bytes = MAGIC.into_iter().chain(own.to_le_bytes());
        prefix
            .iter_mut()
            .zip(bytes)
            .for_each(|(to, byte)| *to = byte);
        let written = noise.write_message(&[], message);
        forget_key(&mut noise);
        written.map_err(|_| Breach::Handshake)?;
        Ok(Handshake(noise))
    }

    /// Processes the answer and returns the key for sending.
    pub(super) fn finish(&mut self, answer: &[u8]) -> Result<Key, Breach> {
        let read = self.0.read_message(answer, &mut []);
        read.map_err(|_| Breach::Handshake)?;
        send_key(&self.0)
    }
}

/// Processes the first message of a handshake with `own`: returns the sender, the key for
/// receiving, and the answer. A repeated message is refused.
pub(super) fn answer(
    family: &HandshakeParameters,
    own: Vmid,
    hello: &[u8],
    answer: &mut [u8; ANSWER],
) -> Result<([u8; 4], Key), Breach> {
    let (prefix, message) = hello.split_at_checked(PREFIX).ok_or(Breach::Handshake)?;
    let opener = *prefix.last_chunk::<4>().ok_or(Breach::Handshake)?;
    let prologue = prologue(family, u32::from_le_bytes(opener), own);
    let mut noise = start(family, &prologue, false)?;
    let read = noise.read_message(message, &mut []);
    forget_key(&mut noise);
    read.map_err(|_| Breach::Handshake)?;
    // Only a message of the family is recorded, and it begins with the public key.
    if !family.first_messages.add(message) {
        return Err(Breach::Handshake);
    }
    noise
        .write_message(&[], answer)
        .map_err(|_| Breach::Handshake)?;
    Ok((opener, send_key(&noise)?))
}

/// Returns the key from the opener to the accepter. The key of the other direction is not used, and
/// wiped at once.
fn send_key(noise: &Noise) -> Result<Key, Breach> {
    let keys = noise.get_state().split().map_err(|_| Breach::Handshake)?;
    Ok(Key::new(keys.initiator_to_responder))
}

/// The source of random numbers that the Noise crate requires and does not use: both ephemeral keys
/// are made before.
#[derive(Clone, Default)]
struct NoRng;

impl RngCore for NoRng {
    fn next_u32(&mut self) -> u32 {
        unreachable!("the ephemeral key is there")
    }

    fn next_u64(&mut self) -> u64 {
        unreachable!("the ephemeral key is there")
    }

    fn fill_bytes(&mut self, _: &mut [u8]) {
        unreachable!("the ephemeral key is there")
    }

    fn try_fill_bytes(&mut self, _: &mut [u8]) -> Result<(), Error> {
        unreachable!("the ephemeral key is there")
    }
}

impl CryptoRng for NoRng {}
