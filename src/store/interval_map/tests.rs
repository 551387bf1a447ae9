use super::*;
use crate::ID_MAX;

fn insert(table: &mut IntervalMap<'_>, start: u32, end: u32, owner: u32) {
    let gap = table.next_free(start).unwrap();
    assert!(gap.start == start && gap.end >= end);
    assert!(table.insert(gap, end, owner, Payer::NOBODY));
}

fn check_invariants_after(fault: fn(&mut IntervalMap<'_>)) -> bool {
    let mut memory = std::boxed::Box::new_uninit_slice(IntervalMap::bytes(4));
    let mut table = IntervalMap::new(&mut Arena::new(&mut memory), 4);
    for start in [1, 33, 65] {
        insert(&mut table, start, start + 31, 1);
    }
    fault(&mut table);
    table.check_invariants()
}

#[test]
fn an_interval_of_another_table_or_a_removed_one_is_not_changed() {
    let mut memory = [(); 2].map(|()| std::boxed::Box::new_uninit_slice(IntervalMap::bytes(4)));
    let mut tables = memory
        .each_mut()
        .map(|memory| IntervalMap::new(&mut Arena::new(memory), 4));
    let [one, other] = &mut tables;
    insert(one, 1, 32, 1);
    insert(other, 33, 64, 1);
    let (mut foreign, mut gone) = (other.find(33).unwrap(), one.find(1).unwrap());
    one.remove(foreign);
    assert!(!one.split(&mut foreign, 40, 1));
    one.set_owner(&mut foreign, 2);
    assert!(one.check_invariants() && one.len() == 1);
    assert_eq!(
        one.find(5)
            .map(|interval| (interval.end(), interval.owner())),
        Some((32, 1))
    );
    one.remove(gone);
    insert(one, 65, 96, 3);
    one.remove(gone);
    one.set_owner(&mut gone, 4);
    assert!(one.check_invariants() && one.len() == 1);
    assert_eq!(one.find(70).map(|interval| interval.owner()), Some(3));
    assert!(other.check_invariants() && other.len() == 1);
}

#[test]
fn numbers_below_in_the_last_block_are_not_found() {
    let mut memory = std::boxed::Box::new_uninit_slice(IntervalMap::bytes(4));
    let mut table = IntervalMap::new(&mut Arena::new(&mut memory), 4);
    insert(&mut table, ID_MAX - 10, ID_MAX, 1);
    assert!(table.next_free(ID_MAX - 10).is_none() && table.next_free(ID_MAX).is_none());
    let gap = table.next_free(ID_MAX - 30).unwrap();
    assert_eq!((gap.start, gap.end), (ID_MAX - 30, ID_MAX - 11));
}

#[test]
fn the_kept_digest_equals_one_computed_anew() {
    let mut memory = std::boxed::Box::new_uninit_slice(IntervalMap::bytes(40));
    let mut table = IntervalMap::new(&mut Arena::new(&mut memory), 40);
    let digest = |table: &IntervalMap<'_>, mut digest: Digest| {
        table.digest(&mut digest);
        digest.finish()
    };
    let mut rng = fastrand::Rng::with_seed(1);
    let mut last = 0;
    for step in 0..20_000 {
        let (number, owner) = (rng.u32(1..1000), rng.u32(1..5));
        match (rng.u8(..8), table.find(number)) {
            (_, None) => {
                if let Some(gap) = table.next_free(number) {
                    let end = gap.end.min(gap.start + rng.u32(..8));
                    table.insert(gap, end, owner, Payer::NOBODY);
                }
            }
            (0..3, Some(found)) => table.remove(found),
            (3..5, Some(mut found)) => {
                let is_behind = number > found.start();
                let is_possible = is_behind && table.remaining() > 0;
                assert_eq!(table.split(&mut found, number, owner), is_possible);
                assert_eq!(found.start() == number, is_possible || !is_behind);
            }
            (5..7, Some(mut found)) => table.set_owner(&mut found, owner),
            (_, Some(_)) => {
                let mut cursor = table.owner_cursor(owner);
                table.remove_next(&mut cursor, 2, &|_| None, &mut |_| ());
            }
        }
        let now = digest(&table, Digest::new());
        assert_eq!(now, digest(&table, Digest::anew()), "step {step}");
        last = if step % 100 == 0 { now } else { last };
    }
    assert_ne!(last, digest(&table, Digest::new()), "it changes");
}

#[test]
fn a_broken_invariant_is_detected() {
    assert!(check_invariants_after(|_| {}));
    let faults: [fn(&mut IntervalMap<'_>); 9] = [
        |table| {
            let _ = table.tree.insert((97, 97), 1, None);
        },
        |table| table.tree.floor(33).unwrap().owner.set(0),
        |table| table.tree.floor(33).unwrap().set(32, 63),
        |table| table.occupancy.fill(0),
        |table| table.occupancy.fill(2),
        |table| table.owner_lists[0] = OwnerList::default(),
        |table| table.owner_lists[0].length = 2,
        |table| table.full.set(1, false),
        |table| table.full.set(3, true),
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        assert!(!check_invariants_after(fault), "fault {number}");
    }
}
