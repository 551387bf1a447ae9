//! The leader's table of ranges and a process's own IDs, each compared with a simple model.

use std::collections::BTreeMap;

use libos_ipc::leader::{Alloc, Leader, LeaderCapacities, Op, Outcome, Presence, Ranges};
use libos_ipc::member::{Allocation, OwnIds, Purpose};
use std::mem::MaybeUninit;

use libos_ipc::store::Arena;
use libos_ipc::wire::{Answer, Hello, IdRange, Message};
use libos_ipc::{Errno, Error, ID_MAX, Id, Invalid, Resource, Vmid};
use proptest::prelude::*;

fn vmid(number: u32) -> Vmid {
    Vmid::new(number).unwrap()
}

/// An operation of a member, or its end. IDs are chosen near the existing ranges.
#[derive(Clone, Debug)]
enum Operation {
    Alloc { who: u32 },
    Release { who: u32, of: Id, exact: bool },
    Change { who: u32, id: Id, to: u32 },
    LookUp { id: Id },
    Die { who: u32 },
}

fn operation() -> impl Strategy<Value = Operation> {
    let who = 1..5_u32;
    let id = 0..400_u32;
    prop_oneof![
        3 => who.clone().prop_map(|who| Operation::Alloc { who }),
        3 => (who.clone(), id.clone(), proptest::bool::weighted(0.8))
            .prop_map(|(who, of, exact)| Operation::Release { who, of, exact }),
        3 => (who.clone(), id.clone(), 1..5_u32).prop_map(|(who, id, to)| Operation::Change { who, id, to }),
        2 => id.prop_map(|id| Operation::LookUp { id }),
        1 => who.prop_map(|who| Operation::Die { who }),
    ]
}

/// The model: ranges by their start, with end and owner.
#[derive(Default)]
struct Model {
    ranges: BTreeMap<Id, (Id, u32)>,
    highest: Id,
}

impl Model {
    fn holding(&self, id: Id) -> Option<(IdRange, u32)> {
        let (start, (end, owner)) = self.ranges.range(..=id).next_back()?;
        (id <= *end).then_some((
            IdRange {
                start: *start,
                end: *end,
            },
            *owner,
        ))
    }
}

proptest! {
    #[test]
    fn ranges_agree_with_a_plain_map(
        capacity in 1..12_usize,
        deeds in prop::collection::vec(operation(), 1..120),
    ) {
        let mut memory = Box::new_uninit_slice(Ranges::bytes(capacity));
        let mut ranges = Ranges::new(&mut Arena::new(&mut memory), capacity, false).unwrap();
        let mut model = Model::default();
        for operation in deeds {
            match operation {
                Operation::Alloc { who } => {
                    let expected = if model.ranges.len() == capacity {
                        Alloc::TableFull
                    } else {
                        let start = model.highest + 1;
                        model.highest += 32;
                        model.ranges.insert(start, (model.highest, who));
                        Alloc::Range(IdRange { start, end: model.highest })
                    };
                    prop_assert_eq!(ranges.alloc(vmid(who)), expected);
                }
                Operation::Release { who, of, exact } => {
                    let held = model.holding(of);
                    let mut range = held.map_or(IdRange { start: of, end: of }, |(range, _)| range);
                    if !exact {
                        range.end += 1;
                    }
                    let expected = match held {
                        Some((_, owner)) if exact && owner == who => {
                            model.ranges.remove(&range.start);
                            Ok(())
                        }
                        Some(_) if exact => Err(Error::Refused { errno: Errno::EPERM, by: None }),
                        _ => Err(Error::Invalid(Invalid::IdRange)),
                    };
                    prop_assert_eq!(ranges.release(vmid(who), range), expected);
                }
                Operation::Change { who, id, to } => {
                    let expected = match model.holding(id) {
                        None => Err(Error::NoSuchProcess),
                        Some((_, owner)) if owner != who => Err(Error::Refused { errno: Errno::EPERM, by: None }),
                        Some((range, _)) => {
                            let parts = [
                                (range.start, id.wrapping_sub(1), who),
                                (id, id, to),
                                (id + 1, range.end, who),
                            ];
                            let parts = parts.into_iter().filter(|(start, end, _)| start <= end);
                            if model.ranges.len() - 1 + parts.clone().count() > capacity {
                                Err(Error::Full(Resource::Ranges))
                            } else {
                                for (start, end, owner) in parts {
                                    model.ranges.insert(start, (end, owner));
                                }
                                Ok(())
                            }
                        }
                    };
                    prop_assert_eq!(ranges.change_owner(vmid(who), id, vmid(to)), expected);
                }
                Operation::LookUp { id } => {
                    let expected = model.holding(id).map(|(_, owner)| vmid(owner));
                    prop_assert_eq!(ranges.owner_of(id), expected);
                }
                Operation::Die { who } => {
                    model.ranges.retain(|_, (_, owner)| *owner != who);
                    let mut left = ranges.begin_reclaim(vmid(who));
                    while left > 0 {
                        left = ranges.reclaim_portion(vmid(who), left);
                    }
                }
            }
            prop_assert_eq!(ranges.len(), model.ranges.len());
            prop_assert!(ranges.check_invariants());
        }
        for id in 0..500 {
            let expected = model.holding(id).map(|(_, owner)| vmid(owner));
            prop_assert_eq!(ranges.owner_of(id), expected, "owner of {}", id);
        }
    }
}

