//! Recordings made for a test: two members in memory, one thread.

use std::path::{Path, PathBuf};

use libos_ipc::Vmid;
use libos_ipc::host::trace::{Recorder, TracedPal};
use libos_ipc::pal::{Pal, Stream};
use libos_ipc::testing::loopback::Network;
use libos_ipc::wire::{HEADER_LENGTH, Message};

pub(crate) type Net = Network<2, 4, 16384>;

pub(crate) fn vmid(number: u32) -> Vmid {
    Vmid::new(number).unwrap()
}

/// Returns a frame with any code and payload.
pub(crate) fn frame(seq: u64, code: u8, payload: &[u8]) -> Vec<u8> {
    let size = (HEADER_LENGTH + payload.len()) as u64;
    [
        &size.to_le_bytes(),
        &seq.to_le_bytes(),
        &[code][..],
        payload,
    ]
    .concat()
}

pub(crate) fn encoded(seq: u64, message: &Message<'_>) -> Vec<u8> {
    let mut buffer = vec![0; message.length()];
    message.encode(seq, &mut buffer).unwrap();
    buffer
}

/// Records pairs of a request of member 2 and an answer of member 1, the leader, which may be
/// missing. Returns the file.
pub(crate) fn record(directory: &Path, exchanges: &[(Vec<u8>, Option<Vec<u8>>)]) -> PathBuf {
    let file = directory.join("tape.pcapng");
    let recorder = Recorder::create(&file).unwrap();
    let net = Box::new(Net::new());
    let leader = net.join(vmid(1)).unwrap();
    let member = TracedPal::new(net.join(vmid(2)).unwrap(), vmid(2), Some(&recorder));
    let ask = member.connect(vmid(1)).unwrap();
    let asked = leader.accept().unwrap();
    let answer = leader.connect(vmid(2)).unwrap();
    let answered = member.accept().unwrap();
    send(&ask, &asked, &2_u32.to_le_bytes());
    send(&answer, &answered, &1_u32.to_le_bytes());
    for (request, reply) in exchanges {
        net.advance(std::time::Duration::from_micros(10));
        send(&ask, &asked, request);
        if let Some(reply) = reply {
            net.advance(std::time::Duration::from_micros(40));
            send(&answer, &answered, reply);
        }
    }
    drop((ask, asked, answer, answered, member));
    recorder.finish().unwrap();
    file
}

fn send(out: &impl Stream, inward: &impl Stream, bytes: &[u8]) {
    assert_eq!(out.write(&[bytes]), Ok(bytes.len()));
    let mut buffer = vec![0; bytes.len()];
    assert_eq!(inward.read(&mut buffer), Ok(bytes.len()));
}
