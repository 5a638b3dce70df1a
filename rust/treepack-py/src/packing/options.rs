//! Options of a packer that are words.

use pyo3::PyResult;
use treepack_core::packing::{Effort, Order, Oversize, Solver};

use crate::errors::BudgetError;

/// The spellings of an option, in order of its variants.
pub struct Choice<T: 'static>(pub &'static [(&'static str, T)]);

pub const OVERSIZE: Choice<Oversize> = Choice(&[
    ("raise", Oversize::Raise),
    ("drop", Oversize::Drop),
    ("alone", Oversize::Alone),
]);

pub const SOLVER: Choice<Solver> = Choice(&[
    ("anchors", Solver::Anchors),
    ("first_fit", Solver::FirstFit),
]);

pub const ORDER: Choice<Order> = Choice(&[("shuffled", Order::Shuffled), ("kept", Order::Kept)]);

pub const EFFORT: Choice<Effort> = Choice(&[("fast", Effort::Fast), ("best", Effort::Best)]);

impl<T: Copy + PartialEq> Choice<T> {
    /// The variant that is spelt so.
    pub fn read(&self, option: &str, value: &str) -> PyResult<T> {
        let found = self.0.iter().find(|(name, _)| *name == value);
        found.map(|(_, variant)| *variant).ok_or_else(|| {
            let names: Vec<_> = self.0.iter().map(|(name, _)| name).collect();
            BudgetError::new_err(format!("{option} must be one of {names:?}, got {value:?}"))
        })
    }

    /// The spelling of a variant.
    pub fn name(&self, variant: T) -> &'static str {
        self.0
            .iter()
            .find(|(_, v)| *v == variant)
            .map_or("", |(name, _)| name)
    }
}
