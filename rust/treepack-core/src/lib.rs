//! The core of treepack: what goes into a packed row, and what each token of it may see.
//!
//! Two rooms that share nothing but integers:
//!
//! - [`packing`] chooses, from a small pool, the examples that together fill one row under any
//!   number of budgets. It sees keys and costs, never payload.
//! - [`tree`] turns node lengths and parents of a packed row into the compressed attention mask,
//!   the list of varlen attention calls, the positions and the training targets.
//!
//! [`permutation`] is the seekable shuffle that orders a stream.
//!
//! There are no threads, no clocks and no random numbers that depend on a release: the same input
//! gives the same output on every machine.

pub mod packing;
pub mod permutation;
pub mod tree;
