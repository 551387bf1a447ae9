use std::boxed::Box;
use std::collections::BTreeSet;
use std::vec::Vec;

use super::*;
use crate::store::hash64;

const CAPACITY: u32 = 4096;

fn with_index(test: impl FnOnce(&mut HashIndex<'_>)) {
    let mut memory = Box::new_uninit_slice(HashIndex::bytes(CAPACITY as usize));
    test(&mut HashIndex::new(
        &mut Arena::new(&mut memory),
        CAPACITY as usize,
    ));
}

/// Checks order, heights and balance of the tree. Returns its height and its number of nodes.
fn check(index: &HashIndex<'_>, node: u32, keys: &[u64], bounds: (u64, u64)) -> (u8, usize) {
    if node == NONE {
        return (0, 0);
    }
    let key = keys[node as usize];
    assert!(bounds.0 <= key && key <= bounds.1);
    let TreeNode {
        left,
        right,
        height,
    } = index.node(node);
    let (left_height, left) = check(index, left, keys, (bounds.0, key));
    let (right_height, right) = check(index, right, keys, (key, bounds.1));
    assert!(left_height.abs_diff(right_height) <= 1);
    assert_eq!(height, 1 + left_height.max(right_height));
    (height, 1 + left + right)
}

#[test]
fn slots_of_one_bucket_are_found_and_the_trees_are_balanced_after_any_changes() {
    with_index(|index| {
        let mut keys = std::vec![0_u64; CAPACITY as usize];
        let mut model = BTreeSet::new();
        let mut random = 1_u64;
        for _ in 0..20_000 {
            random = hash64(random);
            let slot = u32::try_from(random % 300).unwrap();
            // Two buckets.
            let hash = |slot: u32| u64::from(slot % 2) << 63;
            let key = keys[slot as usize];
            if model.remove(&(slot % 2, key, slot)) {
                index.remove(hash(slot), slot, &|other| keys[other as usize].cmp(&key));
            } else {
                let key = (random >> 32) << 9 | u64::from(slot);
                keys[slot as usize] = key;
                index.insert(hash(slot), slot, &|other| keys[other as usize].cmp(&key));
                model.insert((slot % 2, key, slot));
            }
            let counts = [0, 1].map(|bucket| {
                let root = index.root(index.bucket(hash(bucket)));
                check(index, root, &keys, (0, u64::MAX)).1
            });
            assert_eq!(counts[0] + counts[1], model.len());
            let found = index.find(hash(slot), |other| {
                keys[other as usize].cmp(&keys[slot as usize])
            });
            let expected = model.contains(&(slot % 2, keys[slot as usize], slot));
            assert_eq!(found, expected.then_some(slot));
        }
    });
}

#[test]
fn first_of_several_matching_slots_is_found() {
    with_index(|index| {
        for slot in (0..100_u32).rev() {
            index.insert(0, slot, &|other| other.cmp(&slot));
        }
        for first in 0..10_u32 {
            let found = index.find_first(0, |slot| (slot / 10).cmp(&first));
            assert_eq!(found, Some(first * 10));
        }
        assert_eq!(index.find_first(0, |slot| (slot / 10).cmp(&10)), None);
    });
}

#[test]
fn slot_that_is_not_in_the_index_is_not_removed() {
    with_index(|index| {
        index.insert(0, 1, &|other| other.cmp(&1));
        index.remove(0, 2, &|other| other.cmp(&2));
        index.remove(u64::MAX, 1, &|other| other.cmp(&1));
        assert_eq!(index.find(0, |slot| slot.cmp(&1)), Some(1));
    });
}

#[test]
fn operations_on_a_full_bucket_take_a_logarithmic_number_of_steps() {
    // The orders in which chains and unbalanced trees are slowest.
    let rising: Vec<u32> = (0..CAPACITY).collect();
    let falling: Vec<u32> = (0..CAPACITY).rev().collect();
    for slots in [rising, falling] {
        with_index(|index| {
            let most = |before: u64, index: &HashIndex<'_>| {
                let steps = index.steps() - before;
                assert!(steps <= 17 * 12 + 20, "{steps} steps");
            };
            for &slot in &slots {
                let before = index.steps();
                index.insert(7, slot, &|other| other.cmp(&slot));
                most(before, index);
            }
            for &slot in &slots {
                let before = index.steps();
                assert_eq!(index.find(7, |other| other.cmp(&slot)), Some(slot));
                assert!(index.steps() - before <= 17);
                let before = index.steps();
                index.remove(7, slot, &|other| other.cmp(&slot));
                most(before, index);
            }
        });
    }
}
