//! The mask as three numbers for each token, and as the matrix that they stand for.

use super::error::TreeError;
use super::int::{index, int32};
use super::TreeMask;
use crate::room::{room, NoMemory};

/// The whole mask in 12 bytes a token: query `q` sees key `k` iff
/// `key_lo[k] <= q < key_end[k]` and `k <= query_hi[q]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaskVectors {
    /// First query that sees the key: itself, or the first token of its image group.
    pub key_lo: Vec<i32>,
    /// One past the last query that sees the key: the end of its node's subtree; 0 for padding.
    pub key_end: Vec<i32>,
    /// Last key that the query sees: itself, or the last token of its image group; -1 for padding.
    pub query_hi: Vec<i32>,
}

impl TreeMask {
    /// All three vectors.
    ///
    /// # Errors
    ///
    /// [`NoMemory`].
    pub fn vectors(&self) -> Result<MaskVectors, NoMemory> {
        Ok(MaskVectors {
            key_lo: self.key_lo()?,
            key_end: self.key_end()?,
            query_hi: self.query_hi()?,
        })
    }

    /// [`MaskVectors::key_lo`].
    ///
    /// # Errors
    ///
    /// [`NoMemory`].
    pub fn key_lo(&self) -> Result<Vec<i32>, NoMemory> {
        let mut lo = room("tokens", self.total())?;
        lo.extend(0..self.total);
        self.fill_groups(&mut lo, |(first, _)| first);
        Ok(lo)
    }

    /// [`MaskVectors::key_end`].
    ///
    /// # Errors
    ///
    /// [`NoMemory`].
    pub fn key_end(&self) -> Result<Vec<i32>, NoMemory> {
        let mut key_end = room("tokens", self.total())?;
        for (&end, &subtree_end) in self.nodes.end.iter().zip(&self.nodes.subtree_end) {
            key_end.resize(index(end), subtree_end);
        }
        key_end.resize(self.total(), 0);
        Ok(key_end)
    }

    /// [`MaskVectors::query_hi`].
    ///
    /// # Errors
    ///
    /// [`NoMemory`].
    pub fn query_hi(&self) -> Result<Vec<i32>, NoMemory> {
        let mut hi = room("tokens", self.total())?;
        hi.extend(0..int32(self.used()));
        hi.resize(self.total(), -1);
        self.fill_groups(&mut hi, |(_, last)| last);
        Ok(hi)
    }

    fn fill_groups(&self, vector: &mut [i32], value: impl Fn((i32, i32)) -> i32) {
        for group in 0..self.groups.len() {
            let value = value(self.groups.span(group));
            for (start, end) in self.groups.runs(group) {
                vector[index(start)..index(end)].fill(value);
            }
        }
    }

    /// The mask as a matrix, `[total, total]` query by query, queries down and keys across.
    ///
    /// For tests and pictures: it takes the square of the row.
    ///
    /// # Errors
    ///
    /// [`TreeError::DenseTooLarge`] or [`TreeError::NoMemory`] when there is not so much memory.
    pub fn to_dense(&self) -> Result<Vec<bool>, TreeError> {
        let total = self.total();
        let mut dense = Vec::new();
        total
            .checked_mul(total)
            .and_then(|size| dense.try_reserve_exact(size).ok())
            .ok_or(TreeError::DenseTooLarge { total })?;
        let MaskVectors {
            key_lo,
            key_end,
            query_hi,
        } = self.vectors()?;
        for (q, &hi) in (0..).zip(&query_hi) {
            let bounds = key_lo.iter().zip(&key_end);
            dense.extend(
                (0..)
                    .zip(bounds)
                    .map(|(k, (&lo, &end))| lo <= q && q < end && k <= hi),
            );
        }
        Ok(dense)
    }
}
