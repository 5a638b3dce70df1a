//! Position ids: a branch goes on where its parent stopped.

use super::error::TreeError;
use super::TreeMask;
use crate::room::room;

/// Positions of the tokens of roots, on one or more axes; other entries are not read.
#[derive(Debug, Clone, Copy)]
pub struct RootPositions<'a> {
    /// `[axes, total]`, axis by axis.
    pub values: &'a [i64],
    /// Number of axes, at least 1.
    pub axes: usize,
}

impl TreeMask {
    /// Position ids `[axes, total]`, axis by axis; 0 on padding.
    ///
    /// Tokens of a root have the given positions, or count from 0 on one axis. Any other node goes
    /// on from the last token of its nearest ancestor that has tokens, on each axis.
    ///
    /// # Errors
    ///
    /// [`TreeError::RootPositionsShape`], [`TreeError::PositionOverflow`] beyond int64, or
    /// [`TreeError::NoMemory`].
    ///
    /// ```
    /// use treepack_core::mask::{Bidirectional, TreeMask};
    /// let mask = TreeMask::from_nodes(&[3, 2, 2], &[-1, 0, 0], &[], Bidirectional::None, None)?;
    /// assert_eq!(mask.positions(None)?, [0, 1, 2, 3, 4, 3, 4]);
    /// # Ok::<(), treepack_core::mask::TreeError>(())
    /// ```
    pub fn positions(&self, roots: Option<RootPositions<'_>>) -> Result<Vec<i64>, TreeError> {
        let total = self.total();
        let axes = roots.map_or(1, |roots| roots.axes);
        if let Some(RootPositions { values, axes }) = roots {
            if axes == 0 || axes.checked_mul(total) != Some(values.len()) {
                return Err(TreeError::RootPositionsShape {
                    len: values.len(),
                    axes,
                    total,
                });
            }
        }
        let mut positions = room("positions", axes * total)?;
        for axis in 0..axes {
            let given = roots.map(|roots| &roots.values[axis * total..]);
            self.push_axis(&mut positions, given, axis)?;
        }
        Ok(positions)
    }

    fn push_axis(
        &self,
        positions: &mut Vec<i64>,
        given: Option<&[i64]>,
        axis: usize,
    ) -> Result<(), TreeError> {
        let origin = positions.len();
        for (node, &before) in self.nodes.before.iter().enumerate() {
            let own = self.nodes.tokens(node);
            match (usize::try_from(before), given) {
                (Ok(before), _) => {
                    let position = positions[origin + before];
                    if position.checked_add(i64::from(self.total)).is_none() {
                        return Err(TreeError::PositionOverflow {
                            node,
                            axis,
                            position,
                        });
                    }
                    count_from(position + 1, own.len(), positions);
                }
                (Err(_), Some(given)) => positions.extend_from_slice(&given[own]),
                (Err(_), None) => count_from(0, own.len(), positions),
            }
        }
        positions.resize(origin + self.total(), 0);
        Ok(())
    }
}

fn count_from(first: i64, len: usize, positions: &mut Vec<i64>) {
    positions.extend((first..).take(len));
}
