//! Slices, several handles of one process, calls that do not wait, and waits for a condition. The
//! expected results follow from the calls of the test, or from `sem_open(3)`.

use std::thread;
use std::time::Duration;

use libos_ipc::host::HostNode;
use libos_ipc::{Error, Interrupt, Invalid, Wait};

use crate::host_family::Family;

const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(10));

/// A record of a size that is no power of two.
type Record = [u8; 7];

fn record(key: u8) -> Record {
    [key, 1, 2, 3, 4, 5, key]
}

#[test]
fn slice_of_records_has_the_length_that_was_last_set() {
    let family = Family::new();
    let (one, two) = (family.member(), family.member());
    let mine = one.share_slice::<Record>(None).unwrap();
    let theirs = two.share_slice::<Record>(Some(mine.id())).unwrap();
    let most = mine.most_items();
    assert_eq!(most, 1024 / 7);
    let (mut buffer, mut other) = (vec![record(9); most + 5], vec![record(9); most]);
    assert!(theirs.read_to(&mut [], WAIT).unwrap().is_empty());
    for length in [1, most, 0, 3, 2] {
        let mut writer = mine.write_to(&mut buffer, WAIT).unwrap();
        writer.resize(length).unwrap();
        for (key, item) in (1..).zip(writer.iter_mut()) {
            *item = record(key);
        }
        drop(writer);
        let reader = theirs.read_to(&mut other, WAIT).unwrap();
        let expected: Vec<_> = (1..).take(length).map(record).collect();
        assert_eq!(&*reader, &expected[..]);
        assert!(reader.status().changed);
    }
}

#[test]
fn slice_grows_with_zeros_and_not_beyond_its_buffer_or_the_limit() {
    let family = Family::new();
    let node = &family.leader;
    let slice = node.share_slice::<u16>(None).unwrap();
    let mut buffer = [7; 1000];
    let mut writer = slice.write_to(&mut buffer[..4], WAIT).unwrap();
    writer.set(&[1, 2]).unwrap();
    writer.resize(4).unwrap();
    assert_eq!(*writer, [1, 2, 0, 0]);
    assert_eq!(writer.resize(5), Err(Error::Invalid(Invalid::BufferLength)));
    assert_eq!(
        writer.set(&[0; 5]),
        Err(Error::Invalid(Invalid::BufferLength))
    );
    assert_eq!(*writer, [1, 2, 0, 0]);
    drop(writer);
    let mut writer = slice.write_to(&mut buffer, WAIT).unwrap();
    assert_eq!(
        writer.resize(513),
        Err(Error::Invalid(Invalid::BufferLength))
    );
    assert_eq!(*writer, [1, 2, 0, 0]);
    drop(writer);
    let short = slice.read_to(&mut buffer[..3], WAIT);
    assert_eq!(short.err(), Some(Error::Invalid(Invalid::BufferLength)));
    // The failed call holds nothing.
    drop(slice.write_to(&mut buffer, WAIT).unwrap());
    assert_eq!(
        node.share_slice::<()>(None).err(),
        Some(Error::Invalid(Invalid::ValueLength))
    );
    assert_eq!(
        node.share_slice::<[u8; 1025]>(None).err(),
        Some(Error::Invalid(Invalid::ValueLength))
    );
}

#[test]
fn slice_with_part_of_an_item_is_refused() {
    let family = Family::new();
    let bytes = family.leader.share_slice::<u8>(None).unwrap();
    let items = family.leader.share_slice::<u16>(Some(bytes.id())).unwrap();
    let (mut buffer, mut other) = ([0; 8], [0; 8]);
    bytes
        .write_to(&mut buffer, WAIT)
        .unwrap()
        .set(&[1, 2, 3])
        .unwrap();
    let refused = items.write_to(&mut other, WAIT);
    assert_eq!(refused.err(), Some(Error::Invalid(Invalid::BufferLength)));
    bytes
        .write_to(&mut buffer, WAIT)
        .unwrap()
        .set(&[1, 2])
        .unwrap();
    let expected = [u16::from_ne_bytes([1, 2])];
    assert_eq!(*items.read_to(&mut other, WAIT).unwrap(), expected);
}

