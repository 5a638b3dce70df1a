//! From a stream of keys and costs to packs that fill a row.
//!
//! A [`Packer`] holds a small pool of examples in order of arrival. When the pool is full, an
//! arrival lets one pack go: the examples that together fill every budget best. No example waits
//! longer than `pool_size - 1` packs, no pack exceeds a budget, and none is lost.
//!
//! ```
//! use treepack_core::packing::{Packer, Settings};
//!
//! let budgets = vec![("tokens".into(), 100), ("crops".into(), 8)];
//! let mut packer = Packer::new(budgets, Settings { pool_size: 3, ..Settings::default() }).unwrap();
//! assert!(packer.push("a", &[60, 2]).unwrap().is_none());
//! assert!(packer.push("b", &[70, 1]).unwrap().is_none());
//! let pack = packer.push("c", &[40, 6]).unwrap().unwrap();
//! assert_eq!((pack.keys, pack.cost), (vec!["a", "c"], vec![100, 8]));
//! assert_eq!(packer.pop().unwrap().keys, ["b"]);
//! ```

mod budget;
mod error;
mod offline;
mod packer;
mod pool;
mod select;

pub use budget::{Budgets, MAX_BUDGET, MAX_BUDGETS};
pub use error::PackError;
pub use offline::{Effort, Offline, OfflineSettings, Order, PackList, MAX_EXAMPLES};
pub use packer::{Counters, Oversize, Pack, Packer, Settings, State, MAX_POOL};
pub use select::{Search, Solver};