/// The number of IDs at each end of the space that the random program below uses. All between are
/// taken.
const END: Id = 320;

/// The owner of all IDs between.
const MIDDLE: u32 = 9;

/// The model of a table that wraps.
struct Wrapping {
    model: Model,
    next: Id,
}

impl Wrapping {
    /// Returns the next free IDs at or after `next`, 32 at most; from 2 on after the highest.
    fn alloc(&mut self, who: u32) -> Option<IdRange> {
        let free = |from: Id| {
            let mut id = from;
            while let Some((taken, _)) = self.model.holding(id) {
                id = taken.end + 1;
            }
            (id <= ID_MAX).then_some(id)
        };
        let start = free(self.next).or_else(|| free(2))?;
        let behind = self.model.ranges.range(start..).next();
        let free_to = behind.map_or(ID_MAX, |(taken, _)| taken - 1);
        let end = free_to.min(start + 31);
        self.model.ranges.insert(start, (end, who));
        self.next = end + 1;
        Some(IdRange { start, end })
    }
}

/// Makes a table that wraps and whose middle is taken, and its model.
fn with_a_taken_middle(memory: &mut [MaybeUninit<u8>], capacity: usize) -> (Ranges<'_>, Wrapping) {
    let mut ranges = Ranges::new(&mut Arena::new(memory), capacity, true).unwrap();
    let last = ID_MAX - END;
    loop {
        let Alloc::Range(range) = ranges.alloc(vmid(MIDDLE)) else {
            panic!("there are IDs")
        };
        if range.start <= END || range.start > last {
            ranges.release(vmid(MIDDLE), range).unwrap();
        }
        if range.end == ID_MAX {
            break;
        }
    }
    let mut model = Model::default();
    let last = Id::try_from(ranges.len()).unwrap() * 32 + END;
    model.ranges.insert(END + 1, (last, MIDDLE));
    let next = ID_MAX + 1;
    (ranges, Wrapping { model, next })
}

#[test]
fn after_the_top_ranges_agree_with_a_plain_map_with_the_middle_taken() {
    let capacity = 131_072 + 200;
    let mut memory = Box::new_uninit_slice(Ranges::bytes(capacity));
    let (mut ranges, mut model) = with_a_taken_middle(&mut memory, capacity);
    let taken = ranges.len();
    assert!(taken > 131_000);
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut shortest = 32;
    let mut times_wrapped = 0;
    for operation in 0..40_000 {
        // The numbers of held ranges alternate between small and great.
        let allocs = if operation / 1000 % 2 == 0 { 6 } else { 2 };
        let who = rng.u32(1..5);
        let near = rng.u32(1..=END);
        let id = if rng.bool() { near } else { ID_MAX + 1 - near };
        let held = model
            .model
            .holding(id)
            .filter(|(_, owner)| *owner != MIDDLE);
        match rng.u32(..10) {
            number if number < allocs => {
                if ranges.len() == capacity {
                    continue;
                }
                let before = model.next;
                let expected = model.alloc(who);
                if model.next < before {
                    times_wrapped += 1;
                }
                let got = ranges.alloc(vmid(who));
                match expected {
                    Some(range) => {
                        assert_eq!(got, Alloc::Range(range));
                        shortest = shortest.min(range.end - range.start + 1);
                    }
                    None => assert_eq!(got, Alloc::NoneLeft),
                }
            }
            number if number < 8 => {
                if let Some((range, owner)) = held {
                    ranges.release(vmid(owner), range).unwrap();
                    model.model.ranges.remove(&range.start);
                }
            }
            8 => {
                // A parent does the same with its child's pid, which then stays while its
                // neighbours are released.
                let room = capacity - ranges.len() >= 2;
                if let Some((range, owner)) = held.filter(|_| room) {
                    ranges.change_owner(vmid(owner), id, vmid(who)).unwrap();
                    for (start, end, of) in [
                        (range.start, id - 1, owner),
                        (id, id, who),
                        (id + 1, range.end, owner),
                    ] {
                        if start <= end {
                            model.model.ranges.insert(start, (end, of));
                        }
                    }
                }
            }
            _ => {
                let expected = model.model.holding(id).map(|(_, owner)| vmid(owner));
                assert_eq!(ranges.owner_of(id), expected, "owner of {id}");
            }
        }
        assert_eq!(ranges.len(), taken + model.model.ranges.len() - 1);
        if operation % 4000 == 0 {
            assert!(ranges.check_invariants());
        }
    }
    assert!(ranges.check_invariants());
    assert_eq!(shortest, 1, "single IDs between others");
    assert!(times_wrapped > 100, "{times_wrapped}");
}

