//! Attacks by the host: each time the stream ends, the reason is counted, no false byte was read,
//! and another stream of the same process continues.

use libos_ipc::pal::secure::{Breach, FamilyKey, SecurePal, SecureStream};
use libos_ipc::pal::{Pal, Stream, StreamError};

use super::{Net, Plain, Raw, assert_breaches, key, member, random, vmid};

/// The lengths of the first message of a handshake and of its answer, in bytes.
const HELLO: usize = 60;
const ANSWER: usize = 48;
/// The data from the first process to the second, each in a record of its own.
const DATA: [&[u8]; 4] = [b"\x01\0\0\0", b"first", b"second", b"third"];

type Member<'n> = SecurePal<Plain<'n>>;
type End<'p, 'n> = SecureStream<Plain<'n>, &'p Member<'n>>;

/// The host between the two ends of a stream: it can change, drop and add bytes.
struct Middle<'p, 'n> {
    /// Member 1's stream to member 2, as it believes, and the end at which the host reads it.
    out: Option<End<'p, 'n>>,
    near: Option<Raw<'n>>,
    /// The stream that the other member has accepted, and the end at which the host writes it.
    inward: End<'p, 'n>,
    far: Option<Raw<'n>>,
    received: Vec<u8>,
}

/// Two networks: in the first the host listens in place of member 2, in the second it connects.
struct Networks {
    one: Box<Net>,
    two: Box<Net>,
}

impl Networks {
    fn new() -> Networks {
        Networks {
            one: Box::new(Net::new()),
            two: Box::new(Net::new()),
        }
    }
}

fn read(stream: &impl Stream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = [0; 512];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        all.extend_from_slice(&buffer[..count]);
    }
    all
}

impl<'p, 'n> Middle<'p, 'n> {
    fn new(
        networks: &'n Networks,
        from: &'p Member<'n>,
        to: &'p Member<'n>,
        to_vmid: u32,
    ) -> Middle<'p, 'n> {
        let fake = networks.one.join(vmid(2)).unwrap();
        let out = from.connect(vmid(2)).unwrap();
        let near = fake.accept().unwrap();
        let host = networks.two.join(vmid(99)).unwrap();
        let far = host.connect(vmid(to_vmid)).unwrap();
        let inward = to.accept().unwrap();
        Middle {
            out: Some(out),
            near: Some(near),
            inward,
            far: Some(far),
            received: Vec::new(),
        }
    }

    /// Lets the first process write `what`.
    fn write(&self, what: &[u8]) -> Result<usize, StreamError> {
        self.out.as_ref().unwrap().write(&[what])
    }

    /// Reads what the first process has sent.
    fn read_sent(&self) -> Vec<u8> {
        read(self.near.as_ref().unwrap())
    }

    /// Reads what the second process has answered.
    fn read_answer(&self) -> Vec<u8> {
        read(self.far.as_ref().unwrap())
    }

    /// Delivers `bytes` to the second process, which reads; returns the end of its reading.
    fn deliver(&mut self, bytes: &[u8]) -> Option<StreamError> {
        if !bytes.is_empty() {
            let _ = self.far.as_ref().unwrap().write(&[bytes]);
        }
        self.read()
    }

    fn read(&mut self) -> Option<StreamError> {
        let mut buffer = [0; 512];
        loop {
            match self.inward.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.received.extend_from_slice(&buffer[..count]),
                Err(error) => return Some(error),
            }
        }
    }

    /// Delivers an answer to the first process.
    fn write_answer(&self, answer: &[u8]) {
        let _ = self.near.as_ref().unwrap().write(&[answer]);
    }

    /// Completes the handshake without an attack.
    fn shake_hands(&mut self) {
        assert_eq!(self.write(DATA[0]), Err(StreamError::WouldBlock));
        let hello = self.read_sent();
        assert_eq!(hello.len(), HELLO);
        assert_eq!(self.deliver(&hello), Some(StreamError::WouldBlock));
        let answer = self.read_answer();
        assert_eq!(answer.len(), ANSWER);
        self.write_answer(&answer);
    }

    /// Returns all records of the first process's data, and of the end.
    fn records(&mut self) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        for data in DATA {
            assert_eq!(self.write(data), Ok(data.len()));
            records.push(self.read_sent());
        }
        self.out = None;
        records.push(self.read_sent());
        records
    }

    /// Cuts the stream as the host; returns the resulting error.
    fn cut(&mut self) -> Option<StreamError> {
        self.far = None;
        self.read()
    }
}

