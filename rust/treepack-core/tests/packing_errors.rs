//! Every way in which budgets, settings, costs and states of a packer can be wrong, and its limits.

use treepack_core::packing::{
    Budgets, Counters, Oversize, PackError, Packer, Search, Settings, State, MAX_BUDGET,
    MAX_BUDGETS, MAX_POOL,
};

fn named(budgets: &[u64]) -> Vec<(String, u64)> {
    let names = (0..budgets.len()).map(|d| format!("b{d}"));
    names.zip(budgets.iter().copied()).collect()
}

#[test]
fn a_cost_that_no_pack_holds_is_rejected_and_changes_nothing() {
    let mut packer = Packer::new(named(&[10, 4]), Settings::default()).unwrap();
    packer.push("a", &[3, 1]).unwrap();
    let oversize = |name: &str, size, limit| PackError::Oversize {
        name: name.into(),
        size,
        limit,
    };
    let rejected = [
        (vec![11, 1], oversize("b0", 11, 10)),
        (vec![10, 5], oversize("b1", 5, 4)),
        (vec![0, 0], PackError::CostZero("b0, b1".into())),
        (vec![1], PackError::CostCount { got: 1, want: 2 }),
    ];
    for (cost, error) in rejected {
        assert_eq!(packer.check(&cost), Err(error.clone()));
        assert_eq!(packer.push("b", &cost), Err(error));
        assert_eq!((packer.len(), packer.counters().pushed), (1, 1));
    }
    assert_eq!(packer.check(&[10, 4]), Ok(()));
    assert_eq!(packer.check(&[0, 1]), Ok(()));
}

#[test]
fn budgets_out_of_range_are_rejected_and_the_last_ones_in_range_are_not() {
    let error = |budgets: Vec<(String, u64)>| Budgets::new(budgets).unwrap_err();
    assert_eq!(error(vec![]), PackError::NoBudgets);
    assert_eq!(
        error(named(&[1; MAX_BUDGETS + 1])),
        PackError::ManyBudgets(65)
    );
    let twice = vec![("a".into(), 1), ("b".into(), 3), ("a".into(), 2)];
    assert_eq!(error(twice), PackError::BudgetTwice("a".into()));
    for size in [0, MAX_BUDGET + 1] {
        let name = "b1".into();
        assert_eq!(
            error(named(&[7, size])),
            PackError::BudgetRange { name, size }
        );
    }
    let budgets = Budgets::new(named(&[MAX_BUDGET; MAX_BUDGETS])).unwrap();
    assert_eq!(budgets.sizes(), [1 << 31; 64]);
    assert_eq!((&*budgets.names()[0], &*budgets.names()[63]), ("b0", "b63"));
}

#[test]
fn settings_out_of_range_are_rejected_and_the_last_ones_in_range_are_not() {
    type Set = fn(&mut Settings, u64);
    fn small(value: u64) -> u32 {
        u32::try_from(value).unwrap()
    }
    let limits: [(&str, u64, u64, Set); 5] = [
        ("pool_size", 1, MAX_POOL as u64, |s, x| {
            s.pool_size = usize::try_from(x).unwrap();
        }),
        ("anchors", 1, 64, |s, x| s.search.anchors = small(x)),
        ("steps", 1, 1 << 24, |s, x| s.search.steps = small(x)),
        ("gamma", 0, 4096, |s, x| s.search.gamma = small(x)),
        ("age", 0, 4096, |s, x| s.search.age = small(x)),
    ];
    assert_eq!(MAX_POOL, 32_768);
    for (name, min, max, set) in limits {
        let make = |value| {
            let mut settings = Settings::default();
            set(&mut settings, value);
            Packer::<()>::new(named(&[1]), settings)
        };
        for value in [min, max] {
            let mut expected = Settings::default();
            set(&mut expected, value);
            assert_eq!(make(value).unwrap().settings(), &expected);
        }
        for value in [min.checked_sub(1), Some(max + 1)].into_iter().flatten() {
            let error = PackError::Setting {
                name,
                value,
                min,
                max,
            };
            assert_eq!(make(value).unwrap_err(), error);
        }
    }
    assert_eq!(
        Settings::default().search,
        Search {
            anchors: 8,
            steps: 4_000,
            gamma: 16,
            age: 16,
            steps_after_full: None,
        }
    );
}

/// A packer for three examples at most, of which two packs have gone.
fn state() -> State<&'static str> {
    State {
        keys: vec!["a", "b"],
        arrivals: vec![1, 2],
        costs: vec![4, 1, 9, 2],
        counters: Counters {
            pushed: 7,
            packs: 2,
            ..Counters::default()
        },
    }
}

