//! The node table: where each node of a row lies and what hangs below it.

use super::error::TreeError;
use super::int::{index, int32};
use crate::room::{room, NoMemory};

/// What the nodes of a row are, in preorder; every field has one entry for each node.
///
/// Own tokens of a node are `start..end`, those of its descendants `end..subtree_end`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeTable {
    /// First own token.
    pub start: Vec<i32>,
    /// One past the last own token.
    pub end: Vec<i32>,
    /// One past the last token of the node's subtree.
    pub subtree_end: Vec<i32>,
    /// The parent, -1 for a root.
    pub parent: Vec<i32>,
    /// Edges to the root.
    pub depth: Vec<i32>,
    /// Number of the example, counted in roots.
    pub example: Vec<i32>,
    /// Last token of the nearest ancestor that has tokens, -1 for a root.
    pub before: Vec<i32>,
}

impl NodeTable {
    pub(super) fn new(lengths: &[i64], parents: &[i64]) -> Result<Self, TreeError> {
        let n = lengths.len();
        if n != parents.len() {
            return Err(TreeError::LengthMismatch {
                lengths: n,
                parents: parents.len(),
            });
        }
        if n == 0 {
            return Err(TreeError::NoNodes);
        }
        if i32::try_from(n).is_err() {
            let count = i64::try_from(n).unwrap_or(i64::MAX);
            return Err(TreeError::RowTooLong {
                what: "nodes",
                count,
            });
        }
        let mut table = Self::with_capacity(n)?;
        let mut start = 0;
        for (&length, &parent) in lengths.iter().zip(parents) {
            let parent = table.checked_parent(parent)?;
            let end = table.checked_end(start, length, parent)?;
            table.push(start, end, parent);
            start = end;
        }
        table.close_subtrees();
        Ok(table)
    }

    fn with_capacity(n: usize) -> Result<Self, NoMemory> {
        let column = || room("nodes", n);
        Ok(Self {
            start: column()?,
            end: column()?,
            subtree_end: column()?,
            parent: column()?,
            depth: column()?,
            example: column()?,
            before: column()?,
        })
    }

    /// Number of nodes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.start.len()
    }

    /// Whether there are no nodes: never, in a table that was validated.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start.is_empty()
    }

    /// Number of examples, which is the number of roots.
    #[must_use]
    pub fn n_examples(&self) -> usize {
        self.example.last().map_or(0, |&last| index(last) + 1)
    }

    /// Tokens of all nodes.
    #[must_use]
    pub fn used(&self) -> usize {
        self.end.last().map_or(0, |&end| index(end))
    }

    /// Own tokens of a node.
    #[must_use]
    pub fn tokens(&self, node: usize) -> std::ops::Range<usize> {
        index(self.start[node])..index(self.end[node])
    }

    fn checked_parent(&self, parent: i64) -> Result<i32, TreeError> {
        let node = self.len();
        let Ok(found) = i32::try_from(parent) else {
            return Err(match parent {
                ..0 => TreeError::ParentOutOfRange { node, parent },
                _ => TreeError::ParentAfterChild { node, parent },
            });
        };
        if found < -1 {
            return Err(TreeError::ParentOutOfRange { node, parent });
        }
        if found >= int32(node) {
            return Err(TreeError::ParentAfterChild { node, parent });
        }
        // In preorder the parent is the node before or one of its ancestors. The steps up leave
        // subtrees that no later node may enter, so all walks together are linear.
        let mut open = int32(node) - 1;
        while open > found {
            open = self.parent[index(open)];
        }
        if open < found {
            return Err(TreeError::NotPreorder { node, parent });
        }
        Ok(found)
    }

    fn checked_end(&self, start: i32, length: i64, parent: i32) -> Result<i32, TreeError> {
        let node = self.len();
        if length < 0 {
            return Err(TreeError::NegativeLength { node, length });
        }
        if length == 0 && parent < 0 {
            return Err(TreeError::EmptyRoot { node });
        }
        let end = i64::from(start).saturating_add(length);
        i32::try_from(end).map_err(|_| TreeError::RowTooLong {
            what: "tokens",
            count: end,
        })
    }

    fn push(&mut self, start: i32, end: i32, parent: i32) {
        let (depth, example, before) = if parent < 0 {
            (0, int32(self.n_examples()), -1)
        } else {
            let p = index(parent);
            let own = self.end[p] > self.start[p];
            let before = if own { self.end[p] - 1 } else { self.before[p] };
            (self.depth[p] + 1, self.example[p], before)
        };
        self.start.push(start);
        self.end.push(end);
        self.subtree_end.push(end);
        self.parent.push(parent);
        self.depth.push(depth);
        self.example.push(example);
        self.before.push(before);
    }

    fn close_subtrees(&mut self) {
        for node in (0..self.len()).rev() {
            let end = self.subtree_end[node];
            if let Ok(parent) = usize::try_from(self.parent[node]) {
                self.subtree_end[parent] = self.subtree_end[parent].max(end);
            }
        }
    }
}