/// Returns the data before record `count`.
fn until(count: usize) -> Vec<u8> {
    DATA[..count].concat()
}

/// Runs a test with two members and a stream from another member to the second, which must not be
/// disturbed.
fn with_bystander(test: impl Fn(&Networks, &Member<'_>, &Member<'_>)) {
    let networks = Networks::new();
    let (one, two) = (member(&networks.one, 1), member(&networks.two, 2));
    let other = member(&networks.two, 3);
    let out = (&&other).connect(vmid(2)).unwrap();
    let inward = (&&two).accept().unwrap();
    let mut buffer = [0; 8];
    assert_eq!(
        out.write(&[&3_u32.to_le_bytes()]),
        Err(StreamError::WouldBlock)
    );
    assert_eq!(inward.read(&mut buffer), Err(StreamError::WouldBlock));
    assert_eq!(out.write(&[&3_u32.to_le_bytes(), b"!"]), Ok(5));
    test(&networks, &one, &two);
    assert_eq!(inward.read(&mut buffer), Ok(5));
    assert_eq!(out.write(&[b"more"]), Ok(4));
    assert_eq!(inward.read(&mut buffer), Ok(4));
    drop(out);
    assert_eq!(inward.read(&mut buffer), Ok(0));
}

#[test]
fn an_undisturbed_stream_carries_all_bytes() {
    with_bystander(|networks, one, two| {
        let mut middle = Middle::new(networks, one, two, 2);
        middle.shake_hands();
        let records = middle.records();
        assert_eq!(middle.deliver(&records.concat()), None);
        assert_eq!(middle.received, DATA.concat());
        assert_breaches(one, &[]);
        assert_breaches(two, &[]);
    });
}

/// Runs a session in which one bit of all bytes that the host sees is flipped.
fn flip(bit: usize) {
    let (at, mask) = (bit / 8, 1 << (bit % 8));
    with_bystander(|networks, one, two| {
        let mut middle = Middle::new(networks, one, two, 2);
        let _ = middle.write(DATA[0]);
        let mut hello = middle.read_sent();
        if at < HELLO {
            hello[at] ^= mask;
            assert_eq!(middle.deliver(&hello), Some(StreamError::Closed));
            let why = if at < 8 {
                Breach::NotSecure
            } else {
                Breach::Handshake
            };
            assert_breaches(two, &[(why, 1)]);
            middle.near = None;
            assert_eq!(middle.write(DATA[0]), Err(StreamError::Closed));
            assert_breaches(one, &[(Breach::Unfinished, 1)]);
            return;
        }
        middle.deliver(&hello);
        let mut answer = middle.read_answer();
        if at < HELLO + ANSWER {
            answer[at - HELLO] ^= mask;
            middle.write_answer(&answer);
            assert_eq!(middle.write(DATA[0]), Err(StreamError::Closed));
            assert_breaches(one, &[(Breach::Handshake, 1)]);
            middle.out = None;
            assert!(middle.read_sent().is_empty(), "nothing was sent");
            assert_eq!(middle.cut(), Some(StreamError::Closed));
            assert_breaches(two, &[(Breach::Truncated, 1)]);
            return;
        }
        middle.write_answer(&answer);
        let records = middle.records();
        let mut all = records.concat();
        let at = at - HELLO - ANSWER;
        all[at] ^= mask;
        let mut end = 0;
        let number = records.iter().position(|record| {
            end += record.len();
            at < end
        });
        let first = middle.deliver(&all);
        let last = middle.cut();
        assert_eq!(last, Some(StreamError::Closed), "{first:?}");
        // The flipped length may announce more bytes, which do not arrive.
        let longer = at - (end - records[number.unwrap()].len()) < 2;
        if longer && first == Some(StreamError::WouldBlock) {
            assert_breaches(two, &[(Breach::Truncated, 1)]);
        } else {
            assert_breaches(two, &[(Breach::Record, 1)]);
        }
        assert_eq!(middle.received, until(number.unwrap()), "bit {bit}");
        assert_breaches(one, &[]);
    });
}

#[test]
fn any_flipped_bit_ends_the_stream() {
    let records: usize = DATA.iter().map(|data| data.len() + 18).sum();
    let bytes = HELLO + ANSWER + records + 18;
    for bit in 0..bytes * 8 {
        flip(bit);
    }
}

