//! The mask under a sliding window over path positions.

use super::layout::{Kind, Plan};
use super::writer::{Piece, Writer};
use crate::mask::int::int32;
use crate::mask::{TreeError, TreeMask};

impl TreeMask {
    /// Tokens of the longest path from a root to a leaf.
    #[must_use]
    pub fn longest_path(&self) -> usize {
        let nodes = self.nodes();
        let mut longest = 0;
        // Tokens from the root to the end of each node.
        let mut lengths: Vec<usize> = Vec::with_capacity(nodes.len());
        for node in 0..nodes.len() {
            let above = usize::try_from(nodes.parent[node]).map_or(0, |parent| lengths[parent]);
            lengths.push(above + nodes.tokens(node).len());
            longest = longest.max(lengths[node]);
        }
        longest
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
    /// int32 cannot count the plan's entries.
    pub fn window_plan(&self, window: usize) -> Result<Plan, TreeError> {
        if window == 0 {
            return Err(TreeError::WindowSize { window });
        }
        if window >= self.longest_path() {
            return self.plan();
        }
        let mut writer = Writer::new(self);
        writer.set_window(int32(window));
        let (mut pieces, mut keys) = (Vec::new(), Vec::new());
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
