//! Semaphores, queues, condition variables and barriers between members over real sockets. The
//! expected results are those of POSIX and of `std::sync`.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use libos_ipc::host::HostNode;
use libos_ipc::wire::SyncState;
use libos_ipc::{Errno, Error, Invalid, Wait};

use crate::host_family::Family;

const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(30));
const SHORT: Wait<'static> = Wait::at_most(Duration::from_millis(20));
const NOW: Wait<'static> = Wait::at_most(Duration::ZERO);
const ROUNDS: u32 = 60;

/// Makes a family with members.
fn members(count: usize) -> (Family, Vec<HostNode>) {
    let family = Family::new();
    let nodes = (0..count).map(|_| family.member()).collect();
    (family, nodes)
}

/// Has a member hold the value of that handle to change it, and lets it die without a further message.
fn die_holding(family: &Family, id: u64) {
    let dying = family.member();
    let handle = dying.open_sync(Some(id)).unwrap();
    dying
        .lock_sync(handle, SyncState::Exclusive, &mut [], WAIT)
        .unwrap();
    drop(dying);
}

mod semaphore {
    use super::*;

    #[test]
    fn no_more_threads_than_permits_are_inside_at_a_time() {
        let (_family, nodes) = members(3);
        let id = nodes[0].open_semaphore(None, 2).unwrap().id();
        let inside = AtomicU32::new(0);
        thread::scope(|scope| {
            for node in nodes.iter().flat_map(|node| [node, node]) {
                let inside = &inside;
                scope.spawn(move || {
                    let semaphore = node.open_semaphore(Some(id), 2).unwrap();
                    for _ in 0..ROUNDS {
                        semaphore.acquire(WAIT).unwrap();
                        assert!(inside.fetch_add(1, Ordering::SeqCst) < 2);
                        thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        semaphore.release(WAIT).unwrap();
                    }
                });
            }
        });
        let semaphore = nodes[0].open_semaphore(Some(id), 0);
        drop(semaphore);
    }

    #[test]
    fn each_release_wakes_the_other_process() {
        let (_family, nodes) = members(2);
        let ids = [None, None].map(|id| nodes[0].open_semaphore(id, 0).unwrap().id());
        thread::scope(|scope| {
            scope.spawn(|| {
                let [mine, theirs] = ids.map(|id| nodes[1].open_semaphore(Some(id), 0).unwrap());
                for _ in 0..ROUNDS {
                    theirs.acquire(WAIT).unwrap();
                    mine.release(WAIT).unwrap();
                }
            });
            let [mine, theirs] = ids.map(|id| nodes[0].open_semaphore(Some(id), 0).unwrap());
            for _ in 0..ROUNDS {
                theirs.release(WAIT).unwrap();
                mine.acquire(WAIT).unwrap();
            }
            assert_eq!(mine.permits(WAIT), Ok(0));
        });
    }

    /// A release that wakes another process, and the acquisition there, are one hand-over each: a
    /// request, a revocation, and their confirmations. A waiter that read before it asked for the
    /// right to change the state would need half as many again.
    #[test]
    fn ping_pong_sends_the_messages_of_four_hand_overs() {
        let (family, nodes) = members(2);
        let ids = [None, None].map(|id| nodes[0].open_semaphore(id, 0).unwrap().id());
        let _kept = ids.map(|id| family.leader.open_semaphore(Some(id), 0).unwrap());
        let frames = || -> u64 {
            let all = [&family.leader, &nodes[0], &nodes[1]];
            all.iter().map(|node| node.statistics().frames_out).sum()
        };
        let before = frames();
        thread::scope(|scope| {
            scope.spawn(|| {
                let [mine, theirs] = ids.map(|id| nodes[1].open_semaphore(Some(id), 0).unwrap());
                for _ in 0..500 {
                    theirs.acquire(WAIT).unwrap();
                    mine.release(WAIT).unwrap();
                }
            });
            let [mine, theirs] = ids.map(|id| nodes[0].open_semaphore(Some(id), 0).unwrap());
            for _ in 0..500 {
                theirs.release(WAIT).unwrap();
                mine.acquire(WAIT).unwrap();
            }
        });
        let sent = frames() - before;
        // A wake-up that comes late costs some more.
        assert!(sent < 500 * 20, "{sent} frames in 500 turns");
    }

