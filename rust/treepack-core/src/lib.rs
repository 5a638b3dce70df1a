//! The core of treepack: what goes into a packed row, and what each token of it may see.
//!
//! - [`packing`] chooses, from a small pool, the examples that together fill one row under any
//!   number of budgets. It sees keys and costs, never payload.
//! - [`mask`] turns node lengths and parents of a packed row into its compressed attention mask,
//!   position ids and training targets.
//! - [`attention`] turns a mask into what attention kernels take: varlen calls, with or without a
//!   sliding window, and block lists.
//! - [`permutation`] is the seekable shuffle that orders a stream.
//! - [`room`] is memory that there may not be.
//!
//! `attention` uses `mask`; apart from that the modules know nothing of each other.
//!
//! There are no threads, no clocks and no random numbers that depend on a release: the same input
//! gives the same output on every machine.

pub mod attention;
pub mod mask;
pub mod packing;
pub mod permutation;
pub mod room;
