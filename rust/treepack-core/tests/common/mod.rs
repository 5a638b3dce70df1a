//! Random rows of message trees, with everything about them straight from the definition; and how
//! many random cases to try.

#![allow(dead_code, reason = "each test file uses some of it")]

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use treepack_core::mask::{Bidirectional, ImageRun, TreeError, TreeMask};

/// So many cases, times the environment variable `TREEPACK_CASES`.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a number of cases"
)]
pub fn cases(count: u32) -> u32 {
    let text = std::env::var("TREEPACK_CASES").ok();
    let factor: f64 = text.and_then(|text| text.parse().ok()).unwrap_or(1.0);
    ((f64::from(count) * factor) as u32).max(1)
}

/// What `from_nodes` takes.
#[derive(Debug, Clone)]
pub struct Row {
    pub lengths: Vec<i64>,
    pub parents: Vec<i64>,
    pub runs: Vec<ImageRun>,
    pub mode: Bidirectional,
    pub total: i64,
}

impl Row {
    pub fn mask(&self) -> Result<TreeMask, TreeError> {
        let Row {
            lengths,
            parents,
            runs,
            mode,
            total,
        } = self;
        TreeMask::from_nodes(lengths, parents, runs, *mode, Some(*total))
    }

    /// The node of each token.
    pub fn node_of(&self) -> Vec<usize> {
        let repeat = |(node, &length): (usize, &i64)| vec![node; usize::try_from(length).unwrap()];
        self.lengths.iter().enumerate().flat_map(repeat).collect()
    }

    /// The node and its ancestors, from the root down.
    pub fn path(&self, node: usize) -> Vec<usize> {
        let up = |&node: &usize| usize::try_from(self.parents[node]).ok();
        let mut path: Vec<usize> = std::iter::successors(Some(node), up).collect();
        path.reverse();
        path
    }

    /// The row positions on the path to a node's end.
    pub fn tokens_to(&self, node: usize) -> Vec<usize> {
        let (path, node_of) = (self.path(node), self.node_of());
        (0..node_of.len())
            .filter(|&token| path.contains(&node_of[token]))
            .collect()
    }

    /// The image of each token that has one.
    pub fn image_of(&self) -> BTreeMap<usize, i64> {
        let tokens = |run: &ImageRun| {
            let (start, end) = (usize::try_from(run.start), usize::try_from(run.end));
            let image = run.image;
            (start.unwrap()..end.unwrap()).map(move |token| (token, image))
        };
        self.runs.iter().flat_map(tokens).collect()
    }

    /// The mask, straight from the definition.
    pub fn dense(&self) -> Vec<Vec<bool>> {
        let total = usize::try_from(self.total).unwrap();
        let (node_of, image_of) = (self.node_of(), self.image_of());
        let mut dense = vec![vec![false; total]; total];
        for (q, &node) in node_of.iter().enumerate() {
            let path = self.path(node);
            for (k, other) in node_of.iter().enumerate() {
                let images = (image_of.get(&q), image_of.get(&k));
                let together = match (self.mode, images) {
                    (Bidirectional::ImageTokens, (Some(_), Some(_))) => node == *other,
                    (Bidirectional::WithinImage, (Some(a), Some(b))) => a == b,
                    _ => false,
                };
                dense[q][k] = path.contains(other) && (k <= q || together);
            }
        }
        dense
    }

    /// Whether two images alternate: A B A B.
    pub fn interleaves(&self) -> bool {
        let images: Vec<i64> = self.runs.iter().map(|run| run.image).collect();
        let finds = |pattern: [i64; 4]| {
            let mut wanted = pattern.iter().peekable();
            for image in &images {
                wanted.next_if(|next| *next == image);
            }
            wanted.peek().is_none()
        };
        images
            .iter()
            .any(|&a| images.iter().any(|&b| a != b && finds([a, b, a, b])))
    }
}

prop_compose! {
    /// A node goes on from one that is still open, or begins an example; a token is text or of one
    /// of three images.
    pub fn rows()(
        nodes in vec((0usize..6, 0usize..8, vec(0i64..4, 7)), 1..9),
        mode in prop::sample::select(vec![
            Bidirectional::None, Bidirectional::ImageTokens, Bidirectional::WithinImage,
        ]),
        padding in 0i64..3,
    ) -> Row {
        let (mut lengths, mut parents, mut runs) = (vec![], vec![], Vec::<ImageRun>::new());
        let (mut open, mut start): (Vec<i64>, i64) = (vec![], 0);
        for (node, (keep, length, images)) in (0..).zip(nodes) {
            open.truncate(keep);
            let parent = open.last().copied().unwrap_or(-1);
            let length = if parent < 0 { length.max(1) } else { length };
            for (token, image) in (start..).zip(&images[..length]) {
                // Image 3 comes in runs of one token, which touch.
                match runs.last_mut() {
                    Some(run) if run.end == token && run.image == 4 * node + image && *image < 3 => {
                        run.end += 1;
                    }
                    _ if *image > 0 => {
                        runs.push(ImageRun { start: token, end: token + 1, image: 4 * node + image });
                    }
                    _ => {}
                }
            }
            lengths.push(i64::try_from(length).unwrap());
            parents.push(parent);
            open.push(node);
            start += lengths[lengths.len() - 1];
        }
        Row { lengths, parents, runs, mode, total: start + padding }
    }
}

/// A row that is valid, or whose only fault is that its images alternate.
pub fn valid(row: &Row) -> Option<TreeMask> {
    match row.mask() {
        Ok(mask) => {
            assert!(row.mode != Bidirectional::WithinImage || !row.interleaves());
            Some(mask)
        }
        Err(error) => {
            assert!(
                matches!(error, TreeError::GroupsInterleaved { .. }),
                "{error}"
            );
            assert!(row.mode == Bidirectional::WithinImage && row.interleaves());
            None
        }
    }
}