    #[test]
    fn first_use_sets_the_number_of_permits() {
        let (_family, nodes) = members(2);
        let mine = nodes[0].open_semaphore(None, 3).unwrap();
        let theirs = nodes[1].open_semaphore(Some(mine.id()), 8).unwrap();
        assert_eq!((mine.permits(WAIT), theirs.permits(WAIT)), (Ok(3), Ok(8)));
        for left in [2, 1, 0] {
            assert_eq!(mine.try_acquire(WAIT), Ok(true));
            assert_eq!(theirs.permits(WAIT), Ok(left));
        }
        assert_eq!(theirs.try_acquire(WAIT), Ok(false));
        assert_eq!(theirs.acquire(SHORT), Err(Error::TimedOut));
        assert_eq!(theirs.acquire(NOW), Err(Error::TimedOut));
        theirs.release(WAIT).unwrap();
        assert_eq!(mine.acquire(WAIT), Ok(()));
    }

    #[test]
    fn release_beyond_the_largest_number_is_eoverflow_as_sem_post() {
        let (_family, nodes) = members(1);
        let semaphore = nodes[0].open_semaphore(None, u32::MAX).unwrap();
        let refused = Err(Error::Invalid(Invalid::Permits));
        assert_eq!(Error::Invalid(Invalid::Permits).errno(), Errno::EOVERFLOW);
        assert_eq!(semaphore.release(WAIT), refused);
        semaphore.acquire(WAIT).unwrap();
        semaphore.release(WAIT).unwrap();
        assert_eq!(semaphore.release(WAIT), refused);
    }

    /// All processes wait when the permits come, so no wake-up may be lost.
    #[test]
    fn as_many_waiters_as_permits_go_on() {
        let (family, nodes) = members(4);
        let permits = family.leader.open_semaphore(None, 0).unwrap();
        let gone_on = AtomicU32::new(0);
        thread::scope(|scope| {
            for node in nodes.iter().flat_map(|node| [node, node]) {
                let (gone_on, id) = (&gone_on, permits.id());
                scope.spawn(move || {
                    let semaphore = node.open_semaphore(Some(id), 0).unwrap();
                    semaphore.acquire(WAIT).unwrap();
                    gone_on.fetch_add(1, Ordering::SeqCst);
                });
            }
            for released in 1..=8 {
                permits.release(WAIT).unwrap();
                while gone_on.load(Ordering::SeqCst) < released {
                    thread::yield_now();
                }
            }
        });
        assert_eq!(permits.permits(WAIT), Ok(0));
    }

    #[test]
    fn death_of_a_process_in_a_call_changes_nothing() {
        let (family, nodes) = members(1);
        let semaphore = nodes[0].open_semaphore(None, 1).unwrap();
        semaphore.acquire(WAIT).unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| semaphore.acquire(WAIT));
            die_holding(&family, semaphore.id());
            assert!(!waiting.is_finished());
            semaphore.release(WAIT).unwrap();
            assert_eq!(waiting.join().unwrap(), Ok(()));
        });
        die_holding(&family, semaphore.id());
        assert_eq!(semaphore.try_acquire(WAIT), Ok(false));
        assert_eq!(semaphore.permits(WAIT), Ok(0));
    }
}

