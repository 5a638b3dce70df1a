//! Laws of packing a whole table, without Python; `TREEPACK_CASES` says how many times as many cases.

use proptest::prelude::*;
use treepack_core::packing::{
    Budgets, Effort, Offline, OfflineSettings, Order, Oversize, PackError, MAX_BUDGET,
};

mod common;

fn settings() -> impl Strategy<Value = OfflineSettings> {
    let order = prop_oneof![Just(Order::Shuffled), Just(Order::Kept)];
    let effort = prop_oneof![3 => Just(Effort::Fast), 1 => Just(Effort::Best)];
    let oversize = prop_oneof![Just(Oversize::Drop), Just(Oversize::Alone)];
    (order, effort, oversize, 1usize..80, any::<(u64, bool)>()).prop_map(
        |(order, effort, oversize, window, (seed, early))| OfflineSettings {
            order,
            effort,
            window,
            seed,
            early,
            oversize,
        },
    )
}

/// Budgets, and costs of which a few are too large.
fn table() -> impl Strategy<Value = (Vec<u64>, Vec<u32>)> {
    let size = prop_oneof![1u64..10, 100u64..20_000, Just(MAX_BUDGET)];
    prop::collection::vec(size, 1..5).prop_flat_map(|budgets| {
        let one: Vec<_> = budgets
            .iter()
            .map(|&b| {
                let most = u32::try_from(b).unwrap();
                prop_oneof![20 => 1..=most, 40 => 1..=most.div_ceil(5), 1 => most..=u32::MAX]
            })
            .collect();
        let costs = prop::collection::vec(one, 0..90).prop_map(|costs| costs.concat());
        (Just(budgets), costs)
    })
}

fn named(budgets: &[u64]) -> Vec<(String, u64)> {
    let sizes = budgets.iter().enumerate();
    sizes.map(|(d, &size)| (format!("b{d}"), size)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(common::cases(500)))]

    #[test]
    fn every_example_leaves_once_within_budget_whatever_the_steps(
        (budgets, costs) in table(), settings in settings(), step in 1usize..40,
    ) {
        let limits = Budgets::new(named(&budgets)).unwrap();
        let mut offline = Offline::new(named(&budgets), costs.clone(), settings).unwrap();
        let mut whole = Offline::new(named(&budgets), costs.clone(), settings).unwrap();
        let mut last = 0;
        while offline.advance(step).unwrap() {
            let (done, total) = offline.progress();
            prop_assert!(last <= done && done <= total);
            last = done;
        }
        while whole.advance(usize::MAX).unwrap() {}
        prop_assert_eq!(offline.oversize(), whole.oversize());
        let (dropped, alone) = offline.oversize();
        let packs = offline.finish();
        prop_assert_eq!(&packs, &whole.finish());

        let cost = |i: usize| -> Vec<u64> {
            costs[i * budgets.len()..(i + 1) * budgets.len()].iter().map(|&c| u64::from(c)).collect()
        };
        let (mut seen, mut too_large) = (Vec::new(), 0);
        for pack in (0..packs.len()).map(|i| packs.get(i)) {
            let mut sum = vec![0; budgets.len()];
            for &i in pack {
                sum.iter_mut().zip(cost(i as usize)).for_each(|(s, c)| *s += c);
                seen.push(i as usize);
            }
            let fits = limits.holds(&sum);
            too_large += u64::from(!fits);
            prop_assert!(fits || (pack.len() == 1 && settings.oversize == Oversize::Alone));
            let windows = pack.iter().map(|&i| i as usize / settings.window);
            let is_of_one = windows.clone().min() == windows.max();
            prop_assert!(is_of_one || settings.order == Order::Kept);
        }
        prop_assert_eq!(too_large, alone);
        seen.sort_unstable();
        let all = 0..costs.len() / budgets.len();
        let kept = all.filter(|&i| dropped == 0 || limits.holds(&cost(i)));
        prop_assert_eq!(seen, kept.collect::<Vec<_>>());
    }
}

#[test]
fn what_cannot_be_packed_is_rejected() {
    let settings = OfflineSettings {
        order: Order::Shuffled,
        effort: Effort::Fast,
        window: 4,
        seed: 0,
        early: false,
        oversize: Oversize::Raise,
    };
    let make = |costs: &[u32], settings| Offline::new(named(&[9, 9]), costs.to_vec(), settings);
    assert!(matches!(
        make(&[1, 2, 3], settings),
        Err(PackError::CostCount { got: 1, want: 2 })
    ));
    let no_window = OfflineSettings {
        window: 0,
        ..settings
    };
    assert!(matches!(
        make(&[1, 2], no_window),
        Err(PackError::Setting { name: "window", .. })
    ));
    let too_large = vec![("b".to_owned(), u64::MAX)];
    assert!(matches!(
        Offline::new(too_large, vec![1, 2, 3], settings),
        Err(PackError::BudgetRange { .. })
    ));
    assert!(make(&[], settings).unwrap().is_empty());
    let mut zero = make(&[1, 2, 0, 0], settings).unwrap();
    assert_eq!(zero.len(), 2);
    let (example, error) = zero.advance(9).unwrap_err();
    assert_eq!(example, 1);
    assert!(matches!(error, PackError::CostZero(_)));
    let mut large = make(&[1, 2, 10, 0], settings).unwrap();
    assert!(matches!(
        large.advance(9),
        Err((1, PackError::Oversize { .. }))
    ));
}