#[test]
fn the_only_free_id_is_assigned_again_and_again() {
    let capacity = 131_076;
    let mut memory = Box::new_uninit_slice(Ranges::bytes(capacity));
    let mut ranges = Ranges::new(&mut Arena::new(&mut memory), capacity, true).unwrap();
    let mut count = 0;
    while let Alloc::Range(range) = ranges.alloc(vmid(1)) {
        count += 1;
        assert!(range.end <= ID_MAX);
    }
    assert_eq!((count, ranges.alloc(vmid(1))), (131_072, Alloc::NoneLeft));
    ranges.change_owner(vmid(1), 2_000_000, vmid(2)).unwrap();
    let (start, end) = (2_000_000, 2_000_000);
    for _ in 0..10_000 {
        ranges.release(vmid(2), IdRange { start, end }).unwrap();
        let given = ranges.alloc(vmid(2));
        assert_eq!(given, Alloc::Range(IdRange { start, end }));
    }
    assert_eq!(ranges.alloc(vmid(2)), Alloc::NoneLeft);
}

#[test]
fn the_first_id_is_assigned_once() {
    let mut memory = Box::new_uninit_slice(Ranges::bytes(1000));
    let mut ranges = used_up(true, &mut memory, |_| false);
    let lowest = IdRange { start: 2, end: 33 };
    assert_eq!(ranges.alloc(vmid(1)), Alloc::Range(lowest));
}

/// Makes a table in which all IDs were assigned once, and in which some ranges are still held.
fn used_up(wrap: bool, memory: &mut [MaybeUninit<u8>], kept: impl Fn(u32) -> bool) -> Ranges<'_> {
    let mut ranges = Ranges::new(&mut Arena::new(memory), 1000, wrap).unwrap();
    let mut highest = 0;
    for number in 0.. {
        let Alloc::Range(range) = ranges.alloc(vmid(1)) else {
            panic!("above {highest}")
        };
        assert_eq!(range.start, highest + 1);
        highest = range.end;
        if !kept(number) {
            ranges.release(vmid(1), range).unwrap();
        }
        if highest == ID_MAX {
            return ranges;
        }
    }
    unreachable!()
}

#[test]
fn assignment_ends_at_the_top_unless_it_may_wrap() {
    let mut memory = Box::new_uninit_slice(Ranges::bytes(1000));
    let mut ranges = used_up(false, &mut memory, |_| false);
    assert_eq!(ranges.alloc(vmid(1)), Alloc::NoneLeft);

    drop(ranges);
    let mut ranges = used_up(true, &mut memory, |number| number < 200 && number != 150);
    // A part of what is held is released, so that there are gaps of all kinds.
    ranges.change_owner(vmid(1), 40, vmid(2)).unwrap();
    ranges
        .release(vmid(2), IdRange { start: 40, end: 40 })
        .unwrap();
    ranges
        .release(vmid(1), IdRange { start: 41, end: 64 })
        .unwrap();
    let mut next = || match ranges.alloc(vmid(3)) {
        Alloc::Range(range) => (range.start, range.end),
        full => panic!("{full:?}"),
    };
    assert_eq!(next(), (40, 64), "the first gap, whole");
    assert_eq!(next(), (150 * 32 + 1, 150 * 32 + 32));
    assert_eq!(next(), (200 * 32 + 1, 200 * 32 + 32));
    assert!(ranges.check_invariants());
}