/// Like `EOWNERDEAD` of a robust mutex, the death is known to the next that has the state.
#[test]
fn change_that_no_other_process_has_seen_is_undone_by_a_death_and_reported() {
    let (family, nodes) = members(1);
    let semaphore = nodes[0].open_semaphore(None, 2).unwrap();
    let queue = nodes[0].open_queue::<u8>(None, 2).unwrap();
    semaphore.acquire(WAIT).unwrap();
    queue.push(&1, WAIT).unwrap();
    let dying = family.member();
    let theirs = dying.open_semaphore(Some(semaphore.id()), 2).unwrap();
    let their_queue = dying.open_queue::<u8>(Some(queue.id()), 2).unwrap();
    theirs.acquire(WAIT).unwrap();
    assert_eq!(theirs.permits(WAIT), Ok(0));
    assert_eq!(their_queue.pop(WAIT), Ok(1));
    // A process gives back at its end what no thread of it holds.
    let mut buffer = [0; 64];
    for id in [theirs.id(), their_queue.id()] {
        let value = dying.share_slice::<u8>(Some(id)).unwrap();
        std::mem::forget(value.write_to(&mut buffer, WAIT).unwrap());
        std::mem::forget(value);
    }
    std::mem::forget((theirs, their_queue));
    assert_eq!(semaphore.owner_deaths(), Ok(0));
    drop(dying);
    assert_eq!(semaphore.try_acquire(WAIT), Ok(true));
    assert_eq!(queue.pop(WAIT), Ok(1));
    assert_eq!(
        (semaphore.owner_deaths(), queue.owner_deaths()),
        (Ok(1), Ok(1))
    );
    assert_eq!(semaphore.permits(WAIT), Ok(0));
}

mod queue {
    use super::*;

    #[test]
    fn every_item_is_popped_once_and_those_of_one_producer_in_order() {
        let (_family, nodes) = members(4);
        let id = nodes[0].open_queue::<[u32; 3]>(None, 5).unwrap().id();
        let mut popped: Vec<Vec<[u32; 3]>> = Vec::new();
        thread::scope(|scope| {
            for (name, node) in (0..).zip(&nodes[..2]) {
                scope.spawn(move || {
                    let queue = node.open_queue::<[u32; 3]>(Some(id), 5).unwrap();
                    for count in 0..ROUNDS {
                        queue.push(&[name, count, !count], WAIT).unwrap();
                    }
                });
            }
            let consumers: Vec<_> = nodes[2..]
                .iter()
                .map(|node| {
                    scope.spawn(move || {
                        let queue = node.open_queue::<[u32; 3]>(Some(id), 5).unwrap();
                        (0..ROUNDS).map(|_| queue.pop(WAIT).unwrap()).collect()
                    })
                })
                .collect();
            popped = consumers
                .into_iter()
                .map(|consumer| consumer.join().unwrap())
                .collect();
        });
        for items in &popped {
            for name in 0..2 {
                let of = |item: &&[u32; 3]| item[0] == name;
                assert!(items.iter().filter(of).is_sorted_by_key(|item| item[1]));
            }
        }
        let mut all: Vec<_> = popped.concat();
        all.sort_unstable();
        let expected = (0..2).flat_map(|name| (0..ROUNDS).map(move |count| [name, count, !count]));
        assert_eq!(all, expected.collect::<Vec<_>>());
    }

    #[test]
    fn queue_is_first_in_first_out_and_bounded() {
        let (_family, nodes) = members(2);
        let mine = nodes[0].open_queue::<u16>(None, 3).unwrap();
        let theirs = nodes[1].open_queue::<u16>(Some(mine.id()), 3).unwrap();
        let mut model = std::collections::VecDeque::new();
        let mut random = fastrand::Rng::with_seed(7);
        for count in 0..200 {
            let queue = if random.bool() { &mine } else { &theirs };
            if random.bool() {
                let has_room = model.len() < 3;
                assert_eq!(queue.try_push(&count, WAIT), Ok(has_room));
                if has_room {
                    model.push_back(count);
                } else {
                    assert_eq!(queue.push(&count, NOW), Err(Error::TimedOut));
                }
            } else {
                assert_eq!(queue.try_pop(WAIT), Ok(model.pop_front()));
            }
        }
        while let Some(item) = model.pop_front() {
            assert_eq!(mine.pop(WAIT), Ok(item));
        }
        assert_eq!(theirs.pop(SHORT), Err(Error::TimedOut));
        assert_eq!(mine.capacity(), 3);
    }

