//! Semaphores, queues, condition variables, barriers and slices as futures of one thread.

use std::time::Duration;

use libos_ipc::{Error, Wait};

use super::common::{Family, Task, WAIT};

/// Polls a waiting task while it is woken, until it ends.
fn finish<F: Future>(family: &Family, task: &mut Task<F>) -> F::Output {
    for _ in 0..40 {
        family.poll_all();
        if let Some(result) = task.poll_if_woken() {
            return result;
        }
    }
    panic!("no wake ends the future");
}

/// Polls the tasks that were woken until no task is; none of them ends.
fn sleep<F: Future>(family: &Family, tasks: &mut [Task<F>]) {
    for _ in 0..40 {
        family.poll_all();
        for task in &mut *tasks {
            assert!(task.poll_if_woken().is_none());
        }
    }
    let wakes: Vec<_> = tasks.iter().map(Task::wakes).collect();
    family.poll_all();
    assert!(
        tasks.iter().map(Task::wakes).eq(wakes),
        "they wake each other"
    );
}

/// Runs a future while a task that sleeps is polled whenever it is woken.
fn run_beside<T, F: Future>(
    family: &Family,
    future: impl Future<Output = T>,
    sleeping: &mut [Task<F>],
) -> T {
    let mut task = Task::new(future);
    for _ in 0..40 {
        if let Some(result) = task.poll_if_woken() {
            return result;
        }
        family.poll_all();
        for sleeping in &mut *sleeping {
            assert!(sleeping.poll_if_woken().is_none());
        }
    }
    panic!("the future does not end");
}

#[test]
fn a_release_wakes_the_task_that_waits_for_a_permit() {
    let family = Family::new(3);
    let [_, ours, theirs] =
        [1, 2, 3].map(|number| family.member(number).open_semaphore(Some(4), 0).unwrap());
    let mut waits = [Task::new(ours.acquire_async(WAIT))];
    sleep(&family, &mut waits);
    run_beside(&family, theirs.release_async(WAIT), &mut waits).unwrap();
    assert_eq!(finish(&family, &mut waits[0]), Ok(()));
    assert_eq!(family.run(theirs.try_acquire_async(WAIT)), Ok(false));
    drop(waits);
    family.assert_idle();
}

#[test]
fn a_dropped_acquire_takes_no_permit() {
    for steps in 0..12 {
        let family = Family::new(3);
        let [_, ours, theirs] =
            [1, 2, 3].map(|number| family.member(number).open_semaphore(Some(4), 0).unwrap());
        let mut dropped = Task::new(ours.acquire_async(Wait::FOREVER));
        let mut release = Task::new(theirs.release_async(Wait::FOREVER));
        let (mut has_acquired, mut has_released) = (false, false);
        for step in 0..steps {
            has_acquired |= !has_acquired && dropped.poll_if_woken().is_some();
            family.nodes[step % 3].poll_once();
            family.nodes[0].poll_once();
            if step > 3 && !has_released {
                has_released = release.poll_if_woken().is_some();
            }
        }
        drop((dropped, release));
        family.poll_all();
        family.run(theirs.release_async(WAIT)).unwrap();
        let mut left = 0;
        while family.run(ours.try_acquire_async(WAIT)).unwrap() {
            left += 1;
        }
        assert_eq!(left + u32::from(has_acquired), 1 + u32::from(has_released));
        family.assert_idle();
    }
}

/// Polls a task, with moves of bytes between, and returns what it has ended with.
fn some_steps<F: Future>(family: &Family, task: &mut Task<F>, steps: usize) -> Option<F::Output> {
    for step in 0..steps {
        if let Some(result) = task.poll_if_woken() {
            return Some(result);
        }
        family.nodes[step % family.nodes.len()].poll_once();
    }
    None
}