#[test]
fn the_highest_id_can_be_a_range_of_its_own() {
    let mut memory = Box::new_uninit_slice(Ranges::bytes(1000));
    let mut ranges = used_up(true, &mut memory, |number| number == ID_MAX / 32);
    ranges.change_owner(vmid(1), ID_MAX - 1, vmid(2)).unwrap();
    let last = IdRange {
        start: ID_MAX,
        end: ID_MAX,
    };
    ranges.release(vmid(1), last).unwrap();
    // The search continues from 1 on: the ranges up to the one that is split, and its free part.
    for _ in 0..=ID_MAX / 32 {
        let Alloc::Range(range) = ranges.alloc(vmid(1)) else {
            panic!("below {last:?}")
        };
        if range == last {
            return;
        }
        ranges.release(vmid(1), range).unwrap();
    }
    panic!("it is never given again");
}

#[test]
fn after_the_top_a_range_begins_at_any_free_id() {
    let mut memory = Box::new_uninit_slice(Ranges::bytes(1000));
    let mut ranges = used_up(true, &mut memory, |number| number == 0);
    ranges.change_owner(vmid(1), 8, vmid(2)).unwrap();
    ranges
        .release(vmid(1), IdRange { start: 9, end: 32 })
        .unwrap();
    for (start, end) in [(9, 40), (41, 72)] {
        let range = IdRange { start, end };
        assert_eq!(ranges.alloc(vmid(start)), Alloc::Range(range));
    }
    let owner = |id| match id {
        1..8 => 1,
        8 => 2,
        9..41 => 9,
        _ => 41,
    };
    // The order is descending, so that a stale hint does not help.
    for id in (1..=72).rev() {
        assert_eq!(ranges.owner_of(id), Some(vmid(owner(id))), "{id}");
    }
    assert_eq!(ranges.owner_of(73), None);
    assert!(ranges.check_invariants());
}

#[test]
fn a_death_frees_the_ranges_of_its_owner_only() {
    let mut memory = Box::new_uninit_slice(Ranges::bytes(1000));
    let mut ranges = Ranges::new(&mut Arena::new(&mut memory), 1000, false).unwrap();
    for number in 0..1000 {
        assert!(matches!(
            ranges.alloc(vmid(number % 3 + 1)),
            Alloc::Range(_)
        ));
    }
    let mut left = ranges.begin_reclaim(vmid(2));
    let mut steps = 0;
    while left > 0 {
        left = ranges.reclaim_portion(vmid(2), left);
        steps += 1;
        assert!(ranges.check_invariants());
    }
    assert!(steps > 1, "bounded work at a time");
    assert_eq!(ranges.len(), 667);
    assert_eq!(
        (ranges.owner_of(1), ranges.owner_of(33)),
        (Some(vmid(1)), None)
    );
}

#[test]
fn the_cost_of_a_death_does_not_grow_with_the_ranges_of_others() {
    let bytes = Ranges::bytes(1000);
    assert!(bytes < 1000 * 100, "{bytes}");
    let mut memory = Box::new_uninit_slice(bytes);
    let mut ranges = Ranges::new(&mut Arena::new(&mut memory), 1000, false).unwrap();
    for number in 1..=1000 {
        assert!(matches!(ranges.alloc(vmid(number)), Alloc::Range(_)));
    }
    let left = ranges.begin_reclaim(vmid(500));
    assert_eq!(ranges.reclaim_portion(vmid(500), left), 0, "in one portion");
    assert_eq!(ranges.len(), 999);
}