    #[test]
    fn queue_of_another_shape_is_refused() {
        let (_family, nodes) = members(1);
        let node = &nodes[0];
        let queue = node.open_queue::<u32>(None, 4).unwrap();
        queue.push(&1, WAIT).unwrap();
        let shorter = node.open_queue::<u32>(Some(queue.id()), 3).unwrap();
        assert_eq!(
            shorter.push(&1, WAIT),
            Err(Error::Invalid(Invalid::QueueShape))
        );
        assert_eq!(
            shorter.try_pop(WAIT),
            Err(Error::Invalid(Invalid::QueueShape))
        );
        let wider = node.open_queue::<u64>(Some(queue.id()), 4).unwrap();
        assert_eq!(wider.pop(WAIT), Err(Error::Invalid(Invalid::QueueShape)));
        assert_eq!(queue.pop(WAIT), Ok(1));
        assert_eq!(
            node.open_queue::<u8>(None, 0).err(),
            Some(Error::Invalid(Invalid::QueueShape))
        );
        assert!(node.open_queue::<u8>(None, 1024 - 16).is_ok());
        assert_eq!(
            node.open_queue::<u8>(None, 1024 - 15).err(),
            Some(Error::Invalid(Invalid::QueueShape))
        );
        assert_eq!(
            node.open_queue::<u64>(None, u32::MAX).err(),
            Some(Error::Invalid(Invalid::QueueShape))
        );
    }

    /// Values of other processes are not trusted: a ring that points out of its value is refused.
    #[test]
    fn value_that_is_no_queue_is_refused() {
        let (_family, nodes) = members(1);
        let queue = nodes[0].open_queue::<u32>(None, 2).unwrap();
        let raw = nodes[0].share_slice::<u32>(Some(queue.id())).unwrap();
        let mut buffer = [0; 8];
        for ring in [
            [2, 4, 2, 0, 0, 0],
            [2, 4, 0, 3, 0, 0],
            [2, 4, u32::MAX, u32::MAX, 0, 0],
        ] {
            raw.write_to(&mut buffer, WAIT).unwrap().set(&ring).unwrap();
            assert_eq!(
                queue.try_pop(WAIT),
                Err(Error::Invalid(Invalid::QueueShape)),
                "{ring:?}"
            );
            assert_eq!(
                queue.push(&1, WAIT),
                Err(Error::Invalid(Invalid::QueueShape)),
                "{ring:?}"
            );
        }
        let sound = [2, 4, 1, 2, 7, 8];
        raw.write_to(&mut buffer, WAIT)
            .unwrap()
            .set(&sound)
            .unwrap();
        assert_eq!(queue.try_push(&1, WAIT), Ok(false));
        assert_eq!((queue.pop(WAIT), queue.pop(WAIT)), (Ok(8), Ok(7)));
    }

    #[test]
    fn death_of_a_process_in_a_call_keeps_the_items() {
        let (family, nodes) = members(1);
        let queue = nodes[0].open_queue::<u8>(None, 2).unwrap();
        queue.push(&1, WAIT).unwrap();
        die_holding(&family, queue.id());
        queue.push(&2, WAIT).unwrap();
        assert_eq!((queue.pop(WAIT), queue.pop(WAIT)), (Ok(1), Ok(2)));
        thread::scope(|scope| {
            let waiting = scope.spawn(|| queue.pop(WAIT));
            die_holding(&family, queue.id());
            assert!(!waiting.is_finished());
            queue.push(&3, WAIT).unwrap();
            assert_eq!(waiting.join().unwrap(), Ok(3));
        });
    }
}

mod condvar {
    use super::*;

    #[test]
    fn notification_between_the_beginning_of_a_wait_and_its_sleep_is_not_lost() {
        let (_family, nodes) = members(2);
        let ids = (
            nodes[0].share::<u32>(None).unwrap().id(),
            nodes[0].open_condvar(None).unwrap().id(),
        );
        thread::scope(|scope| {
            for (parity, node) in (0..).zip(&nodes) {
                scope.spawn(move || {
                    let value = node.share::<u32>(Some(ids.0)).unwrap();
                    let condvar = node.open_condvar(Some(ids.1)).unwrap();
                    for _ in 0..ROUNDS {
                        let guard = value.write(WAIT).unwrap();
                        let is_other = |value: &mut u32| *value % 2 != parity;
                        let mut guard = condvar.wait_while(guard, WAIT, is_other).unwrap();
                        *guard += 1;
                        drop(guard);
                        condvar.notify_all(WAIT).unwrap();
                    }
                });
            }
        });
        let value = nodes[0].share::<u32>(Some(ids.0)).unwrap();
        drop(value);
    }

