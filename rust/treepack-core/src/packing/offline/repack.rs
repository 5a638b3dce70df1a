//! Packs taken apart and made again, a few at a time, so that emptiness gathers in few of them.

use std::cmp::Reverse;

use super::super::{Budgets, Packer, Search, Settings};
use super::{OfflineSettings, PackList};
use crate::permutation::mix64;

/// Most rounds; in each, about as many packs are taken apart as there are.
pub(super) const MAX_ROUNDS: usize = 64;

/// Rounds in a row that save no pack, after which it no longer pays.
const MOST_IDLE: usize = 24;

/// Packs that are taken apart together, and the examples that they may have: as many as a pool
/// whose members are all candidates.
const GROUP: usize = 9;
const MOST_EXAMPLES: usize = 48;

#[derive(Debug)]
pub(super) struct Repack {
    packs: Vec<Vec<u32>>,
    /// Packs with room in the scarce budget, as of the start of the round.
    poor: Vec<usize>,
    budgets: Vec<u64>,
    scarce: usize,
    /// Length of the windows that no pack may leave.
    window: usize,
    packer: Option<Packer<u32>>,
    seed: u64,
    draws: u64,
    round: usize,
    trial: usize,
    /// Rounds in a row that saved no pack.
    idle: usize,
    saved: bool,
}

impl Repack {
    pub fn new(list: &PackList, budgets: &Budgets, costs: &[u32], by: OfflineSettings) -> Self {
        let sizes = budgets.sizes().to_vec();
        let named = budgets
            .names()
            .iter()
            .cloned()
            .zip(budgets.sizes().iter().copied());
        let settings = Settings {
            pool_size: 4 * MOST_EXAMPLES,
            search: Search {
                steps: 8_000,
                steps_after_full: Some(2_000),
                ..Search::default()
            },
            ..Settings::default()
        };
        let packs = (0..list.len()).map(|i| list.get(i).to_vec()).collect();
        let mut repack = Self {
            packs,
            poor: Vec::new(),
            scarce: scarce(&sizes, costs, &list.members),
            budgets: sizes,
            window: by.window,
            packer: Packer::new(named.collect(), settings).ok(),
            seed: mix64(by.seed ^ 0x5eed),
            draws: 0,
            round: 0,
            trial: 0,
            idle: 0,
            saved: false,
        };
        repack.begin_round(costs);
        repack
    }

    pub fn rounds(&self) -> usize {
        self.round
    }

    pub fn give_back(&self, list: &mut PackList) {
        list.members.clear();
        list.ends.clear();
        for pack in &self.packs {
            list.push(pack);
        }
    }

    /// Takes packs apart with about `count` examples in all; whether there is more to do.
    pub fn advance(&mut self, costs: &[u32], count: usize) -> bool {
        let mut done = 0;
        while done < count.max(1) {
            if self.round >= MAX_ROUNDS || self.idle >= MOST_IDLE || self.poor.is_empty() {
                return false;
            }
            done += self.repack_some(costs).max(1);
            self.trial += 1;
            if self.trial * GROUP >= self.packs.len() {
                self.idle = if self.saved { 0 } else { self.idle + 1 };
                self.round += 1;
                self.begin_round(costs);
            }
        }
        true
    }

    fn begin_round(&mut self, costs: &[u32]) {
        self.packs.retain(|pack| !pack.is_empty());
        (self.trial, self.saved) = (0, false);
        let tolerance = self.budgets[self.scarce] / 4096;
        self.poor = (0..self.packs.len())
            .filter(|&i| self.room(&self.packs[i], costs) > tolerance)
            .collect();
    }

    fn draw(&mut self, below: usize) -> usize {
        self.draws += 1;
        let number = mix64(self.seed.wrapping_add(self.draws)) % (below as u64).max(1);
        usize::try_from(number).unwrap_or(0)
    }

    /// What a pack leaves empty of the scarce budget.
    fn room(&self, pack: &[u32], costs: &[u32]) -> u64 {
        let width = self.budgets.len();
        let used: u64 = pack
            .iter()
            .map(|&i| u64::from(costs[i as usize * width + self.scarce]))
            .sum();
        self.budgets[self.scarce].saturating_sub(used)
    }