#[test]
fn a_pid_is_a_range_of_one_id_of_its_process() {
    let capacities = LeaderCapacities {
        ranges: 8,
        processes: 4,
        ..LeaderCapacities::NONE
    };
    let mut memory = Box::new_uninit_slice(Leader::bytes(&capacities));
    let mut arena = Arena::new(&mut memory);
    let mut leader = Leader::new(&mut arena, &capacities).unwrap();
    let mut request = |from: Vmid, message| {
        leader.apply(&Op::Request {
            from,
            seq: 1,
            message: &message,
            other: Presence::Absent,
        })
    };
    let parent = vmid(2);
    for number in [2, 3] {
        let given = request(vmid(1), Message::GetNewVmid);
        assert_eq!(given, Outcome::Answer(Answer::Vmid(number)));
    }
    let range = IdRange { start: 1, end: 32 };
    let given = request(parent, Message::AllocIdRange);
    assert_eq!(given, Outcome::Answer(Answer::IdRange(range)));
    let changed = request(parent, Message::ChangeIdOwner { id: 5, owner: 3 });
    assert_eq!(changed, Outcome::Answer(Answer::Empty));
    let hello = |pid| Hello {
        version: Hello::VERSION,
        features: 0,
        pid,
        parent: 0,
    };
    let changed = request(parent, Message::ChangeIdOwner { id: 1, owner: 2 });
    assert_eq!(changed, Outcome::Answer(Answer::Empty));
    for pid in [2, 4, 5, 33] {
        let joined = leader.apply(&Op::Join(parent, hello(pid)));
        assert_eq!(joined, Outcome::Rejected, "{pid}");
    }
    assert_eq!(leader.apply(&Op::Join(parent, hello(1))), Outcome::Done);
    for (pid, result) in [(4, Err(Errno::EINVAL)), (5, Ok(0))] {
        let started = leader.apply(&Op::Request {
            from: parent,
            seq: 1,
            message: &Message::ProcessStart { vmid: 3, pid },
            other: Presence::Absent,
        });
        assert_eq!(started, Outcome::Answer(Answer::Status(result)), "{pid}");
    }
    assert!(leader.check_invariants());
}

#[test]
fn an_id_is_transferred_only_with_room_for_the_parts_of_its_range() {
    for (id, parts) in [(1, 2), (5, 3), (32, 2)] {
        for capacity in 1..=parts {
            let mut memory = Box::new_uninit_slice(Ranges::bytes(capacity));
            let mut ranges = Ranges::new(&mut Arena::new(&mut memory), capacity, false).unwrap();
            ranges.alloc(vmid(1));
            let given = ranges.change_owner(vmid(1), id, vmid(2));
            if capacity < parts {
                assert_eq!(given, Err(Error::Full(Resource::Ranges)), "{id}");
                assert_eq!((ranges.len(), ranges.owner_of(id)), (1, Some(vmid(1))));
            } else {
                assert_eq!((given, ranges.len()), (Ok(()), parts), "{id}");
                // The range is one interval by now.
                ranges.change_owner(vmid(2), id, vmid(3)).unwrap();
                assert_eq!((ranges.len(), ranges.owner_of(id)), (parts, Some(vmid(3))));
            }
        }
    }
}

/// An operation of a process on its own IDs.
#[derive(Clone, Copy, Debug)]
enum IdOperation {
    Take(Purpose),
    TakeAny,
    Add { length: u32 },
    Release { choice: usize },
    BeginTransfer { choice: usize },
    FinishTransfer { choice: usize, done: bool },
    Accept,
}

fn any_operation() -> impl Strategy<Value = IdOperation> {
    prop_oneof![
        4 => Just(IdOperation::Take(Purpose::Own)),
        3 => Just(IdOperation::Take(Purpose::Child)),
        1 => Just(IdOperation::TakeAny),
        2 => (1..=32_u32).prop_map(|length| IdOperation::Add { length }),
        4 => any::<usize>().prop_map(|choice| IdOperation::Release { choice }),
        2 => any::<usize>().prop_map(|choice| IdOperation::BeginTransfer { choice }),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(choice, done)| IdOperation::FinishTransfer { choice, done }),
        1 => Just(IdOperation::Accept),
    ]
}