#[test]
fn reordered_dropped_or_repeated_records_end_the_stream() {
    // Each entry has the records in their changed order, the number of valid ones, and the breach.
    let orders: [(&[usize], usize, Breach); 9] = [
        (&[1, 0, 2, 3, 4], 0, Breach::Record),
        (&[0, 2, 1, 3, 4], 1, Breach::Record),
        (&[0, 1, 2, 4, 3], 3, Breach::Record),
        (&[0, 1, 1, 2, 3, 4], 2, Breach::Record),
        (&[0, 0, 1, 2, 3, 4], 1, Breach::Record),
        (&[0, 2, 3, 4], 1, Breach::Record),
        (&[4], 0, Breach::Record),
        (&[0, 1, 4], 2, Breach::Record),
        (&[0, 1, 2, 3], 4, Breach::Truncated),
    ];
    for (order, good, why) in orders {
        with_bystander(|networks, one, two| {
            let mut middle = Middle::new(networks, one, two, 2);
            middle.shake_hands();
            let records = middle.records();
            for number in order {
                middle.deliver(&records[*number]);
            }
            assert_eq!(middle.cut(), Some(StreamError::Closed), "{order:?}");
            assert_eq!(middle.received, until(good), "{order:?}");
            assert_breaches(two, &[(why, 1)]);
        });
    }
    // After the end no byte is read.
    with_bystander(|networks, one, two| {
        let mut middle = Middle::new(networks, one, two, 2);
        middle.shake_hands();
        let records = middle.records();
        assert_eq!(middle.deliver(&records.concat()), None);
        assert_eq!(middle.deliver(&records.concat()), None);
        assert_eq!(middle.received, DATA.concat());
    });
}

#[test]
fn a_replayed_stream_is_refused() {
    with_bystander(|networks, one, two| {
        let mut first = Middle::new(networks, one, two, 2);
        let _ = first.write(DATA[0]);
        let hello = first.read_sent();
        first.deliver(&hello);
        let answer = first.read_answer();
        first.write_answer(&answer);
        let records = first.records();
        assert_eq!(first.deliver(&records.concat()), None);

        // This is a replay to the accepting end.
        let mut again = Middle::new(networks, one, two, 2);
        assert_eq!(again.deliver(&hello), Some(StreamError::Closed));
        assert!(again.read_answer().is_empty());
        assert!(again.received.is_empty());
        assert_breaches(two, &[(Breach::Handshake, 1)]);

        // This is a replay of the answer, to the opening end.
        assert_eq!(again.write(DATA[0]), Err(StreamError::WouldBlock));
        again.write_answer(&answer);
        assert_eq!(again.write(DATA[0]), Err(StreamError::Closed));
        assert_breaches(one, &[(Breach::Handshake, 1)]);
    });
}

#[test]
fn records_of_another_stream_are_refused() {
    with_bystander(|networks, one, two| {
        let mut first = Middle::new(networks, one, two, 2);
        first.shake_hands();
        let mut second = Middle::new(networks, one, two, 2);
        second.shake_hands();
        let (of_first, of_second) = (first.records(), second.records());
        assert_eq!(first.deliver(&of_first[0]), Some(StreamError::WouldBlock));
        assert_eq!(first.deliver(&of_second[1]), Some(StreamError::Closed));
        assert_eq!(second.deliver(&of_second.concat()), None);
        assert_eq!(second.received, DATA.concat());
        assert_breaches(two, &[(Breach::Record, 1)]);
    });
}

#[test]
fn a_reflected_stream_is_refused() {
    // The first message is reflected as the answer.
    with_bystander(|networks, one, two| {
        let middle = Middle::new(networks, one, two, 2);
        let _ = middle.write(DATA[0]);
        let hello = middle.read_sent();
        for part in [&hello[..ANSWER], &hello[HELLO - ANSWER..]] {
            let middle = Middle::new(networks, one, two, 2);
            let _ = middle.write(DATA[0]);
            middle.write_answer(part);
            assert_eq!(middle.write(DATA[0]), Err(StreamError::Closed));
        }
        assert_breaches(one, &[(Breach::Handshake, 2)]);
    });
    // The stream is reflected to its own process, with its own VMID or with that of the target.
    for claim in [1, 2] {
        let networks = Networks::new();
        let one = member(&networks.one, 1);
        let out = (&&one).connect(vmid(1)).unwrap();
        let fake = networks.one.join(vmid(2)).unwrap();
        let to_two = (&&one).connect(vmid(2)).unwrap();
        let _ = to_two.write(&[DATA[0]]);
        let mut hello = read(&fake.accept().unwrap());
        hello[8] = claim;
        drop(out);
        let host = networks.one.join(vmid(99)).unwrap();
        let _ = (&&one).accept().unwrap();
        let far = host.connect(vmid(1)).unwrap();
        far.write(&[&hello]).unwrap();
        let inward = (&&one).accept().unwrap();
        assert_eq!(inward.read(&mut [0; 9]), Err(StreamError::Closed));
        assert_breaches(&one, &[(Breach::Handshake, 1)]);
    }
}