    /// How unevenly usable room is spread: the more, the sooner a pack can be saved.
    ///
    /// Room in one budget is of no use where another one is full, so a pack's is the least.
    fn score(&self, packs: &[Vec<u32>], costs: &[u32]) -> u64 {
        let width = self.budgets.len();
        let of = |pack: &Vec<u32>| {
            let left = (0..width).map(|d| {
                let sizes = pack
                    .iter()
                    .map(|&i| u64::from(costs[i as usize * width + d]));
                (self.budgets[d].saturating_sub(sizes.sum()) << 16) / self.budgets[d]
            });
            let least = left.min().unwrap_or(0);
            least * least
        };
        packs.iter().map(of).sum()
    }

    /// Takes a few packs apart, half of them poor ones; keeps what is better.
    ///
    /// Returns the number of examples.
    fn repack_some(&mut self, costs: &[u32]) -> usize {
        let group = self.pick();
        let old: Vec<Vec<u32>> = group.iter().map(|&i| self.packs[i].clone()).collect();
        let count = old.iter().map(Vec::len).sum();
        if group.len() < 2 {
            return count;
        }
        let new = self.pack_again(&old, costs);
        let is_better = new.len() < old.len()
            || (new.len() == old.len() && self.score(&new, costs) > self.score(&old, costs));
        if is_better {
            self.saved |= new.len() < old.len();
            let mut new = new.into_iter();
            for &i in &group {
                self.packs[i] = new.next().unwrap_or_default();
            }
        }
        count
    }

    /// Numbers of a few packs of one window.
    fn pick(&mut self) -> Vec<usize> {
        let (n, poor) = (self.packs.len(), self.poor.len());
        let mut group: Vec<usize> = Vec::new();
        let (mut examples, mut home) = (0, None);
        for number in 0..GROUP {
            let draw = self.draw(if number % 2 == 0 { poor } else { n });
            let i = if number % 2 == 0 {
                self.poor[draw]
            } else {
                draw
            };
            let Some(&first) = self.packs[i].first() else {
                continue;
            };
            let window = first as usize / self.window;
            let len = self.packs[i].len();
            if *home.get_or_insert(window) == window
                && !group.contains(&i)
                && examples + len <= MOST_EXAMPLES
            {
                examples += len;
                group.push(i);
            }
        }
        group
    }

    fn pack_again(&mut self, old: &[Vec<u32>], costs: &[u32]) -> Vec<Vec<u32>> {
        let width = self.budgets.len();
        let budgets = &self.budgets;
        let cost = |i: u32| &costs[i as usize * width..(i as usize + 1) * width];
        let hardness = |i: u32| {
            let shares = cost(i).iter().zip(budgets);
            shares.map(|(&c, b)| (u64::from(c) << 16) / b).max()
        };
        let mut members: Vec<u32> = old.concat();
        members.sort_by_key(|&i| (Reverse(hardness(i)), i));
        let mut new = Vec::new();
        let Some(packer) = self.packer.as_mut() else {
            return old.to_vec();
        };
        for &i in &members {
            let sizes: Vec<u64> = cost(i).iter().map(|&c| u64::from(c)).collect();
            let pack = packer.push(i, &sizes);
            new.extend(pack.ok().flatten().map(|pack| pack.keys));
        }
        while let Some(pack) = packer.pop() {
            new.push(pack.keys);
        }
        new
    }
}

/// The budget that the examples need most of.
fn scarce(budgets: &[u64], costs: &[u32], members: &[u32]) -> usize {
    let width = budgets.len();
    let demand = |d: usize| {
        let sizes = members
            .iter()
            .map(|&i| u128::from(costs[i as usize * width + d]));
        (sizes.sum::<u128>() << 16) / u128::from(budgets[d])
    };
    (0..width).rev().max_by_key(|&d| demand(d)).unwrap_or(0)
}
