//! The mask under a sliding window over path positions.

use super::layout::{Kind, Plan};
use super::writer::{checked_offset, Piece, Writer};
use crate::mask::int::int32;
use crate::mask::{TreeError, TreeMask};
use crate::room::{room, NoMemory};

impl TreeMask {
    /// Tokens of the longest path from a root to a leaf.
    ///
    /// # Errors
    ///
    /// [`NoMemory`].
    pub fn longest_path(&self) -> Result<usize, NoMemory> {
        Ok(self.path_lengths()?.into_iter().max().unwrap_or(0))
    }

    /// Tokens from the root to the end of each node.
    fn path_lengths(&self) -> Result<Vec<usize>, NoMemory> {
        let nodes = self.nodes();
        let mut lengths: Vec<usize> = room("nodes", nodes.len())?;
        for node in 0..nodes.len() {
            lengths.push(self.above(node, &lengths) + nodes.tokens(node).len());
        }
        Ok(lengths)
    }

    /// Tokens before a node on its path.
    fn above(&self, node: usize, path_lengths: &[usize]) -> usize {
        usize::try_from(self.nodes().parent[node]).map_or(0, |parent| path_lengths[parent])
    }

    /// The attention calls of this row for a layer with a sliding window.
    ///
    /// A query sees what it sees without a window, but nothing that is `window` or more tokens
    /// before it on its path; image tokens see ahead as before. A window that holds every path
    /// gives the plan without a window. Otherwise one call of [`Kind::Window`] takes the place of
    /// those of [`Kind::SelfCausal`] and [`Kind::Cross`]: the queries of a segment are a chain, its
    /// keys the last `window - 1` tokens before the chain on its path and then the chain.
    ///
    /// # Errors
    ///
    /// [`TreeError::WindowSize`] for a window of no tokens, [`TreeError::PlanTooLong`] when an
    /// int32 cannot count the plan's entries, or [`TreeError::NoMemory`].
    pub fn window_plan(&self, window: usize) -> Result<Plan, TreeError> {
        if window == 0 {
            return Err(TreeError::WindowSize { window });
        }
        let path_lengths = self.path_lengths()?;
        if path_lengths.iter().all(|&length| window >= length) {
            return self.plan();
        }
        let mut writer = Writer::new(self)?;
        writer.set_window(int32(window));
        let before = self
            .chains()
            .map(|chain| self.above(chain.start, &path_lengths).min(window - 1));
        let n_keys = self.used() + before.sum::<usize>();
        // Counted before they are listed: many branches under one long root take a window each.
        checked_offset(n_keys)?;
        let mut keys = room("keys of a window", n_keys)?;
        let mut pieces = Vec::new();
        for chain in self.chains() {
            let (start, end) = (
                self.nodes().start[chain.start],
                self.nodes().end[chain.end - 1],
            );
            let first = int32(keys.len());
            self.push_tail(
                self.nodes().before[chain.start],
                int32(window) - 1,
                &mut keys,
            );
            keys.extend(start..end);
            pieces.push(Piece {
                q: (start, end),
                k: (first, int32(keys.len())),
            });
        }
        writer.gathered_keys(Kind::Window, &pieces, &keys)?;
        self.write_groups(&mut writer)?;
        Ok(writer.finish())
    }

    /// The last `count` tokens of the path that ends in token `last`, in order; -1 ends nothing.
    fn push_tail(&self, mut last: i32, mut count: i32, tokens: &mut Vec<i32>) {
        let from = tokens.len();
        let nodes = self.nodes();
        while last >= 0 && count > 0 {
            // The last node that starts at or before a token holds it.
            let node = nodes.start.partition_point(|&start| start <= last) - 1;
            let start = nodes.start[node].max(last + 1 - count);
            tokens.extend((start..=last).rev());
            count -= last + 1 - start;
            last = nodes.before[node];
        }
        tokens[from..].reverse();
    }
}
