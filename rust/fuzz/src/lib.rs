//! Cases of packing made of bytes, and the laws that hold for all of them.
//!
//! `cargo +nightly fuzz run stream` and `... table` from `rust/fuzz`, guided by coverage; or, with
//! nothing but a stable compiler, `cargo run --release --bin driver -- 1000000`.

use std::collections::BTreeSet;

use arbitrary::{Arbitrary, Result, Unstructured};
use treepack_core::packing::{
    Budgets, Effort, Offline, OfflineSettings, Order, Oversize, PackError, Packer, Search,
    Settings, Solver, State, MAX_BUDGET,
};

/// Sizes of budgets and examples: mostly of one kind in a case, so that they go together.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Scale {
    Tiny,
    Row,
    Largest,
    /// As many as a packer need not take.
    Any,
}

impl Scale {
    fn size(self, bits: u64) -> u64 {
        match self {
            Self::Tiny => 1 + bits % 12,
            Self::Row => 1 + bits % 20_000,
            Self::Largest => MAX_BUDGET - bits % 3,
            Self::Any if bits % 8 == 0 => bits,
            Self::Any => 1 + (bits >> 8) % MAX_BUDGET,
        }
    }
}

/// What a cost is, beside a budget.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Share {
    Nothing,
    Small(u16),
    Part(u16),
    Whole,
    Over(u8),
}

impl Share {
    fn of(self, budget: u64) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Small(part) => ((u128::from(budget / 16) * u128::from(part)) >> 16) as u64,
            Self::Part(part) => ((u128::from(budget) * u128::from(part)) >> 16) as u64,
            Self::Whole => budget,
            Self::Over(more) => budget.saturating_add(u64::from(more)),
        }
    }
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Policy {
    Raise,
    Drop,
    Alone,
}

impl From<Policy> for Oversize {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Raise => Self::Raise,
            Policy::Drop => Self::Drop,
            Policy::Alone => Self::Alone,
        }
    }
}

/// Budgets, and as many examples as there are bytes for.
#[derive(Debug, Clone)]
struct Costs {
    budgets: Vec<(Scale, u64)>,
    examples: Vec<Vec<Share>>,
}

impl<'a> Arbitrary<'a> for Costs {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let width = match u.int_in_range(0..=60)? {
            0 => 0,
            1 => 70,
            2 => 12,
            n => 1 + n % 5,
        };
        let budgets = (0..width).map(|_| u.arbitrary()).collect::<Result<_>>()?;
        let mut examples = Vec::new();
        while width > 0 && !u.is_empty() && examples.len() < 400 {
            examples.push((0..width).map(|_| u.arbitrary()).collect::<Result<_>>()?);
        }
        Ok(Self { budgets, examples })
    }
}

impl Costs {
    fn budgets(&self) -> Vec<(String, u64)> {
        let sizes = self.budgets.iter().map(|&(scale, bits)| scale.size(bits));
        let named = sizes.enumerate().map(|(d, size)| (format!("b{d}"), size));
        named.collect()
    }

    /// The cost of each example; one in 64 may cost nothing, which is an error.
    fn costs(&self, budgets: &[(String, u64)]) -> Vec<Vec<u64>> {
        let of = |(i, shares): (usize, &Vec<Share>)| {
            let sizes = shares.iter().zip(budgets);
            let mut cost: Vec<u64> = sizes.map(|(share, &(_, size))| share.of(size)).collect();
            if i % 64 < 63 && cost.iter().all(|&c| c == 0) {
                cost[0] = 1;
            }
            cost
        };
        self.examples.iter().enumerate().map(of).collect()
    }
}

/// What is done with a packer next.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Step {
    Push,
    Pop,
    Restore,
}

/// A packer and what is done with it.
#[derive(Debug, Clone, Arbitrary)]
pub struct Stream {
    pool_size: u8,
    early: bool,
    is_first_fit: bool,
    anchors: u8,
    steps: u16,
    gamma: u16,
    age: u16,
    policy: Policy,
    /// Between the pushes; all others are pushes.
    steps_between: [(u8, Step); 8],
    costs: Costs,
}