proptest! {
    #[test]
    fn own_ids_are_allocated_once_and_released_once(
        capacity in 1..6_usize,
        operations in prop::collection::vec(any_operation(), 1..200),
    ) {
        let mut memory = Box::new_uninit_slice(OwnIds::bytes(capacity));
        let mut own = OwnIds::new(&mut Arena::new(&mut memory), capacity).unwrap();
        // The process's IDs: free, in use, or in transfer.
        let (mut owned, mut used, mut in_transfer) = (vec![], vec![], vec![]);
        let mut fresh = 1;
        let mut assigned = std::collections::BTreeSet::new();
        let remove = |owned: &mut Vec<Id>, range: IdRange| {
            for id in range.start..=range.end {
                let at = owned.iter().position(|own| *own == id);
                owned.swap_remove(at.expect("it releases an ID that it does not own"));
            }
        };
        for operation in operations {
            match operation {
                IdOperation::Take(purpose) => if let Allocation::Id(id) = own.alloc(purpose) {
                    prop_assert!(owned.contains(&id) && assigned.insert(id), "{} again", id);
                    used.push(id);
                },
                // The ID may have been in use before, but is not now.
                IdOperation::TakeAny => {
                    let is_free = |id: &Id| !used.contains(id) && !in_transfer.contains(id);
                    if let Some(id) = own.alloc_any() {
                        prop_assert!(owned.contains(&id) && is_free(&id), "{} has a use", id);
                        assigned.insert(id);
                        used.push(id);
                    } else {
                        prop_assert_eq!(owned.iter().find(|id| is_free(id)), None);
                    }
                }
                IdOperation::Add { length } => {
                    let range = IdRange { start: fresh, end: fresh + length - 1 };
                    fresh += 64;
                    match own.add(range) {
                        Ok(()) => owned.extend(range.start..=range.end),
                        Err(error) => prop_assert_eq!(error, Error::Full(Resource::OwnRanges)),
                    }
                }
                IdOperation::Accept => {
                    match own.accept(fresh) {
                        Ok(()) => {
                            owned.push(fresh);
                            used.push(fresh);
                            assigned.insert(fresh);
                        }
                        Err(error) => prop_assert_eq!(error, Error::Full(Resource::OwnRanges)),
                    }
                    fresh += 64;
                }
                IdOperation::Release { choice } => if let Some(at) = choice.checked_rem(used.len()) {
                    let id = used.swap_remove(at);
                    if let Some(range) = own.release(id).unwrap() {
                        remove(&mut owned, range);
                        for id in range.start..=range.end {
                            prop_assert!(!used.contains(&id) && !in_transfer.contains(&id));
                        }
                    }
                    prop_assert_eq!(own.release(id), Err(Error::Invalid(Invalid::Id)));
                },
                IdOperation::BeginTransfer { choice } => if let Some(at) = choice.checked_rem(used.len()) {
                    match own.begin_transfer(used[at]) {
                        Ok(()) => {
                            in_transfer.push(used.swap_remove(at));
                            prop_assert_eq!(own.release(in_transfer[in_transfer.len() - 1]), Err(Error::Invalid(Invalid::Id)));
                        }
                        Err(error) => prop_assert_eq!(error, Error::Full(Resource::OwnRanges)),
                    }
                },
                IdOperation::FinishTransfer { choice, done } => if let Some(at) = choice.checked_rem(in_transfer.len()) {
                    let id = in_transfer.swap_remove(at);
                    let idle = own.finish_transfer(id, done);
                    if done {
                        remove(&mut owned, IdRange { start: id, end: id });
                    } else {
                        used.push(id);
                    }
                    for range in idle.into_iter().flatten() {
                        remove(&mut owned, range);
                    }
                    prop_assert_eq!(own.finish_transfer(id, true), [None; 2], "finished once");
                },
            }
            prop_assert_eq!(own.in_use(), used.len());
            prop_assert!(own.len() <= capacity);
        }
        for id in in_transfer {
            own.finish_transfer(id, false);
            used.push(id);
        }
        for id in used {
            if let Some(range) = own.release(id).unwrap() {
                remove(&mut owned, range);
            }
        }
        while let Some(range) = own.take_idle_range() {
            remove(&mut owned, range);
        }
        prop_assert!(owned.is_empty(), "never released: {:?}", owned);
        prop_assert!(own.is_empty());
    }
}

