//! Attacks by the host: each time the stream ends, the reason is counted, no false byte was read,
//! and another stream of the same process continues.

use libos_ipc::pal::secure::{Breach, FamilyKey, SecurePal, SecureStream};
use libos_ipc::pal::{Pal, Stream, StreamError};

use super::{Net, Plain, Raw, assert_breaches, key, member, random, vmid};

const HELLO: usize = 60;
const ANSWER: usize = 48;
/// The data from the first process to the second, each in a record of its own.
const SAID: [&[u8]; 4] = [b"\x01\0\0\0", b"first", b"second", b"third"];

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
struct World {
    one: Box<Net>,
    two: Box<Net>,
}

impl World {
    fn new() -> World {
        World {
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
        world: &'n World,
        from: &'p Member<'n>,
        to: &'p Member<'n>,
        to_vmid: u32,
    ) -> Middle<'p, 'n> {
        let fake = world.one.join(vmid(2)).unwrap();
        let out = from.connect(vmid(2)).unwrap();
        let near = fake.accept().unwrap();
        let host = world.two.join(vmid(99)).unwrap();
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
    fn says(&self, what: &[u8]) -> Result<usize, StreamError> {
        self.out.as_ref().unwrap().write(&[what])
    }

    fn sent(&self) -> Vec<u8> {
        read(self.near.as_ref().unwrap())
    }

    fn answers(&self) -> Vec<u8> {
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

    fn give_answer(&self, answer: &[u8]) {
        let _ = self.near.as_ref().unwrap().write(&[answer]);
    }

    /// Completes the handshake without an attack.
    fn shake_hands(&mut self) {
        assert_eq!(self.says(SAID[0]), Err(StreamError::WouldBlock));
        let hello = self.sent();
        assert_eq!(hello.len(), HELLO);
        assert_eq!(self.deliver(&hello), Some(StreamError::WouldBlock));
        let answer = self.answers();
        assert_eq!(answer.len(), ANSWER);
        self.give_answer(&answer);
    }

    /// Returns all records of the first process's data, and of the end.
    fn records(&mut self) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        for said in SAID {
            assert_eq!(self.says(said), Ok(said.len()));
            records.push(self.sent());
        }
        self.out = None;
        records.push(self.sent());
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
    SAID[..count].concat()
}

/// Runs a test with two members and a stream from another member to the second, which must not be
/// disturbed.
fn with_bystander(test: impl Fn(&World, &Member<'_>, &Member<'_>)) {
    let world = World::new();
    let (one, two) = (member(&world.one, 1), member(&world.two, 2));
    let other = member(&world.two, 3);
    let out = (&&other).connect(vmid(2)).unwrap();
    let inward = (&&two).accept().unwrap();
    let mut buffer = [0; 8];
    assert_eq!(
        out.write(&[&3_u32.to_le_bytes()]),
        Err(StreamError::WouldBlock)
    );
    assert_eq!(inward.read(&mut buffer), Err(StreamError::WouldBlock));
    assert_eq!(out.write(&[&3_u32.to_le_bytes(), b"!"]), Ok(5));
    test(&world, &one, &two);
    assert_eq!(inward.read(&mut buffer), Ok(5));
    assert_eq!(out.write(&[b"more"]), Ok(4));
    assert_eq!(inward.read(&mut buffer), Ok(4));
    drop(out);
    assert_eq!(inward.read(&mut buffer), Ok(0));
}

#[test]
fn an_undisturbed_stream_carries_all_bytes() {
    with_bystander(|world, one, two| {
        let mut middle = Middle::new(world, one, two, 2);
        middle.shake_hands();
        let records = middle.records();
        assert_eq!(middle.deliver(&records.concat()), None);
        assert_eq!(middle.received, SAID.concat());
        assert_breaches(one, &[]);
        assert_breaches(two, &[]);
    });
}

/// Runs a session in which one bit of all bytes that the host sees is flipped.
fn flip(bit: usize) {
    let (at, mask) = (bit / 8, 1 << (bit % 8));
    with_bystander(|world, one, two| {
        let mut middle = Middle::new(world, one, two, 2);
        let _ = middle.says(SAID[0]);
        let mut hello = middle.sent();
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
            assert_eq!(middle.says(SAID[0]), Err(StreamError::Closed));
            assert_breaches(one, &[(Breach::Unfinished, 1)]);
            return;
        }
        middle.deliver(&hello);
        let mut answer = middle.answers();
        if at < HELLO + ANSWER {
            answer[at - HELLO] ^= mask;
            middle.give_answer(&answer);
            assert_eq!(middle.says(SAID[0]), Err(StreamError::Closed));
            assert_breaches(one, &[(Breach::Handshake, 1)]);
            middle.out = None;
            assert!(middle.sent().is_empty(), "nothing was sent");
            assert_eq!(middle.cut(), Some(StreamError::Closed));
            assert_breaches(two, &[(Breach::Truncated, 1)]);
            return;
        }
        middle.give_answer(&answer);
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
    let records: usize = SAID.iter().map(|said| said.len() + 18).sum();
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
        with_bystander(|world, one, two| {
            let mut middle = Middle::new(world, one, two, 2);
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
    with_bystander(|world, one, two| {
        let mut middle = Middle::new(world, one, two, 2);
        middle.shake_hands();
        let records = middle.records();
        assert_eq!(middle.deliver(&records.concat()), None);
        assert_eq!(middle.deliver(&records.concat()), None);
        assert_eq!(middle.received, SAID.concat());
    });
}

#[test]
fn a_replayed_stream_is_refused() {
    with_bystander(|world, one, two| {
        let mut first = Middle::new(world, one, two, 2);
        let _ = first.says(SAID[0]);
        let hello = first.sent();
        first.deliver(&hello);
        let answer = first.answers();
        first.give_answer(&answer);
        let records = first.records();
        assert_eq!(first.deliver(&records.concat()), None);

        // This is a replay to the accepting end.
        let mut again = Middle::new(world, one, two, 2);
        assert_eq!(again.deliver(&hello), Some(StreamError::Closed));
        assert!(again.answers().is_empty());
        assert!(again.received.is_empty());
        assert_breaches(two, &[(Breach::Handshake, 1)]);

        // This is a replay of the answer, to the opening end.
        assert_eq!(again.says(SAID[0]), Err(StreamError::WouldBlock));
        again.give_answer(&answer);
        assert_eq!(again.says(SAID[0]), Err(StreamError::Closed));
        assert_breaches(one, &[(Breach::Handshake, 1)]);
    });
}

#[test]
fn records_of_another_stream_are_refused() {
    with_bystander(|world, one, two| {
        let mut first = Middle::new(world, one, two, 2);
        first.shake_hands();
        let mut second = Middle::new(world, one, two, 2);
        second.shake_hands();
        let (of_first, of_second) = (first.records(), second.records());
        assert_eq!(first.deliver(&of_first[0]), Some(StreamError::WouldBlock));
        assert_eq!(first.deliver(&of_second[1]), Some(StreamError::Closed));
        assert_eq!(second.deliver(&of_second.concat()), None);
        assert_eq!(second.received, SAID.concat());
        assert_breaches(two, &[(Breach::Record, 1)]);
    });
}

#[test]
fn a_reflected_stream_is_refused() {
    // The first message is reflected as the answer.
    with_bystander(|world, one, two| {
        let middle = Middle::new(world, one, two, 2);
        let _ = middle.says(SAID[0]);
        let hello = middle.sent();
        for part in [&hello[..ANSWER], &hello[HELLO - ANSWER..]] {
            let middle = Middle::new(world, one, two, 2);
            let _ = middle.says(SAID[0]);
            middle.give_answer(part);
            assert_eq!(middle.says(SAID[0]), Err(StreamError::Closed));
        }
        assert_breaches(one, &[(Breach::Handshake, 2)]);
    });
    // The stream is reflected to its own process, with its own VMID or with that of the target.
    for claim in [1, 2] {
        let world = World::new();
        let one = member(&world.one, 1);
        let out = (&&one).connect(vmid(1)).unwrap();
        let fake = world.one.join(vmid(2)).unwrap();
        let to_two = (&&one).connect(vmid(2)).unwrap();
        let _ = to_two.write(&[SAID[0]]);
        let mut hello = read(&fake.accept().unwrap());
        hello[8] = claim;
        drop(out);
        let host = world.one.join(vmid(99)).unwrap();
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
    with_bystander(|world, one, two| {
        // Member 3 does not accept a stream for member 2.
        let three = SecurePal::new(world.two.join(vmid(4)).unwrap(), vmid(4), key(), random);
        let mut middle = Middle::new(world, one, &three, 4);
        let _ = middle.says(SAID[0]);
        let hello = middle.sent();
        assert_eq!(middle.deliver(&hello), Some(StreamError::Closed));
        assert_breaches(&three, &[(Breach::Handshake, 1)]);

        // Member 2 does not accept a stream as member 3's.
        let mut middle = Middle::new(world, one, two, 2);
        let _ = middle.says(SAID[0]);
        let mut hello = middle.sent();
        hello[8] = 3;
        assert_eq!(middle.deliver(&hello), Some(StreamError::Closed));
        assert_breaches(two, &[(Breach::Handshake, 1)]);
    });
}

#[test]
fn a_vmid_other_than_that_of_the_handshake_is_refused() {
    // These bytes come after the first, which is right.
    for said in [&b"\0\0\x01"[..], b"\x02", b"\0\x01 and more"] {
        with_bystander(|world, one, two| {
            let mut middle = Middle::new(world, one, two, 2);
            middle.shake_hands();
            assert_eq!(middle.says(&SAID[0][..1]), Ok(1));
            let good = middle.sent();
            assert_eq!(middle.deliver(&good), Some(StreamError::WouldBlock));
            assert_eq!(middle.says(said), Ok(said.len()));
            let bad = middle.sent();
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
        with_bystander(|world, _, two| {
            let one = world.one.join(vmid(5)).unwrap();
            let other_family = SecurePal::new(one, vmid(1), other.clone(), random);
            let mut middle = Middle::new(world, &other_family, two, 2);
            let _ = middle.says(SAID[0]);
            let hello = middle.sent();
            assert_eq!(middle.deliver(&hello), Some(StreamError::Closed));
            assert_breaches(two, &[(Breach::Handshake, 1)]);
            assert!(middle.answers().is_empty());
        });
    }
}

#[test]
fn a_process_without_a_key_neither_connects_nor_accepts() {
    let world = World::new();
    let (one, two) = (member(&world.one, 1), member(&world.two, 2));
    // A member of a plain family sends its VMID, which suffices to refuse it.
    let plain = world.two.join(vmid(9)).unwrap();
    let out = plain.connect(vmid(2)).unwrap();
    out.write(&[&9_u32.to_le_bytes()]).unwrap();
    let inward = (&&two).accept().unwrap();
    assert_eq!(inward.read(&mut [0; 9]), Err(StreamError::Closed));
    assert_breaches(&two, &[(Breach::NotSecure, 1)]);
    // The stream of a process with a key has VMID 0 for a plain one.
    let plain_member = world.one.join(vmid(2)).unwrap();
    let out = (&&one).connect(vmid(2)).unwrap();
    let _ = out.write(&[SAID[0]]);
    let inward = plain_member.accept().unwrap();
    let mut said = [1; 4];
    inward.read(&mut said).unwrap();
    assert_eq!(said, [0; 4]);
    drop(inward);
    assert_eq!(out.write(&[SAID[0]]), Err(StreamError::Closed));
    assert_breaches(&one, &[(Breach::Unfinished, 1)]);
}
