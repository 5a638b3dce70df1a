//! Oldest first: the plain rule, fast and fair, that wastes more.

use super::super::pool::View;
use super::{Outcome, Select};

#[derive(Debug)]
pub(super) struct FirstFit;

impl Select for FirstFit {
    fn select(&mut self, view: &View<'_>, _: Outcome, marked: &mut [bool]) {
        let mut rest = view.budgets.to_vec();
        for (cost, marked) in view.costs.chunks_exact(rest.len()).zip(marked) {
            if cost.iter().zip(&rest).all(|(c, r)| c <= r) {
                *marked = true;
                rest.iter_mut().zip(cost).for_each(|(r, c)| *r -= c);
            }
        }
    }
}
