//! What each trained token is predicted by.

use super::error::TreeError;
use super::int::int32;
use super::TreeMask;
use crate::room::{room, NoMemory};

/// The label of a token without loss.
pub const IGNORE: i64 = -100;

/// The nodes that have labels or an end target.
#[derive(Debug, Clone, Copy)]
pub struct TargetNodes<'a> {
    /// Indices of the nodes, increasing.
    pub nodes: &'a [i64],
    /// Labels of their tokens laid end to end, [`IGNORE`] for none.
    pub labels: &'a [i64],
    /// Loss weight of each label.
    pub weights: &'a [f32],
    /// For each node the target of its last token, [`IGNORE`] for none.
    pub end_targets: &'a [i64],
    /// Loss weight of each end target.
    pub end_weights: &'a [f32],
}

/// What is trained on: the hidden state at `position` should predict `token`.
///
/// Positions repeat where several branches begin at one token.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Targets {
    /// Row positions.
    pub position: Vec<i64>,
    /// Target tokens.
    pub token: Vec<i64>,
    /// Loss weights.
    pub weight: Vec<f32>,
}

impl Targets {
    fn with_capacity(n: usize) -> Result<Self, NoMemory> {
        Ok(Self {
            position: room("targets", n)?,
            token: room("targets", n)?,
            weight: room("targets", n)?,
        })
    }

    fn push(&mut self, position: i32, token: i64, weight: f32) {
        if token != IGNORE {
            self.position.push(position.into());
            self.token.push(token);
            self.weight.push(weight);
        }
    }

    /// Appends labels of which the first is predicted by row position `first`, the next by
    /// `first + 1` and so on.
    fn extend(&mut self, first: i32, labels: &[i64], weights: &[f32]) {
        let mut at = 0;
        // Prompts are ignored and answers trained on in long stretches, so copy stretches.
        for stretch in labels.chunk_by(|a, b| (*a == IGNORE) == (*b == IGNORE)) {
            let end = at + stretch.len();
            if stretch[0] != IGNORE {
                let position = i64::from(first + int32(at));
                self.position.extend((position..).take(stretch.len()));
                self.token.extend_from_slice(stretch);
                self.weight.extend_from_slice(&weights[at..end]);
            }
            at = end;
        }
    }
}

impl TreeMask {
    /// The targets of a row: node by node, token by token, a node's end target last.
    ///
    /// A label is predicted by the token before it on its path: within the node the token before,
    /// else the last token of the nearest ancestor that has tokens; the first label of a root has
    /// no predictor and is skipped. An end target is predicted by the node's last token, or if it
    /// has none by that of the same ancestor.
    ///
    /// # Errors
    ///
    /// Nodes that do not exist or do not increase, arrays of other lengths than the nodes say, or
    /// [`TreeError::NoMemory`].
    pub fn targets(&self, input: &TargetNodes<'_>) -> Result<Targets, TreeError> {
        self.check_targets(input)?;
        let mut found = Targets::with_capacity(input.labels.len() + input.nodes.len())?;
        let (mut labels, mut weights) = (input.labels, input.weights);
        let ends = input.end_targets.iter().zip(input.end_weights);
        for (node, (&end_target, &end_weight)) in self.trained(input.nodes).zip(ends) {
            let (own_labels, own_weights);
            let length = self.nodes.tokens(node).len();
            (own_labels, labels) = labels.split_at(length);
            (own_weights, weights) = weights.split_at(length);
            let mut last = self.nodes.before[node];
            if let Some((&label, rest)) = own_labels.split_first() {
                if last >= 0 {
                    found.push(last, label, own_weights[0]);
                }
                found.extend(self.nodes.start[node], rest, &own_weights[1..]);
                last = self.nodes.end[node] - 1;
            }
            found.push(last, end_target, end_weight);
        }
        Ok(found)
    }

    fn trained<'a>(&self, nodes: &'a [i64]) -> impl Iterator<Item = usize> + 'a {
        let n = self.nodes.len();
        nodes
            .iter()
            .filter_map(move |&node| usize::try_from(node).ok().filter(|&node| node < n))
    }

    fn check_targets(&self, input: &TargetNodes<'_>) -> Result<(), TreeError> {
        let n_nodes = self.nodes.len();
        let mut previous = -1;
        for (entry, &node) in input.nodes.iter().enumerate() {
            if usize::try_from(node).map_or(true, |node| node >= n_nodes) {
                return Err(TreeError::NodeOutOfRange {
                    entry,
                    node,
                    n_nodes,
                });
            }
            if node <= previous {
                return Err(TreeError::NodesNotIncreasing {
                    entry,
                    node,
                    previous,
                });
            }
            previous = node;
        }
        let tokens = self
            .trained(input.nodes)
            .map(|node| self.nodes.tokens(node).len())
            .sum();
        let nodes = input.nodes.len();
        check_length("labels", input.labels.len(), tokens, "token of the nodes")?;
        check_length("weights", input.weights.len(), tokens, "token of the nodes")?;
        check_length("end_targets", input.end_targets.len(), nodes, "node")?;
        check_length("end_weights", input.end_weights.len(), nodes, "node")
    }
}

fn check_length(
    name: &'static str,
    len: usize,
    expected: usize,
    each: &'static str,
) -> Result<(), TreeError> {
    if len == expected {
        Ok(())
    } else {
        Err(TreeError::TargetsLength {
            name,
            len,
            expected,
            each,
        })
    }
}