#[test]
fn a_dropped_pop_removes_no_item_and_a_dropped_push_adds_none() {
    for steps in 0..20 {
        let family = Family::new(3);
        let [_, ours, theirs] =
            [1, 2, 3].map(|number| family.member(number).open_queue::<u64>(Some(4), 4).unwrap());
        family.run(theirs.push_async(&1, WAIT)).unwrap();
        family.run(theirs.push_async(&2, WAIT)).unwrap();
        let mut pop = Task::new(ours.pop_async(Wait::FOREVER));
        let mut seen: Vec<_> = some_steps(&family, &mut pop, steps).into_iter().collect();
        drop(pop);
        family.poll_all();
        family.run(theirs.push_async(&3, WAIT)).unwrap();
        let mut push = Task::new(ours.push_async(&4, Wait::FOREVER));
        let is_pushed = some_steps(&family, &mut push, steps).is_some();
        drop(push);
        family.poll_all();
        while let Some(item) = family.run(theirs.try_pop_async(WAIT)).unwrap() {
            seen.push(Ok(item));
        }
        let expected = [1, 2, 3, 4].map(Ok);
        assert_eq!(
            seen,
            expected[..3 + usize::from(is_pushed)],
            "{steps} steps"
        );
        family.assert_idle();
    }
}

#[test]
fn a_task_that_stops_to_wait_for_a_condition_or_a_barrier_leaves_both_usable() {
    for steps in 0..20 {
        let family = Family::new(3);
        let [_, ours, theirs] = [1, 2, 3].map(|number| {
            let node = family.member(number);
            let value = node.share::<u64>(Some(4)).unwrap();
            (
                value,
                node.open_condvar(Some(5)).unwrap(),
                node.open_barrier(Some(6), 2).unwrap(),
            )
        });
        let writer = family.run(ours.0.write_async(WAIT)).unwrap();
        let mut waits = Task::new(ours.1.wait_async(writer, Wait::FOREVER));
        let _ = some_steps(&family, &mut waits, steps);
        drop(waits);
        family.poll_all();
        *family.run(theirs.0.write_async(WAIT)).unwrap() += 1;
        family.run(theirs.1.notify_all_async(WAIT)).unwrap();
        // Nobody has arrived for good: an arrival and a wait are two calls.
        let arrival = family.run(ours.2.arrive_async(WAIT)).unwrap();
        let mut pass = Task::new(ours.2.pass_async(arrival, Wait::FOREVER));
        let _ = some_steps(&family, &mut pass, steps);
        drop(pass);
        family.poll_all();
        assert_eq!(family.run(theirs.2.wait_async(WAIT)), Ok(true));
        assert_eq!(family.run(ours.2.pass_async(arrival, WAIT)), Ok(()));
        assert_eq!(*family.run(ours.0.read_async(WAIT)).unwrap(), 1);
        family.assert_idle();
    }
}

#[test]
fn a_push_wakes_one_of_the_tasks_that_wait_and_the_others_sleep_on() {
    let family = Family::new(4);
    let queues =
        [1, 2, 3, 4].map(|number| family.member(number).open_queue::<u64>(Some(4), 2).unwrap());
    let mut pops: Vec<_> = queues[1..3]
        .iter()
        .map(|queue| Task::new(queue.pop_async(WAIT)))
        .collect();
    sleep(&family, &mut pops);
    run_beside(&family, queues[3].push_async(&7, WAIT), &mut pops).unwrap();
    let mut popped = Vec::new();
    for _ in 0..40 {
        family.poll_all();
        pops.retain_mut(|pop| match pop.poll_if_woken() {
            Some(item) => {
                popped.push(item.unwrap());
                false
            }
            None => true,
        });
    }
    assert_eq!((popped, pops.len()), (vec![7], 1));
    sleep(&family, &mut pops);
    assert_eq!(family.run(queues[0].try_pop_async(WAIT)), Ok(None));
    sleep(&family, &mut pops);
    drop(pops);
    for item in [1, 2] {
        assert_eq!(family.run(queues[0].try_push_async(&item, WAIT)), Ok(true));
    }
    assert_eq!(family.run(queues[3].try_push_async(&3, WAIT)), Ok(false));
    let short = Wait::at_most(Duration::from_millis(1));
    assert_eq!(
        family.run(queues[3].push_async(&3, short)),
        Err(Error::TimedOut)
    );
    assert_eq!(family.run(queues[1].pop_async(WAIT)), Ok(1));
    family.assert_idle();
}

