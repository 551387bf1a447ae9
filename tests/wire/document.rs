//! The protocol's document has every code with its number, and the bytes of its example are those
//! that are sent.

use libos_ipc::wire::{Answer, Message, codes};

#[test]
fn every_code_is_in_the_document() {
    let document = include_str!("../../docs/protocol.md");
    let source = include_str!("../../src/wire/codes.rs");
    let mut count = 0;
    for line in source.lines() {
        let Some((name, number)) = line
            .strip_prefix("pub const ")
            .and_then(|rest| rest.split_once(": u8 = "))
        else {
            continue;
        };
        let number = number.trim_end_matches(';');
        if name != "FIRST_UNKNOWN" {
            let code = number.parse().unwrap();
            assert_eq!(codes::name(code), Some(name));
            assert_eq!(codes::CodeName(code).to_string(), name);
        }
        if ["RESP", "FIRST_UNKNOWN"].contains(&name) {
            continue;
        }
        let row = format!("| {number} | `{name}` |");
        assert!(document.contains(&row), "{row} is missing");
        count += 1;
    }
    assert_eq!(count, 17 + 32);
    assert_eq!(codes::name(84), None);
    assert_eq!(codes::CodeName(84).to_string(), "code 84");
}

#[test]
fn the_example_in_the_document_has_the_bytes_that_are_sent() {
    let document = include_str!("../../docs/protocol.md");
    let example = document
        .split("```text\n")
        .find(|block| block.starts_with("member 2"))
        .and_then(|block| block.split("```").next())
        .unwrap();
    let mut shown = [Vec::new(), Vec::new()];
    let mut side = 0;
    for line in example.lines() {
        if line.starts_with("leader") {
            side = 1;
        }
        // The meaning of the bytes stands after them.
        let rest: String = line.chars().skip(21).collect();
        let bytes = rest.split_whitespace().map_while(|word| {
            let is_byte = word.len() == 2;
            is_byte.then(|| u8::from_str_radix(word, 16).ok()).flatten()
        });
        shown[side].extend(bytes);
    }
    let mut frame = [0; 64];
    let length = Message::GetIdOwner(7).encode(1, &mut frame).unwrap();
    assert_eq!(shown[0], [&[2, 0, 0, 0], &frame[..length]].concat());
    let length = Answer::Owner(2).encode(1, &mut frame).unwrap();
    assert_eq!(shown[1], [&[1, 0, 0, 0], &frame[..length]].concat());
}