impl Stream {
    fn settings(&self) -> Settings {
        Settings {
            pool_size: usize::from(self.pool_size),
            early: self.early,
            oversize: self.policy.into(),
            solver: if self.is_first_fit {
                Solver::FirstFit
            } else {
                Solver::Anchors
            },
            search: Search {
                anchors: u32::from(self.anchors % 70),
                steps: u32::from(self.steps),
                gamma: u32::from(self.gamma % 5_000),
                age: u32::from(self.age % 5_000),
                steps_after_full: None,
            },
        }
    }

    fn do_all(&self, run: &mut Run) {
        for (key, cost) in run.costs.clone().iter().enumerate() {
            run.push(key, cost);
            for &(number, step) in &self.steps_between {
                if usize::from(number) == key {
                    match step {
                        Step::Push => {}
                        Step::Pop => run.pop(),
                        Step::Restore => run.restore(),
                    }
                }
            }
        }
        while !run.packer.is_empty() {
            run.pop();
        }
    }
}

/// A packer at work, one that was restored from its state, and what both have done.
struct Run {
    budgets: Vec<(String, u64)>,
    settings: Settings,
    costs: Vec<Vec<u64>>,
    packer: Packer<usize>,
    restored: Packer<usize>,
    gone: BTreeSet<usize>,
    dropped: u64,
}

impl Run {
    fn push(&mut self, key: usize, cost: &[u64]) {
        let held = self.packer.len();
        let pack = self.packer.push(key, cost);
        assert_eq!(pack, self.restored.push(key, cost), "a restored packer");
        let budgets = self.packer.budgets();
        match pack {
            Ok(Some(pack)) if pack.is_oversize => {
                assert!(!budgets.holds(cost) && pack.keys == [key]);
                assert_eq!(self.settings.oversize, Oversize::Alone);
                self.gone.insert(key);
            }
            Ok(Some(pack)) => self.check(&pack),
            Ok(None) if budgets.holds(cost) => assert_eq!(self.packer.len(), held + 1),
            Ok(None) => {
                assert_eq!(self.settings.oversize, Oversize::Drop);
                self.dropped += 1;
                self.gone.insert(key);
            }
            Err(error) => {
                let is_large = matches!(error, PackError::Oversize { .. });
                let is_raised = self.settings.oversize == Oversize::Raise && is_large;
                assert!(
                    is_raised || matches!(error, PackError::CostZero(_)),
                    "{error}"
                );
                assert_eq!(self.packer.len(), held);
                self.gone.insert(key);
            }
        }
        assert!(self.packer.len() < self.settings.pool_size);
    }

    fn pop(&mut self) {
        let pack = self.packer.pop();
        assert_eq!(pack, self.restored.pop(), "a restored packer");
        if let Some(pack) = pack {
            self.check(&pack);
        }
    }

    fn restore(&mut self) {
        let state = State {
            keys: self.packer.keys().to_vec(),
            arrivals: self.packer.arrivals().to_vec(),
            costs: self.packer.costs().to_vec(),
            counters: self.packer.counters(),
        };
        self.restored = Packer::new(self.budgets.clone(), self.settings).unwrap();
        self.restored.restore(state).unwrap();
    }

    fn check(&mut self, pack: &treepack_core::packing::Pack<usize>) {
        assert!(!pack.keys.is_empty() && pack.keys.is_sorted());
        for (d, &(_, budget)) in self.budgets.iter().enumerate() {
            let sum: u64 = pack.keys.iter().map(|&key| self.costs[key][d]).sum();
            assert!(sum == pack.cost[d] && sum <= budget);
        }
        for &key in &pack.keys {
            assert!(self.gone.insert(key), "example {key} left twice");
        }
        let most = self.settings.pool_size as u64;
        assert!(pack.waits.iter().all(|&wait| wait < most));
    }
}