/// The message with which a packer of that shape rejects a changed state; it must not change.
fn rejected(change: impl FnOnce(&mut State<&'static str>)) -> String {
    let settings = Settings {
        pool_size: 3,
        ..Settings::default()
    };
    let mut packer = Packer::new(named(&[10, 4]), settings).unwrap();
    packer.push("x", &[1, 1]).unwrap();
    let mut state = state();
    change(&mut state);
    let error = packer.restore(state).unwrap_err();
    assert_eq!((packer.keys(), packer.counters().pushed), (&["x"][..], 1));
    error.to_string()
}

#[test]
fn a_good_state_is_taken_over_whole() {
    let settings = Settings {
        pool_size: 3,
        ..Settings::default()
    };
    let mut packer = Packer::new(named(&[10, 4]), settings).unwrap();
    packer.push("x", &[1, 1]).unwrap();
    packer.restore(state()).unwrap();
    let State {
        keys,
        arrivals,
        costs,
        counters,
    } = state();
    assert_eq!(
        (packer.keys(), packer.arrivals()),
        (&keys[..], &arrivals[..])
    );
    assert_eq!((packer.costs(), packer.counters()), (&costs[..], counters));
    assert_eq!((packer.len(), packer.is_empty()), (2, false));
}

#[test]
fn a_state_of_lists_of_unequal_length_is_rejected() {
    let counts = "2 keys, 1 arrivals and 4 costs for 2 budgets";
    assert!(rejected(|state| state.arrivals.truncate(1)).contains(counts));
    for len in [0, 2, 3] {
        let counts = format!("2 keys, 2 arrivals and {len} costs for 2 budgets");
        assert!(rejected(|state| state.costs.truncate(len)).contains(&counts));
    }
    let counts = "1 keys, 2 arrivals and 4 costs for 2 budgets";
    assert!(rejected(|state| state.keys.truncate(1)).contains(counts));
}

#[test]
fn a_state_of_a_full_pool_is_rejected() {
    let message = rejected(|state| {
        state.keys.push("c");
        state.arrivals.push(2);
        state.costs.extend([1, 1]);
    });
    assert!(message.contains("holds 3 examples"), "{message}");
    assert!(message.contains("a pool of 3 holds fewer"), "{message}");
}

#[test]
fn a_state_with_a_cost_that_no_pack_holds_is_rejected() {
    let message = rejected(|state| state.costs[2] = 11);
    assert!(
        message.contains("example number 1 of the state has 11 b0, pack budget is 10"),
        "{message}"
    );
}

#[test]
fn a_state_with_arrivals_that_no_packer_leaves_is_rejected() {
    let message = |number, arrival| {
        format!(
            "example number {number} of the state arrived at pack {arrival}, which no packer with \
             pool_size 3 leaves after 2 packs"
        )
    };
    // Out of order, after the last pack, and longer ago than any example waits.
    assert_eq!(rejected(|state| state.arrivals = vec![2, 1]), message(1, 1));
    assert_eq!(rejected(|state| state.arrivals[1] = 3), message(1, 3));
    assert_eq!(rejected(|state| state.arrivals = vec![1, 0]), message(1, 0));
    let late = |state: &mut State<_>| state.arrivals = vec![0, 0];
    assert_eq!(rejected(late), message(1, 0));
    let later = |state: &mut State<_>| {
        state.counters.packs = 3;
        state.arrivals = vec![0, 3];
    };
    assert!(rejected(later).contains("example number 0 of the state arrived at pack 0"));
}

#[test]
fn what_to_do_with_oversize_examples_is_a_policy() {
    for oversize in [Oversize::Raise, Oversize::Drop, Oversize::Alone] {
        let settings = Settings {
            oversize,
            ..Settings::default()
        };
        let mut packer = Packer::new(named(&[10, 4]), settings).unwrap();
        packer.push("a", &[3, 1]).unwrap();
        let pushed = packer.push("b", &[3, 5]);
        let counters = packer.counters();
        let counts = (counters.pushed, counters.dropped, counters.alone);
        match oversize {
            Oversize::Raise => {
                assert!(matches!(pushed, Err(PackError::Oversize { .. })));
                assert_eq!(counts, (1, 0, 0));
            }
            Oversize::Drop => {
                assert_eq!(pushed, Ok(None));
                assert_eq!(counts, (2, 1, 0));
            }
            Oversize::Alone => {
                let pack = pushed.unwrap().unwrap();
                assert_eq!((pack.keys, pack.waits), (vec!["b"], vec![0]));
                assert_eq!((pack.cost, pack.is_oversize), (vec![3, 5], true));
                assert_eq!(counts, (2, 0, 1));
            }
        }
        // It leaves nothing behind, and what is bad for another reason stays an error.
        assert_eq!((packer.keys(), counters.packs), (&["a"][..], 0));
        assert!(packer.push("c", &[0, 0]).is_err());
        assert!(packer.push("c", &[11]).is_err());
        assert!(!packer.pop().unwrap().is_oversize);
        assert_eq!(packer.counters().packs, 1);
    }
}
