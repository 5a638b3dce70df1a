//! The mask in blocks: which are empty, which partly and which wholly visible.

use crate::mask::int::{index, int32};
use crate::mask::{MaskVectors, TreeError, TreeMask};
use crate::room::{room, NoMemory};

/// For each block of one side, in increasing order, some blocks of the other.
///
/// The list of block `i` is `indices[i * width..][..counts[i]]`; what follows it is 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockTable {
    /// How many blocks each list has.
    pub counts: Vec<i32>,
    /// Their numbers, `[counts.len(), width]`.
    pub indices: Vec<i32>,
    /// Entries from one list to the next.
    pub width: usize,
}

/// Blocks with some invisible pairs and blocks without, listed from either side.
///
/// A block that is in neither list has no visible pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockLists {
    /// For each block of queries, the blocks of keys that it sees in part.
    pub kv_partial: BlockTable,
    /// For each block of queries, the blocks of keys that it sees whole.
    pub kv_full: BlockTable,
    /// For each block of keys, the blocks of queries that see it in part.
    pub q_partial: BlockTable,
    /// For each block of keys, the blocks of queries that see it whole.
    pub q_full: BlockTable,
}

/// Least and largest entries of the vectors in one block.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    start: i32,
    end: i32,
    lo: (i32, i32),
    key_end: (i32, i32),
    hi: (i32, i32),
}

/// What share of the pairs of a block is visible: none, some or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Visible {
    Empty,
    Partial,
    Full,
}

impl TreeMask {
    /// Classifies every block of `block_q` queries and `block_k` keys; the last may be shorter.
    ///
    /// Linear in the row and in the number of blocks that do not begin after all that is seen.
    ///
    /// # Errors
    ///
    /// [`TreeError::BlockSize`] for a block of no tokens, or [`TreeError::NoMemory`].
    pub fn block_lists(&self, block_q: usize, block_k: usize) -> Result<BlockLists, TreeError> {
        for size in [block_q, block_k] {
            if size == 0 {
                return Err(TreeError::BlockSize { size });
            }
        }
        let vectors = self.vectors()?;
        let queries = bounds(&vectors, block_q)?;
        let keys = bounds(&vectors, block_k)?;
        let mut lists = BlockLists {
            kv_partial: BlockTable::new(queries.len(), keys.len())?,
            kv_full: BlockTable::new(queries.len(), keys.len())?,
            q_partial: BlockTable::new(keys.len(), queries.len())?,
            q_full: BlockTable::new(keys.len(), queries.len())?,
        };
        for (q, query) in queries.iter().enumerate() {
            let seen = keys.iter().take_while(|key| key.start <= query.hi.1);
            for (k, key) in seen.enumerate() {
                let (of_q, of_k) = match visible(query, key) {
                    Visible::Empty => continue,
                    Visible::Partial => (&mut lists.kv_partial, &mut lists.q_partial),
                    Visible::Full => (&mut lists.kv_full, &mut lists.q_full),
                };
                of_q.push(q, k);
                of_k.push(k, q);
            }
        }
        Ok(lists)
    }
}

impl BlockTable {
    fn new(lists: usize, width: usize) -> Result<Self, NoMemory> {
        let zeros = |count| {
            let mut numbers = room("blocks", count)?;
            numbers.resize(count, 0);
            Ok(numbers)
        };
        Ok(Self {
            counts: zeros(lists)?,
            indices: zeros(lists.saturating_mul(width))?,
            width,
        })
    }

    fn push(&mut self, list: usize, block: usize) {
        let place = index(self.counts[list]);
        self.indices[list * self.width + place] = int32(block);
        self.counts[list] += 1;
    }
}

fn bounds(vectors: &MaskVectors, size: usize) -> Result<Vec<Bounds>, NoMemory> {
    let total = vectors.key_lo.len();
    let block = |start: usize| {
        let tokens = start..total.min(start.saturating_add(size));
        Bounds {
            start: int32(start),
            end: int32(tokens.end),
            lo: extremes(&vectors.key_lo[tokens.clone()]),
            key_end: extremes(&vectors.key_end[tokens.clone()]),
            hi: extremes(&vectors.query_hi[tokens]),
        }
    };
    let mut bounds = room("blocks", total.div_ceil(size))?;
    bounds.extend((0..total).step_by(size).map(block));
    Ok(bounds)
}

fn extremes(values: &[i32]) -> (i32, i32) {
    let wider = |(least, most): (i32, i32), &x: &i32| (least.min(x), most.max(x));
    values.iter().fold((i32::MAX, i32::MIN), wider)
}

/// Exact where full and empty are concerned: a block is full or empty iff all its pairs are.
fn visible(query: &Bounds, key: &Bounds) -> Visible {
    let is_empty = key.lo.0 >= query.end || key.key_end.1 <= query.start || query.hi.1 < key.start;
    let is_full =
        key.lo.1 <= query.start && key.key_end.0 >= query.end && query.hi.0 >= key.end - 1;
    match (is_empty, is_full) {
        (true, _) => Visible::Empty,
        (_, true) => Visible::Full,
        _ => Visible::Partial,
    }
}