#[test]
fn a_stream_redirected_or_with_a_false_sender_is_refused() {
    with_bystander(|networks, one, two| {
        // Member 3 does not accept a stream for member 2.
        let three = SecurePal::new(networks.two.join(vmid(4)).unwrap(), vmid(4), key(), random);
        let mut middle = Middle::new(networks, one, &three, 4);
        let _ = middle.write(DATA[0]);
        let hello = middle.read_sent();
        assert_eq!(middle.deliver(&hello), Some(StreamError::Closed));
        assert_breaches(&three, &[(Breach::Handshake, 1)]);

        // Member 2 does not accept a stream as member 3's.
        let mut middle = Middle::new(networks, one, two, 2);
        let _ = middle.write(DATA[0]);
        let mut hello = middle.read_sent();
        hello[8] = 3;
        assert_eq!(middle.deliver(&hello), Some(StreamError::Closed));
        assert_breaches(two, &[(Breach::Handshake, 1)]);
    });
}

#[test]
fn a_vmid_other_than_that_of_the_handshake_is_refused() {
    // These bytes come after the first, which is right.
    for data in [&b"\0\0\x01"[..], b"\x02", b"\0\x01 and more"] {
        with_bystander(|networks, one, two| {
            let mut middle = Middle::new(networks, one, two, 2);
            middle.shake_hands();
            assert_eq!(middle.write(&DATA[0][..1]), Ok(1));
            let good = middle.read_sent();
            assert_eq!(middle.deliver(&good), Some(StreamError::WouldBlock));
            assert_eq!(middle.write(data), Ok(data.len()));
            let bad = middle.read_sent();
            assert_eq!(middle.deliver(&bad), Some(StreamError::Closed));
            assert_eq!(middle.received, [1]);
            assert_breaches(two, &[(Breach::Vmid, 1)]);
        });
    }
}

#[test]
fn a_stream_with_another_key_or_family_is_refused() {
    let others = [
        FamilyKey::new(6, &[7; 32]),
        FamilyKey::new(5, &[8; 32]),
        FamilyKey::generate(random).unwrap(),
    ];
    for other in others {
        with_bystander(|networks, _, two| {
            let one = networks.one.join(vmid(5)).unwrap();
            let other_family = SecurePal::new(one, vmid(1), other.clone(), random);
            let mut middle = Middle::new(networks, &other_family, two, 2);
            let _ = middle.write(DATA[0]);
            let hello = middle.read_sent();
            assert_eq!(middle.deliver(&hello), Some(StreamError::Closed));
            assert_breaches(two, &[(Breach::Handshake, 1)]);
            assert!(middle.read_answer().is_empty());
        });
    }
}

#[test]
fn a_process_without_a_key_neither_connects_nor_accepts() {
    let networks = Networks::new();
    let (one, two) = (member(&networks.one, 1), member(&networks.two, 2));
    // A member of a plain family sends its VMID, which suffices to refuse it.
    let plain = networks.two.join(vmid(9)).unwrap();
    let out = plain.connect(vmid(2)).unwrap();
    out.write(&[&9_u32.to_le_bytes()]).unwrap();
    let inward = (&&two).accept().unwrap();
    assert_eq!(inward.read(&mut [0; 9]), Err(StreamError::Closed));
    assert_breaches(&two, &[(Breach::NotSecure, 1)]);
    // The stream of a process with a key has VMID 0 for a plain one.
    let plain_member = networks.one.join(vmid(2)).unwrap();
    let out = (&&one).connect(vmid(2)).unwrap();
    let _ = out.write(&[DATA[0]]);
    let inward = plain_member.accept().unwrap();
    let mut data = [1; 4];
    inward.read(&mut data).unwrap();
    assert_eq!(data, [0; 4]);
    drop(inward);
    assert_eq!(out.write(&[DATA[0]]), Err(StreamError::Closed));
    assert_breaches(&one, &[(Breach::Unfinished, 1)]);
}
