//! Which pieces of a row meet in which attention call, so that no pair is in two of them.
//!
//! A causal call on first-child chains, calls in which the rest of each subtree sees the nodes of
//! a chain, and the strict upper triangle of each image group.

use std::ops::Range;

use super::layout::{Kind, Plan};
use super::writer::{Piece, Writer};
use crate::mask::int::index;
use crate::mask::{TreeError, TreeMask};

impl TreeMask {
    /// The attention calls of this row, laid out as [`Plan`] says.
    ///
    /// In the order of [`Kind`], [`Kind::Cross`] once for each nesting depth; calls without pairs
    /// are left out.
    ///
    /// # Errors
    ///
    /// [`TreeError::PlanTooLong`] when an int32 cannot count its entries, or
    /// [`TreeError::NoMemory`].
    pub fn plan(&self) -> Result<Plan, TreeError> {
        let mut writer = Writer::new(self)?;
        let (chains, crosses) = self.tree_pieces();
        writer.call(Kind::SelfCausal, &chains)?;
        for level in by_depth(crosses) {
            writer.call(Kind::Cross, &level)?;
        }
        self.write_groups(&mut writer)?;
        Ok(writer.finish())
    }

    /// What image tokens see ahead.
    pub(super) fn write_groups(&self, writer: &mut Writer) -> Result<(), TreeError> {
        let (whole, holed) = self.group_pieces();
        writer.call(Kind::AntiCausal, &whole)?;
        writer.gathered(self.groups(), &holed)
    }

    /// Chains, and what the rest of each subtree sees of a chain's nodes.
    ///
    /// A chain is a node, its first child, that one's first child and so on: contiguous and causal.
    /// Nodes without tokens are skipped; their children count as children of the ancestor.
    fn tree_pieces(&self) -> (Vec<Piece>, Vec<Piece>) {
        let (mut chains, mut crosses) = (Vec::new(), Vec::new());
        for chain in self.chains() {
            self.close_chain(chain, &mut chains, &mut crosses);
        }
        (chains, crosses)
    }

    /// The nodes of each chain.
    pub(super) fn chains(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let nodes = self.nodes();
        let mut first = 0;
        (1..=nodes.len()).filter_map(move |node| {
            let goes_on = node < nodes.len()
                && (nodes.tokens(node).is_empty() || nodes.before[node] == nodes.start[node] - 1);
            (!goes_on).then(|| std::mem::replace(&mut first, node)..node)
        })
    }

    fn close_chain(&self, chain: Range<usize>, chains: &mut Vec<Piece>, crosses: &mut Vec<Piece>) {
        let nodes = self.nodes();
        let end = nodes.end[chain.end - 1];
        chains.push(Piece::square(nodes.start[chain.start], end));
        let from = crosses.len();
        for node in chain.filter(|&node| !nodes.tokens(node).is_empty()) {
            let (k, q) = (
                (nodes.start[node], nodes.end[node]),
                (end, nodes.subtree_end[node]),
            );
            match crosses[from..].last_mut() {
                Some(last) if last.q == q => last.k.1 = k.1,
                _ if q.1 > end => crosses.push(Piece { q, k }),
                _ => {}
            }
        }
    }

    /// Groups of at least two tokens: those of one run as pieces, those with holes by number.
    fn group_pieces(&self) -> (Vec<Piece>, Vec<usize>) {
        let (mut whole, mut holed) = (Vec::new(), Vec::new());
        let groups = self.groups();
        for (group, pair) in groups.ptr.windows(2).enumerate() {
            let run = index(pair[0]);
            let (start, end) = (groups.run_start[run], groups.run_end[run]);
            if pair[1] - pair[0] > 1 {
                holed.push(group);
            } else if end - start > 1 {
                whole.push(Piece {
                    q: (start, end - 1),
                    k: (start + 1, end),
                });
            }
        }
        (whole, holed)
    }
}

/// The pieces by how many others hold their queries; those of one depth are disjoint and in order.
fn by_depth(pieces: Vec<Piece>) -> Vec<Vec<Piece>> {
    let mut levels: Vec<Vec<Piece>> = Vec::new();
    // Ends of the query ranges around the current one: pieces come by start, larger ones first.
    let mut around: Vec<i32> = Vec::new();
    for piece in pieces {
        while around.last().is_some_and(|&end| end <= piece.q.0) {
            around.pop();
        }
        if around.len() == levels.len() {
            levels.push(Vec::new());
        }
        levels[around.len()].push(piece);
        around.push(piece.q.1);
    }
    levels
}