/// Every example leaves once, in budget and in time, and a restored packer goes on the same.
///
/// Returns whether the settings were taken.
pub fn check_stream(stream: &Stream) -> bool {
    let (budgets, settings) = (stream.costs.budgets(), stream.settings());
    let make = || Packer::new(budgets.clone(), settings);
    let (Ok(packer), Ok(restored)) = (make(), make()) else {
        return false;
    };
    let costs = stream.costs.costs(&budgets);
    let mut run = Run {
        budgets,
        settings,
        costs,
        packer,
        restored,
        gone: BTreeSet::new(),
        dropped: 0,
    };
    stream.do_all(&mut run);
    assert_eq!(run.gone.len(), run.costs.len(), "an example was lost");
    assert_eq!(run.packer.counters().dropped, run.dropped);
    true
}

/// A table that is packed at once.
#[derive(Debug, Clone, Arbitrary)]
pub struct Table {
    is_kept: bool,
    /// One in eight searches long.
    effort: u8,
    window: u8,
    seed: u64,
    early: bool,
    policy: Policy,
    step: u8,
    costs: Costs,
}

impl Table {
    fn settings(&self) -> OfflineSettings {
        OfflineSettings {
            order: if self.is_kept {
                Order::Kept
            } else {
                Order::Shuffled
            },
            effort: if self.effort % 8 == 0 {
                Effort::Best
            } else {
                Effort::Fast
            },
            window: usize::from(self.window),
            seed: self.seed,
            early: self.early,
            oversize: self.policy.into(),
        }
    }
}

/// Every example is in one pack or dropped, no pack exceeds a budget or leaves its window.
///
/// Returns whether the table was packed.
pub fn check_table(table: &Table) -> bool {
    let (budgets, settings) = (table.costs.budgets(), table.settings());
    let costs = table.costs.costs(&budgets);
    let flat: Vec<u32> = costs
        .iter()
        .flatten()
        .map(|&c| u32::try_from(c).unwrap_or(u32::MAX))
        .collect();
    if budgets.is_empty() {
        return false;
    }
    let Ok(mut offline) = Offline::new(budgets.clone(), flat.clone(), settings) else {
        return false;
    };
    let cost = |i: usize| -> Vec<u64> {
        let own = &flat[i * budgets.len()..(i + 1) * budgets.len()];
        own.iter().map(|&c| u64::from(c)).collect()
    };
    let limits = Budgets::new(budgets.clone()).unwrap();
    loop {
        match offline.advance(usize::from(table.step)) {
            Ok(true) => {}
            Ok(false) => break,
            Err((example, error)) => {
                let is_zero = cost(example).iter().all(|&c| c == 0);
                let is_large = !limits.holds(&cost(example));
                let is_raised = settings.oversize == Oversize::Raise && is_large;
                assert!(is_zero || is_raised, "{error}");
                return false;
            }
        }
    }
    let (dropped, alone) = offline.oversize();
    let packs = offline.finish();
    let (mut gone, mut too_large) = (BTreeSet::new(), 0);
    for pack in (0..packs.len()).map(|i| packs.get(i)) {
        let mut sum = vec![0; budgets.len()];
        for &i in pack {
            assert!(gone.insert(i), "example {i} is in two packs");
            sum.iter_mut()
                .zip(cost(i as usize))
                .for_each(|(s, c)| *s += c);
        }
        let is_large = !limits.holds(&sum);
        too_large += u64::from(is_large);
        assert!(!is_large || (pack.len() == 1 && settings.oversize == Oversize::Alone));
        let windows: BTreeSet<_> = pack.iter().map(|&i| i as usize / settings.window).collect();
        assert!(windows.len() == 1 || settings.order == Order::Kept);
    }
    assert_eq!(too_large, alone);
    assert_eq!(
        gone.len() as u64 + dropped,
        costs.len() as u64,
        "an example was lost"
    );
    true
}