    /// A notification that wakes another process: the number of notifications goes there and back, and the value goes
    /// there.
    #[test]
    fn ping_pong_sends_the_messages_of_six_hand_overs() {
        let (family, nodes) = members(2);
        let value = family.leader.share::<u32>(None).unwrap();
        let condvar = family.leader.open_condvar(None).unwrap();
        let ids = (value.id(), condvar.id());
        let frames = || -> u64 {
            let all = [&family.leader, &nodes[0], &nodes[1]];
            all.iter().map(|node| node.statistics().frames_out).sum()
        };
        let before = frames();
        thread::scope(|scope| {
            for (parity, node) in (0..).zip(&nodes) {
                scope.spawn(move || {
                    let value = node.share::<u32>(Some(ids.0)).unwrap();
                    let condvar = node.open_condvar(Some(ids.1)).unwrap();
                    let mut guard = value.write(WAIT).unwrap();
                    for _ in 0..500 {
                        let is_other = |value: &mut u32| *value % 2 != parity;
                        guard = condvar.wait_while(guard, WAIT, is_other).unwrap();
                        *guard += 1;
                        condvar.notify_all(WAIT).unwrap();
                    }
                });
            }
        });
        let sent = frames() - before;
        // A wake-up that comes late costs some more.
        assert!(sent < 500 * 28, "{sent} frames in 500 round trips");
    }

    #[test]
    fn change_of_the_value_alone_does_not_end_the_wait() {
        let (_family, nodes) = members(2);
        let value = nodes[0].share::<u32>(None).unwrap();
        let condvar = nodes[0].open_condvar(None).unwrap();
        let theirs = nodes[1].share::<u32>(Some(value.id())).unwrap();
        let notifier = nodes[1].open_condvar(Some(condvar.id())).unwrap();
        thread::scope(|scope| {
            let guard = value.write(WAIT).unwrap();
            let waiting = scope.spawn(|| condvar.wait(guard, WAIT).map(|guard| *guard));
            for _ in 0..10 {
                *theirs.write(WAIT).unwrap() += 1;
            }
            assert!(!waiting.is_finished());
            notifier.notify_all(WAIT).unwrap();
            assert_eq!(waiting.join().unwrap(), Ok(10));
        });
    }

    #[test]
    fn one_notification_wakes_the_waiters_of_all_processes() {
        let (family, nodes) = members(3);
        let value = family.leader.share::<u32>(None).unwrap();
        let condvar = family.leader.open_condvar(None).unwrap();
        let ids = (value.id(), condvar.id());
        thread::scope(|scope| {
            for node in nodes.iter().flat_map(|node| [node, node]) {
                scope.spawn(move || {
                    let value = node.share::<u32>(Some(ids.0)).unwrap();
                    let condvar = node.open_condvar(Some(ids.1)).unwrap();
                    let mut guard = value.write(WAIT).unwrap();
                    *guard += 1;
                    drop(condvar.wait(guard, WAIT).unwrap());
                });
            }
            // All have given the value back after they had read the number of notifications.
            let guard = value.write_when(WAIT, |value| *value == 6).unwrap();
            condvar.notify_all(WAIT).unwrap();
            drop(guard);
        });
    }

    #[test]
    fn wait_that_ends_on_its_limit_has_given_the_value_back() {
        let (_family, nodes) = members(2);
        let value = nodes[0].share::<u32>(None).unwrap();
        let condvar = nodes[0].open_condvar(None).unwrap();
        let mut guard = value.write(WAIT).unwrap();
        *guard = 4;
        assert_eq!(condvar.wait(guard, SHORT).err(), Some(Error::TimedOut));
        let theirs = nodes[1].share::<u32>(Some(value.id())).unwrap();
        assert_eq!(*theirs.write(WAIT).unwrap(), 4);
    }
}

