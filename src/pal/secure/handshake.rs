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
use super::{Breach, Family};
use crate::Vmid;

/// What every secure stream begins with. The first four bytes are where others have their VMID, which
/// is never 0: a process without a key turns the stream away at once, and so do we with its.
pub(super) const MAGIC: [u8; 8] = *b"\0\0\0\0ipc1";
/// The magic and the opener's VMID.
const PREFIX: usize = MAGIC.len() + 4;
/// A public key and a tag.
const MESSAGE: usize = 32 + 16;
/// The bytes that the opener sends first.
pub(super) const HELLO: usize = PREFIX + MESSAGE;
/// The bytes that the accepter answers.
pub(super) const ANSWER: usize = MESSAGE;

/// Handshakes of other versions or programs have another.
const PROTOCOL: &[u8; 18] = b"libos-ipc secure 1";

type Noise = NqHandshakeCore<X25519, AesGcm, Blake2s, NoRng>;

/// The opener's handshake, waiting for its answer.
pub(super) struct Handshake(Noise);

/// Both get to the same keys only if they agree on this.
fn prologue(family: &Family, opener: u32, accepter: Vmid) -> [u8; 34] {
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

fn start(family: &Family, prologue: &[u8], initiator: bool) -> Result<Noise, Breach> {
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

/// Overwrites the family's key in a handshake that has used it: it would only drop it.
fn forget_key(noise: &mut Noise) {
    noise.push_psk(&[0; 32]);
    black_box(noise);
}

impl Handshake {
    /// Begins one with `accepter`, and writes what it is to be sent.
    pub(super) fn begin(
        family: &Family,
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

    /// Takes the answer: the key to send with.
    pub(super) fn finish(&mut self, answer: &[u8]) -> Result<Key, Breach> {
        let read = self.0.read_message(answer, &mut []);
        read.map_err(|_| Breach::Handshake)?;
        send_key(&self.0)
    }
}

/// Takes up a handshake with `own`: who it is from, the key to receive with, and the answer.
pub(super) fn answer(
    family: &Family,
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
    read.and_then(|_| noise.write_message(&[], answer))
        .map_err(|_| Breach::Handshake)?;
    Ok((opener, send_key(&noise)?))
}

/// The key from the opener to the accepter. That of the way back is not used, and wiped at once.
fn send_key(noise: &Noise) -> Result<Key, Breach> {
    let keys = noise.get_state().split().map_err(|_| Breach::Handshake)?;
    Ok(Key::new(keys.initiator_to_responder))
}

/// The source of random numbers that the crate asks for, and does not use: both ephemeral keys are
/// made before.
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