#[test]
fn a_notification_wakes_the_task_that_has_given_the_value_back() {
    let family = Family::new(3);
    let [ours, theirs] = [2, 3].map(|number| {
        let member = family.member(number);
        (
            member.share::<u64>(Some(1)).unwrap(),
            member.open_condvar(Some(2)).unwrap(),
        )
    });
    let mut waits = [Task::new(async {
        let guard = ours.0.write_async(WAIT).await?;
        ours.1.wait_async(guard, WAIT).await.map(|guard| *guard)
    })];
    sleep(&family, &mut waits);
    *run_beside(&family, theirs.0.write_async(WAIT), &mut waits).unwrap() = 5;
    sleep(&family, &mut waits);
    run_beside(&family, theirs.1.notify_all_async(WAIT), &mut waits).unwrap();
    assert_eq!(finish(&family, &mut waits[0]), Ok(5));
    drop(waits);
    family.assert_idle();
}

#[test]
fn a_wait_while_a_condition_is_true_sleeps_on_after_a_notification_too_early() {
    let family = Family::new(3);
    let [ours, theirs] = [2, 3].map(|number| {
        let member = family.member(number);
        (
            member.share::<u64>(Some(1)).unwrap(),
            member.open_condvar(Some(2)).unwrap(),
        )
    });
    let mut waits = [Task::new(async {
        let guard = ours.0.write_async(WAIT).await?;
        let wait = ours.1.wait_while_async(guard, WAIT, |value| *value < 2);
        wait.await.map(|guard| *guard)
    })];
    sleep(&family, &mut waits);
    for value in 1..=2 {
        *run_beside(&family, theirs.0.write_async(WAIT), &mut waits).unwrap() = value;
        sleep(&family, &mut waits);
        run_beside(&family, theirs.1.notify_all_async(WAIT), &mut waits).unwrap();
        if value < 2 {
            sleep(&family, &mut waits);
        }
    }
    assert_eq!(finish(&family, &mut waits[0]), Ok(2));
    drop(waits);
    family.assert_idle();
}

#[test]
fn the_last_arrival_wakes_the_tasks_that_wait_at_the_barrier() {
    let family = Family::new(3);
    let barriers = [1, 2, 3].map(|number| family.member(number).open_barrier(Some(4), 3).unwrap());
    for _ in 0..3 {
        let mut waits: Vec<_> = barriers[1..]
            .iter()
            .map(|barrier| Task::new(barrier.wait_async(WAIT)))
            .collect();
        sleep(&family, &mut waits);
        let arrival = run_beside(&family, barriers[0].arrive_async(WAIT), &mut waits).unwrap();
        assert!(arrival.is_last());
        for wait in &mut waits {
            assert_eq!(finish(&family, wait), Ok(false));
        }
        family.run(barriers[0].pass_async(arrival, WAIT)).unwrap();
        drop(waits);
        family.assert_idle();
    }
}

#[test]
fn a_slice_moves_between_tasks_with_its_length() {
    let family = Family::new(3);
    let [ours, theirs] =
        [2, 3].map(|number| family.member(number).share_slice::<u16>(Some(4)).unwrap());
    let (mut buffer, mut other) = ([0; 9], [0; 9]);
    let mut writer = family.run(ours.write_to_async(&mut buffer, WAIT)).unwrap();
    writer.set(&[1, 2, 3]).unwrap();
    drop(writer);
    let reader = family.run(theirs.read_to_async(&mut other, WAIT)).unwrap();
    assert_eq!(*reader, [1, 2, 3]);
    drop(reader);
    family.assert_idle();
}
