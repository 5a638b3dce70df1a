//! From a mask to what attention kernels take: varlen calls, or lists of blocks.
//!
//! - [`TreeMask::plan`](crate::mask::TreeMask::plan): varlen calls whose disjoint union is the mask.
//! - [`TreeMask::window_plan`](crate::mask::TreeMask::window_plan): the same under a sliding window.
//! - [`TreeMask::block_lists`](crate::mask::TreeMask::block_lists): which blocks of the mask are
//!   empty, partly and wholly visible.
//!
//! How a plan is laid out is written down once, at [`Plan`]; `docs/reference/plan.md` draws one.

mod blocks;
mod layout;
mod plan;
mod window;
mod writer;

pub use blocks::{BlockLists, BlockTable};
pub use layout::{HostCall, HostHeader, Kind, Plan, ALIGN};