/// Like `sem_close(3)`: the last close of a process counts.
#[test]
fn value_that_a_process_opens_twice_stays_until_both_are_dropped() {
    let family = Family::new();
    let node = family.member();
    let first = node.share::<u64>(None).unwrap();
    let second = node.share::<u64>(Some(first.id())).unwrap();
    *first.write(WAIT).unwrap() = 5;
    assert_eq!(*second.read(WAIT).unwrap(), 5);
    let held = second.read(WAIT).unwrap();
    drop(first);
    assert_eq!(node.statistics().pools.sync_handles.now, 1);
    drop(held);
    *second.write(WAIT).unwrap() += 1;
    let third = node.share::<u64>(Some(second.id())).unwrap();
    drop(second);
    assert_eq!(*third.read(WAIT).unwrap(), 6);
    let id = third.id();
    drop(third);
    // The handle is opened before the leader has confirmed the close, and closed again, and so on.
    for _ in 0..20 {
        let value = node.share::<u64>(Some(id)).unwrap();
        drop(node.share::<u64>(Some(id)).unwrap());
        drop(value);
        let value = node.share::<u64>(Some(id)).unwrap();
        *value.write_when(WAIT, |value| *value == 0).unwrap() += 1;
    }
    // The raw call refuses what is open.
    let handle = loop {
        match node.open_sync(Some(id)) {
            Ok(handle) => break handle,
            Err(Error::Invalid(_)) => thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(
        node.open_sync(Some(id)),
        Err(Error::Invalid(Invalid::HandleOpen))
    );
    let typed = node.share::<u64>(Some(id)).unwrap();
    assert_eq!(*typed.read(WAIT).unwrap(), 0, "no process had it open");
    node.close_sync(handle, WAIT).unwrap();
    assert_eq!(*typed.read(WAIT).unwrap(), 0);
    drop(typed);
    assert_eq!(
        node.close_sync(handle, WAIT),
        Err(Error::Invalid(Invalid::HandleClosed))
    );
}

#[test]
fn closing_all_handles_closes_one_that_is_open_twice() {
    let family = Family::new();
    let node = family.member();
    let first = node.share::<u64>(None).unwrap();
    let second = node.share::<u64>(Some(first.id())).unwrap();
    let held = first.read(WAIT).unwrap();
    assert_eq!(
        node.close_all_syncs(WAIT),
        Err(Error::Invalid(Invalid::HandleInUse)),
        "in use"
    );
    drop(held);
    assert_eq!(*second.read(WAIT).unwrap(), 0);
    node.close_all_syncs(WAIT).unwrap();
    assert_eq!(
        second.read(WAIT).err(),
        Some(Error::Invalid(Invalid::HandleClosed))
    );
    assert_eq!(node.statistics().pools.sync_handles.now, 0);
}

#[test]
fn try_succeeds_where_nothing_is_in_the_way_and_waits_for_nothing() {
    let family = Family::new();
    let (one, two) = (family.member(), family.member());
    let mine = one.share::<u64>(None).unwrap();
    let theirs = two.share::<u64>(Some(mine.id())).unwrap();
    *mine.write(WAIT).unwrap() = 1;
    let reader = mine.try_read().unwrap().expect("the lease is here");
    assert!(mine.try_read().unwrap().is_some());
    assert!(mine.try_write().unwrap().is_none());
    assert!(theirs.try_write().unwrap().is_none());
    drop(reader);
    // The failed call has requested the lease.
    let mut writer = loop {
        match theirs.try_write().unwrap() {
            Some(writer) => break writer,
            None => thread::yield_now(),
        }
    };
    *writer += 1;
    assert!(theirs.try_read().unwrap().is_none());
    assert!(mine.try_read().unwrap().is_none());
    drop(writer);
    assert_eq!(*mine.read(WAIT).unwrap(), 2);
    let slice = one.share_slice::<u8>(None).unwrap();
    drop(slice.write_to(&mut [0; 4], WAIT).unwrap());
    assert!(slice.try_write_to(&mut [0; 4]).unwrap().is_some());
    assert!(slice.try_read_to(&mut [0; 4]).unwrap().is_some());
}

#[test]
fn write_when_returns_once_the_value_is_accepted() {
    let family = Family::new();
    let (one, two) = (family.member(), family.member());
    let mine = one.share::<u64>(None).unwrap();
    let theirs = two.share::<u64>(Some(mine.id())).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0..100 {
                *theirs
                    .write_when(WAIT, |value| *value == 2 * turn + 1)
                    .unwrap() += 1;
            }
        });
        for turn in 0..100 {
            *mine.write_when(WAIT, |value| *value == 2 * turn).unwrap() += 1;
        }
    });
    assert_eq!(*mine.wait_for(WAIT, |value| *value == 200).unwrap(), 200);
}

#[test]
fn write_when_ends_on_its_limit_and_its_interrupt_and_holds_nothing() {
    let family = Family::new();
    let (one, two) = (family.member(), family.member());
    let mine = one.share::<u64>(None).unwrap();
    let theirs = two.share::<u64>(Some(mine.id())).unwrap();
    let short = Wait::at_most(Duration::from_millis(20));
    assert_eq!(
        mine.write_when(short, |_| false).err(),
        Some(Error::TimedOut)
    );
    let interrupt = Interrupt::new();
    interrupt.raise(&one);
    let interrupted = mine.write_when(WAIT.or_until(&interrupt), |_| false);
    assert_eq!(interrupted.err(), Some(Error::Interrupted));
    *theirs.write(WAIT).unwrap() = 1;
    // The change that a failed call has seen is reported to the next one.
    assert_eq!(
        mine.write_when(short, |_| false).err(),
        Some(Error::TimedOut)
    );
    assert!(mine.write(WAIT).unwrap().status().changed);
}

/// Waiting processes read the value again only after a change.
#[test]
fn processes_that_wait_for_the_same_value_send_nothing_while_it_does_not_change() {
    let family = Family::new();
    let nodes = [family.member(), family.member(), family.member()];
    let id = family.leader.share::<u64>(None).unwrap().id();
    let frames =
        |nodes: &[HostNode]| -> u64 { nodes.iter().map(|node| node.statistics().frames_out).sum() };
    thread::scope(|scope| {
        for node in &nodes {
            scope.spawn(move || {
                let value = node.share::<u64>(Some(id)).unwrap();
                *value.write_when(WAIT, |value| *value > 0).unwrap() -= 1;
            });
        }
        while nodes.iter().any(|node| node.pending_calls().count() == 0) {
            thread::yield_now();
        }
        // Each makes at most two attempts without having read the value, and each of these wakes
        // the others once. So they settle, however late one of them runs: then a while passes without a frame.
        let is_quiet = (0..20).any(|_| {
            let before = frames(&nodes);
            thread::sleep(Duration::from_millis(100));
            frames(&nodes) == before
        });
        assert!(is_quiet, "they wake each other for ever");
        let value = family.leader.share::<u64>(Some(id)).unwrap();
        *value.write(WAIT).unwrap() += 3;
        drop(value.wait_for(WAIT, |value| *value == 0).unwrap());
    });
}
