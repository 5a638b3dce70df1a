//! From node lengths and parents to the mask, the positions and the targets of a packed row.
//!
//! Tokens lie in preorder: each node's own tokens, then the subtrees of its children. A query sees
//! a key iff both are of one example, the key's node is the query's node or an ancestor of it, and
//! the key is not later, or both are image tokens of one group. See [`TreeMask`].

mod error;
mod image_groups;
mod image_runs;
pub(crate) mod int;
mod nodes;
mod positions;
mod targets;
mod vectors;

pub use error::TreeError;
pub use image_groups::{Bidirectional, ImageGroups};
pub use image_runs::ImageRun;
pub use nodes::NodeTable;
pub use positions::RootPositions;
pub use targets::{TargetNodes, Targets, IGNORE};
pub use vectors::MaskVectors;

use int::{index, int32};

/// The attention mask of one packed row, in memory proportional to its nodes and image runs.
///
/// Everything else (vectors, positions, targets, attention calls) derives from it in time linear in
/// the row.
///
/// ```
/// use treepack_core::mask::{Bidirectional, TreeMask};
/// // A root of 6 tokens with branches of 4 and 3.
/// let mask = TreeMask::from_nodes(&[6, 4, 3], &[-1, 0, 0], &[], Bidirectional::None, None)?;
/// assert_eq!(mask.area(), 21 + 10 + 6 + 6 * 7);
/// assert!(mask.visible(10, 5)?); // the second branch sees the root,
/// assert!(!mask.visible(10, 9)?); // but not the first branch
/// # Ok::<(), treepack_core::mask::TreeError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TreeMask {
    nodes: NodeTable,
    groups: ImageGroups,
    bidirectional: Bidirectional,
    total: i32,
}

impl TreeMask {
    /// Validates nodes and image runs: the one check that every row passes.
    ///
    /// - `lengths`: own tokens of each node, in preorder. A root has at least one.
    /// - `parents`: index of each node's parent, -1 for a root, which begins a new example.
    /// - `runs`: stretches of image tokens, sorted, each inside one node. Ignored, after the same
    ///   checks, with [`Bidirectional::None`].
    /// - `total`: length of the row; what the nodes leave free is padding. `None` leaves none.
    ///
    /// # Errors
    ///
    /// The [`TreeError`] that says which node or run is wrong.
    pub fn from_nodes(
        lengths: &[i64],
        parents: &[i64],
        runs: &[ImageRun],
        bidirectional: Bidirectional,
        total: Option<i64>,
    ) -> Result<Self, TreeError> {
        let nodes = NodeTable::new(lengths, parents)?;
        let total = checked_total(total, int32(nodes.used()))?;
        let groups = ImageGroups::new(runs, bidirectional, &nodes, total)?;
        Ok(Self {
            nodes,
            groups,
            bidirectional,
            total,
        })
    }

    /// The node table.
    #[must_use]
    pub const fn nodes(&self) -> &NodeTable {
        &self.nodes
    }

    /// The groups of image tokens; none with [`Bidirectional::None`].
    #[must_use]
    pub const fn groups(&self) -> &ImageGroups {
        &self.groups
    }

    /// How image tokens see each other.
    #[must_use]
    pub const fn bidirectional(&self) -> Bidirectional {
        self.bidirectional
    }

    /// Length of the row with padding.
    #[must_use]
    pub const fn total(&self) -> usize {
        index(self.total)
    }

    /// Tokens of the row; the rest, `used..total`, is padding.
    #[must_use]
    pub fn used(&self) -> usize {
        self.nodes.used()
    }

    /// Number of visible pairs.
    #[must_use]
    pub fn area(&self) -> u64 {
        let tree: u64 = (0..self.nodes.len())
            .map(|node| {
                let own = self.nodes.tokens(node).len() as u64;
                let below = self.nodes.subtree_end[node] - self.nodes.end[node];
                own * (own + 1) / 2 + own * index(below) as u64
            })
            .sum();
        let ahead: u64 = (0..self.groups.len())
            .map(|group| {
                let tokens = index(self.groups.size(group)) as u64;
                tokens * (tokens - 1) / 2
            })
            .sum();
        tree + ahead
    }

    /// Whether query `q` sees key `k`; padding neither sees nor is seen.
    ///
    /// # Errors
    ///
    /// [`TreeError::TokenOutOfRange`] outside the row.
    pub fn visible(&self, q: i64, k: i64) -> Result<bool, TreeError> {
        let (q, k) = (self.checked_token(q)?, self.checked_token(k)?);
        if k > q {
            return Ok(self.groups.share(q, k));
        }
        // The last node that starts at or before a token holds it; padding is beyond its end.
        let node = self.nodes.start.partition_point(|&start| start <= k) - 1;
        Ok(q < self.nodes.subtree_end[node])
    }

    fn checked_token(&self, token: i64) -> Result<i32, TreeError> {
        i32::try_from(token)
            .ok()
            .filter(|token| (0..self.total).contains(token))
            .ok_or(TreeError::TokenOutOfRange {
                token,
                total: self.total(),
            })
    }
}

fn checked_total(total: Option<i64>, used: i32) -> Result<i32, TreeError> {
    let total = total.unwrap_or(used.into());
    if total < used.into() {
        return Err(TreeError::TotalTooSmall {
            total,
            used: used.into(),
        });
    }
    i32::try_from(total).map_err(|_| TreeError::RowTooLong {
        what: "tokens",
        count: total,
    })
}