#[test]
fn ids_of_a_range_are_allocated_in_order() {
    let mut memory = Box::new_uninit_slice(OwnIds::bytes(3));
    let mut own = OwnIds::new(&mut Arena::new(&mut memory), 3).unwrap();
    assert!(own.is_empty());
    let range = |start, end| IdRange { start, end };
    let wrong = [(0, 3), (1, 33), (5, 4), (ID_MAX, ID_MAX + 1)];
    for (start, end) in wrong {
        assert_eq!(
            own.add(range(start, end)),
            Err(Error::Invalid(Invalid::IdRange))
        );
    }
    own.add(range(ID_MAX - 1, ID_MAX)).unwrap();
    own.add(range(5, 7)).unwrap();
    for (start, end) in [(1, 5), (7, 8), (6, 6), (5, 7)] {
        assert_eq!(
            own.add(range(start, end)),
            Err(Error::Invalid(Invalid::IdIsHere)),
            "it overlaps"
        );
    }
    for id in [5, 6, 7, ID_MAX - 1, ID_MAX] {
        assert_eq!(own.alloc(Purpose::Own), Allocation::Id(id));
    }
    assert_eq!(own.alloc(Purpose::Own), Allocation::NeedRange);
    assert_eq!((own.len(), own.peak(), own.in_use()), (2, 2, 5));
    assert!(!own.is_empty());
    assert_eq!(own.begin_transfer(4), Err(Error::Invalid(Invalid::Id)));
    assert_eq!((own.release(ID_MAX), own.release(6)), (Ok(None), Ok(None)));
    assert_eq!(
        own.begin_transfer(6),
        Err(Error::Invalid(Invalid::Id)),
        "it is not in use"
    );
    assert_eq!(own.release(ID_MAX - 1), Ok(Some(range(ID_MAX - 1, ID_MAX))));
    assert_eq!((own.len(), own.peak()), (1, 2));
}

#[test]
fn each_transferred_id_reserves_room_for_one_more_range() {
    let mut memory = Box::new_uninit_slice(OwnIds::bytes(3));
    let mut own = OwnIds::new(&mut Arena::new(&mut memory), 3).unwrap();
    let full = Err(Error::Full(Resource::OwnRanges));
    own.add(IdRange { start: 1, end: 32 }).unwrap();
    for id in 1..=8 {
        assert_eq!(own.alloc(Purpose::Own), Allocation::Id(id));
    }
    assert_eq!(
        [3, 5, 7].map(|id| own.begin_transfer(id)),
        [Ok(()), Ok(()), full]
    );
    assert_eq!(own.accept(40), full);
    own.finish_transfer(3, true);
    assert_eq!((own.len(), own.accept(40)), (2, full));
    own.finish_transfer(5, false);
    assert_eq!([40, 50].map(|id| own.accept(id)), [Ok(()), full]);
    assert_eq!((own.len(), own.begin_transfer(7)), (3, full));
}

#[test]
fn a_child_id_at_the_end_of_its_range_needs_no_room_for_a_part() {
    let mut memory = Box::new_uninit_slice(OwnIds::bytes(2));
    let mut own = OwnIds::new(&mut Arena::new(&mut memory), 2).unwrap();
    let full = Err(Error::Full(Resource::OwnRanges));
    own.add(IdRange { start: 1, end: 32 }).unwrap();
    for id in 1..=3 {
        assert_eq!(own.alloc(Purpose::Own), Allocation::Id(id));
    }
    assert_eq!(own.alloc(Purpose::Child), Allocation::NeedRange);
    own.add(IdRange { start: 33, end: 64 }).unwrap();
    for id in 33..=64 {
        assert_eq!(own.alloc(Purpose::Child), Allocation::Id(id));
        assert_eq!(
            [own.begin_transfer(2), own.begin_transfer(id)],
            [full, Ok(())]
        );
        assert_eq!(own.finish_transfer(id, true), [None; 2]);
    }
    // The range for children is gone; that of threads is unchanged.
    assert_eq!(
        (own.len(), own.peak(), own.alloc(Purpose::Own)),
        (1, 2, Allocation::Id(4))
    );
}

#[test]
fn the_table_reports_its_usage_and_peak() {
    let mut memory = Box::new_uninit_slice(Ranges::bytes(4));
    let mut ranges = Ranges::new(&mut Arena::new(&mut memory), 4, false).unwrap();
    assert!(ranges.is_empty());
    for _ in 0..3 {
        ranges.alloc(vmid(1));
    }
    ranges
        .release(vmid(1), IdRange { start: 1, end: 32 })
        .unwrap();
    assert!(!ranges.is_empty());
    assert_eq!((ranges.len(), ranges.peak()), (2, 3));
}

#[test]
fn the_last_id_of_a_range_can_be_transferred_by_itself() {
    let mut memory = Box::new_uninit_slice(Ranges::bytes(4));
    let mut ranges = Ranges::new(&mut Arena::new(&mut memory), 4, false).unwrap();
    ranges.alloc(vmid(1));
    ranges.change_owner(vmid(1), 32, vmid(2)).unwrap();
    let owners = [31, 32, 33].map(|id| ranges.owner_of(id));
    assert_eq!(owners, [Some(vmid(1)), Some(vmid(2)), None]);
    assert_eq!(ranges.len(), 2);
}
