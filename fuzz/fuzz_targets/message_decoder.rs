//! Any payload is refused, or decoded to a message that encodes and decodes alike. The same is
//! checked for every form of an answer.

#![no_main]

use libfuzzer_sys::fuzz_target;
use libos_ipc::wire::{Answer, Expected, Frame, FrameReader};

const EXPECTED: [Expected; 8] = [
    Expected::Vmid,
    Expected::IdRange,
    Expected::Owner,
    Expected::Status,
    Expected::StatusOrEmpty,
    Expected::Meta,
    Expected::Lock,
    Expected::Process,
];

/// Parses a frame that was just written, and passes it to `check`.
fn with_frame(buffer: &mut [u8], length: usize, check: impl FnOnce(Frame<'_>)) {
    assert_eq!(length, buffer.len());
    let mut reader = FrameReader::new(buffer);
    reader.mark_filled(length);
    let frame = reader
        .peek()
        .expect("a good header")
        .expect("a whole frame");
    assert_eq!(frame.length(), length);
    check(frame);
}

fuzz_target!(|input: &[u8]| {
    let [code, payload @ ..] = input else { return };
    let frame = Frame {
        seq: 7,
        code: *code,
        payload,
    };
    if let Ok(message) = frame.message() {
        assert_eq!(message.code(), *code);
        assert!(message.length() <= frame.length());
        let mut buffer = vec![0xEE; message.length()];
        let length = message
            .encode(7, &mut buffer)
            .expect("what was read can be written");
        with_frame(&mut buffer, length, |again| {
            assert_eq!(again.message(), Ok(message))
        });
    }
    for expected in EXPECTED {
        if let Ok(answer) = Answer::decode(expected, payload) {
            let mut buffer = vec![0xEE; answer.length()];
            let length = answer
                .encode(7, &mut buffer)
                .expect("what was read can be written");
            with_frame(&mut buffer, length, |again| {
                assert_eq!(Answer::decode(expected, again.payload), Ok(answer));
            });
        }
    }
});
