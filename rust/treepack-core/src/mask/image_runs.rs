//! Runs of image tokens: each lies inside one node, in order.

use super::error::TreeError;
use super::int::int32;
use super::nodes::NodeTable;

/// Tokens `start..end` of a row, all of one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageRun {
    /// First token, in row positions.
    pub start: i64,
    /// One past the last token.
    pub end: i64,
    /// Any number that no image of another node has.
    pub image: i64,
}

type Bounds = (i32, i32);

/// The runs as int32, and the node that each lies in.
pub(super) fn checked_runs(
    runs: &[ImageRun],
    nodes: &NodeTable,
    total: i32,
) -> Result<(Vec<Bounds>, Vec<usize>), TreeError> {
    let mut bounds = Vec::with_capacity(runs.len());
    let mut node_of = Vec::with_capacity(runs.len());
    let mut node = 0;
    for (run, &now) in runs.iter().enumerate() {
        let (start, end) = checked_bounds(run, now, nodes, total)?;
        if let Some(previous) = run.checked_sub(1).map(|r| runs[r]) {
            check_order(run, now, previous)?;
        }
        while nodes.end[node] <= start {
            node += 1;
        }
        if end > nodes.end[node] {
            let (ImageRun { start, end, .. }, node_end) = (now, nodes.end[node]);
            return Err(TreeError::RunCrossesNodes {
                run,
                start,
                end,
                node,
                node_end,
            });
        }
        bounds.push((start, end));
        node_of.push(node);
    }
    Ok((bounds, node_of))
}

fn checked_bounds(
    run: usize,
    now: ImageRun,
    nodes: &NodeTable,
    total: i32,
) -> Result<Bounds, TreeError> {
    let ImageRun { start, end, .. } = now;
    if start >= end {
        return Err(TreeError::EmptyRun { run, start, end });
    }
    match (i32::try_from(start), i32::try_from(end)) {
        (Ok(first @ 0..), Ok(last)) if last <= total => {
            let used = int32(nodes.used());
            if last > used {
                return Err(TreeError::RunInPadding {
                    run,
                    start,
                    end,
                    used: used.into(),
                });
            }
            Ok((first, last))
        }
        _ => Err(TreeError::RunOutOfRange {
            run,
            start,
            end,
            total: total.into(),
        }),
    }
}

fn check_order(run: usize, now: ImageRun, previous: ImageRun) -> Result<(), TreeError> {
    let start = now.start;
    if start < previous.start {
        return Err(TreeError::RunsUnsorted {
            run,
            start,
            previous: previous.start,
        });
    }
    if start < previous.end {
        return Err(TreeError::RunsOverlap {
            run,
            start,
            previous_end: previous.end,
        });
    }
    Ok(())
}

/// For each run the first run of its image; an image that is in two nodes is an error.
pub(super) fn first_runs(runs: &[ImageRun], node_of: &[usize]) -> Result<Vec<usize>, TreeError> {
    let mut order: Vec<usize> = (0..runs.len()).collect();
    order.sort_by_key(|&run| runs[run].image);
    let mut first_of = vec![0; runs.len()];
    let mut first = 0;
    for (at, &run) in order.iter().enumerate() {
        let image = runs[run].image;
        if at == 0 || runs[first].image != image {
            first = run;
        }
        let (first_node, node) = (node_of[first], node_of[run]);
        if first_node != node {
            return Err(TreeError::ImageInTwoNodes {
                image,
                run,
                first_node,
                node,
            });
        }
        first_of[run] = first;
    }
    Ok(first_of)
}
