//! Tests of the rule.

use std::boxed::Box;
use std::vec::Vec;

use super::*;

fn vmid(number: u32) -> Vmid {
    Vmid::new(number).unwrap()
}

fn with_quotas(members: usize, capacities: &[usize], test: impl FnOnce(&mut Quotas<'_>)) {
    let mut memory = Box::new_uninit_slice(Quotas::bytes(members));
    let mut arena = Arena::new(&mut memory);
    test(&mut Quotas::new(&mut arena, members, capacities));
}

/// Takes places for the member until it is refused. Returns how many it got.
fn fill(quotas: &mut Quotas<'_>, member: u32) -> usize {
    let mut count = 0;
    while quotas.may_grow(vmid(member), 0, 1) {
        quotas.charge(vmid(member), 0, 1);
        count += 1;
    }
    count
}

#[test]
fn lone_member_gets_about_half_and_each_further_one_a_fair_part() {
    let tables: [(usize, &[usize]); 4] = [
        (2048, &[803, 272, 140]),
        (1024, &[417, 141, 72]),
        (512, &[224, 75, 38]),
        (264, &[100, 34, 17]),
    ];
    for (capacity, parts) in tables {
        with_quotas(65, &[capacity], |quotas| {
            for (member, part) in (2..).zip(parts) {
                let got = fill(quotas, member);
                assert!(got.abs_diff(*part) <= 1, "{got} of {capacity}, not {part}");
            }
        });
    }
}

#[test]
fn reserve_is_free_for_each_member_however_many_took_what_they_could() {
    let members = 16;
    with_quotas(members, &[256], |quotas| {
        let reserve = 256 / 4 / members;
        let mut taken = 0;
        for member in 1..=u32::try_from(members).unwrap() {
            let got = fill(quotas, member);
            assert!(got >= reserve, "member {member} got {got}");
            taken += got;
            assert!(quotas.check(&[taken], &[]));
        }
        assert!(taken <= 256);
    });
}

#[test]
fn refusal_changes_nothing_and_is_counted() {
    with_quotas(4, &[16], |quotas| {
        fill(quotas, 2);
        let state = |quotas: &Quotas<'_>| {
            let mut digest = Digest::new();
            quotas.digest(&mut digest);
            core::hash::Hasher::finish(&digest)
        };
        let (before, refused) = (state(quotas), quotas.refused());
        assert!(!quotas.may_grow(vmid(2), 0, 1));
        assert!(!quotas.has_room(vmid(2), 0, 1));
        assert_eq!(state(quotas), before);
        assert_eq!(quotas.refused(), refused + 1);
    });
}

#[test]
fn member_with_more_than_its_quota_after_a_move_gets_no_more_and_loses_nothing() {
    with_quotas(4, &[64], |quotas| {
        let count = fill(quotas, 2);
        let payer = quotas.charge(vmid(2), 0, 0);
        fill(quotas, 3);
        let moved = quotas.transfer(payer, vmid(3), 0, count);
        assert!(!quotas.may_grow(vmid(3), 0, 1));
        assert!(quotas.may_grow(vmid(2), 0, 1));
        quotas.on_left(vmid(2));
        assert_eq!(quotas.charge_of(vmid(2), 0), 0);
        quotas.release(moved, 0, count);
        let all = quotas.charge_of(vmid(3), 0);
        assert!(quotas.check(&[all], &[]));
    });
}

#[test]
fn each_member_gets_one_place_of_a_table_without_reserves_while_one_is_free() {
    with_quotas(65, &[3], |quotas| {
        for member in 2..5 {
            assert_eq!(fill(quotas, member), 1);
        }
        assert!(!quotas.may_grow(vmid(5), 0, 1));
        assert!(quotas.check(&[3], &[]));
    });
    with_quotas(65, &[1], |quotas| {
        let payer = quotas.charge(vmid(2), 0, 1);
        assert!(!quotas.may_grow(vmid(3), 0, 1));
        quotas.release(payer, 0, 1);
        assert!(quotas.may_grow(vmid(3), 0, 1) && !quotas.may_grow(vmid(3), 0, 2));
    });
}

#[test]
fn account_of_a_member_that_left_is_free_for_another_one() {
    with_quotas(3, &[64], |quotas| {
        for member in 2..100 {
            let payer = quotas.charge(vmid(member), 0, 1);
            assert!(quotas.is_payer(payer, vmid(member)), "{member}");
            quotas.on_left(vmid(member));
            assert!(!quotas.check(&[1], &[]), "it pays, but it has left");
            quotas.release(payer, 0, 1);
            assert!(quotas.check(&[0], &[]));
        }
    });
}

/// The rule in the words of its definition, on plain maps.
#[test]
fn random_programs_agree_with_a_model() {
    const MEMBERS: usize = 7;
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..200 {
        let capacity = rng.usize(1..200);
        with_quotas(MEMBERS, &[capacity], |quotas| {
            let reserve = capacity / (4 * MEMBERS);
            let shared = capacity - MEMBERS * reserve;
            let mut charges = [0_usize; MEMBERS];
            let mut payers: Vec<(usize, Payer)> = Vec::new();
            for _ in 0..400 {
                let member = rng.usize(..MEMBERS);
                let of = vmid(u32::try_from(member).unwrap() + 1);
                if rng.u8(..3) == 0 && !payers.is_empty() {
                    let (payer, account) = payers.swap_remove(rng.usize(..payers.len()));
                    quotas.release(account, 0, 1);
                    charges[payer] -= 1;
                } else {
                    let above = charges.map(|charge| charge.saturating_sub(reserve));
                    let free = shared - above.iter().sum::<usize>();
                    let others = (0..MEMBERS).filter(|at| *at != member && above[*at] > 0);
                    let sharers = others.count() + 1;
                    let share = above[member];
                    let expected = charges[member] < reserve
                        || (share + 1) * (sharers + 1) <= free + share
                        || reserve == 0 && charges[member] == 0 && free > 0;
                    assert_eq!(quotas.may_grow(of, 0, 1), expected);
                    if expected {
                        payers.push((member, quotas.charge_allowed(of, 0, 1)));
                        charges[member] += 1;
                    }
                }
                assert!(quotas.check(&[charges.iter().sum()], &[]));
            }
        });
    }
}
