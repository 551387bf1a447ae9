//! The protocol's document has every code, with its number.

#[test]
fn every_code_is_in_the_document() {
    let document = include_str!("../../docs/protocol.md");
    let source = include_str!("../../src/wire/codes.rs");
    let mut codes = 0;
    for line in source.lines() {
        let Some((name, number)) = line
            .strip_prefix("pub const ")
            .and_then(|rest| rest.split_once(": u8 = "))
        else {
            continue;
        };
        let number = number.trim_end_matches(';');
        if ["RESP", "FIRST_UNKNOWN"].contains(&name) {
            continue;
        }
        let row = format!("| {number} | `{name}` |");
        assert!(document.contains(&row), "{row} is missing");
        codes += 1;
    }
    assert_eq!(codes, 17 + 13);
}