mod barrier {
    use super::*;

    #[test]
    fn no_party_passes_before_all_have_arrived_and_one_is_the_last() {
        let (_family, nodes) = members(3);
        let id = nodes[0].open_barrier(None, 6).unwrap().id();
        let (arrived, last) = (AtomicU32::new(0), AtomicU32::new(0));
        thread::scope(|scope| {
            for node in nodes.iter().flat_map(|node| [node, node]) {
                let (arrived, last) = (&arrived, &last);
                scope.spawn(move || {
                    let barrier = node.open_barrier(Some(id), 6).unwrap();
                    for turn in 1..=ROUNDS / 4 {
                        arrived.fetch_add(1, Ordering::SeqCst);
                        let is_last = barrier.wait(WAIT).unwrap();
                        last.fetch_add(u32::from(is_last), Ordering::SeqCst);
                        assert!(arrived.load(Ordering::SeqCst) >= 6 * turn);
                    }
                });
            }
        });
        assert_eq!(last.into_inner(), ROUNDS / 4);
    }

    #[test]
    fn wait_goes_on_with_the_same_arrival_after_its_limit() {
        let (_family, nodes) = members(2);
        let mine = nodes[0].open_barrier(None, 2).unwrap();
        let theirs = nodes[1].open_barrier(Some(mine.id()), 2).unwrap();
        let first = mine.arrive(WAIT).unwrap();
        assert_eq!(mine.pass(first, SHORT), Err(Error::TimedOut));
        let second = theirs.arrive(WAIT).unwrap();
        assert_eq!((first.is_last(), second.is_last()), (false, true));
        assert_eq!(mine.pass(first, WAIT), Ok(()));
        assert_eq!(theirs.pass(second, WAIT), Ok(()));
        // The barrier has closed again.
        let next = mine.arrive(WAIT).unwrap();
        assert_eq!(mine.pass(next, SHORT), Err(Error::TimedOut));
    }

    #[test]
    fn removing_a_party_opens_the_barrier_for_the_others() {
        let (family, nodes) = members(2);
        let mine = nodes[0].open_barrier(None, 3).unwrap();
        let theirs = nodes[1].open_barrier(Some(mine.id()), 3).unwrap();
        // Both have arrived before a party is removed: one that arrives later would be the last.
        let arrivals = [&mine, &theirs].map(|barrier| barrier.arrive(WAIT).unwrap());
        thread::scope(|scope| {
            let waiting = scope.spawn(|| mine.pass(arrivals[0], WAIT));
            die_holding(&family, mine.id());
            assert!(!waiting.is_finished());
            theirs.remove_party(WAIT).unwrap();
            theirs.pass(arrivals[1], WAIT).unwrap();
            assert_eq!(waiting.join().unwrap(), Ok(()));
            assert!(arrivals.iter().all(|arrival| !arrival.is_last()));
        });
        let arrival = mine.arrive(WAIT).unwrap();
        assert!(theirs.arrive(WAIT).unwrap().is_last());
        mine.pass(arrival, WAIT).unwrap();
        theirs.remove_party(WAIT).unwrap();
        theirs.remove_party(WAIT).unwrap();
        assert_eq!(mine.arrive(WAIT), Err(Error::Invalid(Invalid::Parties)));
        assert_eq!(
            mine.remove_party(WAIT),
            Err(Error::Invalid(Invalid::Parties))
        );
    }

    #[test]
    fn barrier_of_another_number_of_parties_is_refused() {
        let (_family, nodes) = members(1);
        assert_eq!(
            nodes[0].open_barrier(None, 0).err(),
            Some(Error::Invalid(Invalid::Parties))
        );
        let two = nodes[0].open_barrier(None, 2).unwrap();
        let first = two.arrive(WAIT).unwrap();
        let three = nodes[0].open_barrier(Some(two.id()), 3).unwrap();
        assert_eq!(three.arrive(WAIT), Err(Error::Invalid(Invalid::Parties)));
        assert!(two.arrive(WAIT).unwrap().is_last());
        assert_eq!(two.pass(first, WAIT), Ok(()));
    }
}
