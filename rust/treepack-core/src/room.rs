//! Memory whose size the user decides: what does not fit is an error, not the end of the process.

use std::hint::black_box;
use thiserror::Error;

/// There is not so much memory.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no memory for {count} {what}, {bytes} bytes; make the row smaller, or free some memory")]
pub struct NoMemory {
    /// What the memory was for.
    pub what: &'static str,
    /// How many of them.
    pub count: usize,
    /// Size in bytes.
    pub bytes: usize,
}

/// An empty vector that takes so many items without growing.
///
/// # Errors
///
/// [`NoMemory`].
///
/// ```
/// use treepack_core::room::room;
/// assert!(room::<u64>("tokens", 3)?.capacity() >= 3);
/// assert!(room::<u64>("tokens", usize::MAX).is_err());
/// # Ok::<(), treepack_core::room::NoMemory>(())
/// ```
pub fn room<T>(what: &'static str, count: usize) -> Result<Vec<T>, NoMemory> {
    let mut items = Vec::new();
    grow(&mut items, what, count)?;
    Ok(items)
}

/// Lets a vector take so many more items without growing again.
///
/// # Errors
///
/// [`NoMemory`]; the vector is unchanged.
pub fn grow<T>(items: &mut Vec<T>, what: &'static str, count: usize) -> Result<(), NoMemory> {
    items.try_reserve(count).map_err(|_| NoMemory {
        what,
        count,
        bytes: count.saturating_mul(size_of::<T>()),
    })
}

/// Rejects work that takes about a `T` for each of so many items, in several small vectors.
///
/// # Errors
///
/// [`NoMemory`].
pub fn check<T>(what: &'static str, count: usize) -> Result<(), NoMemory> {
    // Unseen by the optimizer, which may otherwise leave an unused allocation out.
    room::<T>(what, count).map(|items| drop(black_box(items)))
}
