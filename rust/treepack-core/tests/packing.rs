//! Laws of the packer on random streams, without Python; `TREEPACK_CASES` says how many times as
//! many cases.

use proptest::prelude::*;
use treepack_core::packing::{Oversize, Packer, Search, Settings, Solver, State, MAX_BUDGET};

mod common;

type Costs = Vec<Vec<u64>>;

fn settings() -> impl Strategy<Value = Settings> {
    (
        // Beyond 48 not every example is a candidate.
        prop_oneof![3 => 1usize..20, 1 => 40usize..120],
        any::<bool>(),
        any::<bool>(),
        1u32..10,
        1u32..5_000,
    )
        .prop_map(
            |(pool_size, early, is_first_fit, anchors, steps)| Settings {
                pool_size,
                early,
                oversize: Oversize::Raise,
                solver: if is_first_fit {
                    Solver::FirstFit
                } else {
                    Solver::Anchors
                },
                search: Search {
                    anchors,
                    steps,
                    ..Search::default()
                },
            },
        )
}

/// Budgets and costs that fit; widths cover every number of places that the solver has.
fn stream() -> impl Strategy<Value = (Vec<u64>, Costs)> {
    let size = prop_oneof![1u64..10, 100u64..20_000, Just(MAX_BUDGET)];
    prop::collection::vec(size, 1..12).prop_flat_map(|budgets| {
        let one: Vec<_> = budgets.iter().map(|&b| 0..=b).collect();
        let costs = prop_oneof![
            3 => prop::collection::vec(one.clone(), 0..60),
            1 => prop::collection::vec(one, 60..250),
        ]
        .prop_map(|mut costs: Costs| {
            costs
                .iter_mut()
                .filter(|c| c.iter().all(|&x| x == 0))
                .for_each(|c| c[0] = 1);
            costs
        });
        (Just(budgets), costs)
    })
}

fn named(budgets: &[u64]) -> Vec<(String, u64)> {
    budgets
        .iter()
        .enumerate()
        .map(|(d, &size)| (format!("b{d}"), size))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(common::cases(1_000)))]

    #[test]
    fn every_example_leaves_once_in_time_and_within_budget(
        (budgets, costs) in stream(), settings in settings(),
    ) {
        let mut packer = Packer::new(named(&budgets), settings).unwrap();
        let mut packs = Vec::new();
        for (key, cost) in costs.iter().enumerate() {
            packs.extend(packer.push(key, cost).unwrap());
            prop_assert!(packer.len() < settings.pool_size);
        }
        while let Some(pack) = packer.pop() {
            prop_assert!(!pack.keys.is_empty() && packs.len() < costs.len());
            packs.push(pack);
        }
        prop_assert!(packer.is_empty());
        for pack in &packs {
            for (d, &budget) in budgets.iter().enumerate() {
                let sum: u64 = pack.keys.iter().map(|&key| costs[key][d]).sum();
                prop_assert_eq!(pack.cost[d], sum);
                prop_assert!(sum <= budget);
            }
            prop_assert!(pack.keys.is_sorted());
            prop_assert!(pack.waits.iter().all(|&wait| wait < settings.pool_size as u64));
        }
        let mut keys: Vec<usize> = packs.into_iter().flat_map(|pack| pack.keys).collect();
        keys.sort_unstable();
        prop_assert_eq!(keys, (0..costs.len()).collect::<Vec<_>>());
    }

    #[test]
    fn a_pack_goes_when_the_pool_is_full_or_early_when_it_fills_a_budget(
        (budgets, costs) in stream(), settings in settings(),
    ) {
        let mut packer = Packer::new(named(&budgets), settings).unwrap();
        let mut arrived = Vec::new();
        let mut packs = 0;
        for (key, cost) in costs.iter().enumerate() {
            arrived.push(packs);
            let held = packer.len() + 1;
            let pack = packer.push(key, cost).unwrap();
            let is_full = held == settings.pool_size;
            prop_assert_eq!(packer.budgets().names().len(), budgets.len());
            let Some(pack) = pack else {
                prop_assert!(!is_full);
                continue;
            };
            let left: Vec<u64> = budgets.iter().zip(&pack.cost).map(|(b, c)| b - c).collect();
            if !is_full {
                prop_assert!(settings.early && held * 4 >= settings.pool_size * 3);
                prop_assert!(left.iter().zip(&budgets).any(|(left, b)| *left <= b / 4096));
            }
            // Nothing is left behind that would still fit, and waits count the packs in between.
            for &key in packer.keys() {
                prop_assert!(costs[key].iter().zip(&left).any(|(cost, left)| cost > left));
            }
            let waits: Vec<u64> = pack.keys.iter().map(|&key| packs - arrived[key]).collect();
            prop_assert_eq!(pack.waits, waits);
            packs += 1;
            prop_assert_eq!(packer.counters().packs, packs);
            prop_assert_eq!(packer.counters().pushed, key as u64 + 1);
        }
    }

    #[test]
    fn a_restored_packer_goes_on_the_same(
        (budgets, costs) in stream(), settings in settings(), stop in 0usize..60,
    ) {
        let stop = stop.min(costs.len());
        let mut whole = Packer::new(named(&budgets), settings).unwrap();
        for (key, cost) in costs[..stop].iter().enumerate() {
            whole.push(key, cost).unwrap();
        }
        let mut resumed = Packer::new(named(&budgets), settings).unwrap();
        let state = State {
            keys: whole.keys().to_vec(),
            arrivals: whole.arrivals().to_vec(),
            costs: whole.costs().to_vec(),
            counters: whole.counters(),
        };
        resumed.restore(state).unwrap();
        for (key, cost) in costs.iter().enumerate().skip(stop) {
            prop_assert_eq!(whole.push(key, cost).unwrap(), resumed.push(key, cost).unwrap());
        }
        while let Some(pack) = whole.pop() {
            prop_assert!(!pack.keys.is_empty());
            prop_assert_eq!(Some(pack), resumed.pop());
        }
        prop_assert_eq!(whole.counters(), resumed.counters());
    }
}

#[test]
fn the_largest_numbers_do_not_overflow() {
    let settings = Settings {
        pool_size: 4_096,
        ..Settings::default()
    };
    let mut packer = Packer::new(named(&[MAX_BUDGET; 64]), settings).unwrap();
    for key in 0..4_200u64 {
        packer.push(key, &[MAX_BUDGET; 64]).unwrap();
    }
    assert_eq!(packer.counters().packs, 105);
    assert_eq!(packer.pop().unwrap().keys, [105]);
}
