//! A channel whose other end is hostile: whatever it sends, and whatever calls the owner of the streams makes
//! meanwhile, the multiplexer stays within its bounds, and a fault closes all streams.

#![no_main]

use libfuzzer_sys::fuzz_target;
use libos_ipc::pal::mux::{Mux, Stop};

const STREAMS: usize = 4;
const WINDOW: usize = 32;

fuzz_target!(|input: &[u8]| {
    let mut end = Box::<Mux<STREAMS, WINDOW>>::default();
    let mut buffer = [0; 100];
    let mut rest = input;
    // Each step has an action, a stream, the number of received bytes before it, then these bytes.
    while let [action, length, tail @ ..] = rest {
        let (received, tail) = tail.split_at(usize::from(*length % 64).min(tail.len()));
        rest = tail;
        if end.receive(received).is_err() {
            break;
        }
        let stream = u16::from(action >> 4) % 5;
        match action % 8 {
            0 => drop(end.open(1)),
            1 => {
                if let Some((stream, _)) = end.next_opened() {
                    end.accept(stream);
                }
            }
            2 => drop(end.write(stream, &[&buffer, &[1]])),
            3 => drop(end.read(stream, &mut buffer)),
            4 => end.end(stream),
            5 => end.stop(stream, Stop::Closed),
            6 => end.skip(stream, 5),
            _ => {
                let count = end.poll_transmit().len().min(9);
                end.mark_sent(count);
            }
        }
        for stream in 0..5 {
            assert!(end.readable(stream) <= WINDOW);
        }
    }
    if end.fault().is_some() {
        assert!(!end.can_open());
        assert!(end.receive(&[0]).is_err());
        assert!((0..5).all(|stream| end.is_ended(stream) && end.room(stream) == 0));
    }
});
