//! Everything that can be wrong with the description of a row.

use crate::room::NoMemory;
use thiserror::Error;

/// Why some nodes, image runs, positions or targets do not describe a row of message trees.
///
/// Each message names the node or run, the number seen, the limit and what to change.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(
    missing_docs,
    reason = "the fields are the numbers of the message above them"
)]
#[non_exhaustive]
pub enum TreeError {
    /// `lengths` and `parents` differ in length.
    #[error("{lengths} lengths but {parents} parents; give one of each for every node")]
    LengthMismatch { lengths: usize, parents: usize },

    /// There is no node at all.
    #[error("a row needs at least one node, got none; leave empty rows out")]
    NoNodes,

    /// A length below zero.
    #[error("node {node} has length {length}; a length is a number of tokens, so 0 or more")]
    NegativeLength { node: usize, length: i64 },

    /// A root without tokens: nothing could predict the first label of its branches.
    #[error("node {node} is a root of 0 tokens; a root needs at least one, so drop the example")]
    EmptyRoot { node: usize },

    /// A parent below -1.
    #[error("node {node} has parent {parent}; it must be an earlier node, or -1 for a root")]
    ParentOutOfRange { node: usize, parent: i64 },

    /// A parent that is not before its child.
    #[error(
        "node {node} has parent {parent}, which is not before it; put parents before their \
         children (-1 marks a root)"
    )]
    ParentAfterChild { node: usize, parent: i64 },

    /// A parent whose subtree was already over.
    #[error(
        "node {node} has parent {parent}, whose subtree ended before node {}; order the nodes \
         depth first, each followed by its whole subtree", node - 1
    )]
    NotPreorder { node: usize, parent: i64 },

    /// More tokens or nodes than an int32 can count.
    #[error("the row has {count} {what} or more, an int32 counts {max}; split it", max = i32::MAX)]
    RowTooLong { what: &'static str, count: i64 },

    /// `total` leaves no room for the tokens.
    #[error("the nodes have {used} tokens but total is {total}; raise total or drop an example")]
    TotalTooSmall { total: i64, used: i64 },

    /// A bidirectional mode that does not exist.
    #[error("bidirectional is {mode:?}; use \"none\", \"image_tokens\" or \"within_image\"")]
    UnknownMode { mode: String },

    /// An image run of no tokens.
    #[error("image run {run} is [{start}, {end}), which holds no token; leave empty runs out")]
    EmptyRun { run: usize, start: i64, end: i64 },

    /// An image run outside the row.
    #[error(
        "image run {run} is [{start}, {end}), outside the row of {total} tokens; runs count in \
         row positions"
    )]
    RunOutOfRange {
        run: usize,
        start: i64,
        end: i64,
        total: i64,
    },

    /// An image run that reaches into the padding.
    #[error(
        "image run {run} is [{start}, {end}), but padding begins at {used}; an image lies inside \
         one node"
    )]
    RunInPadding {
        run: usize,
        start: i64,
        end: i64,
        used: i64,
    },

    /// An image run that crosses the border of a node.
    #[error(
        "image run {run} is [{start}, {end}), but node {node} ends at {node_end}; cut the run at \
         the border and give each part its own image"
    )]
    RunCrossesNodes {
        run: usize,
        start: i64,
        end: i64,
        node: usize,
        node_end: i32,
    },

    /// Image runs out of order.
    #[error("image run {run} starts at {start}, before run {} at {previous}; sort runs by start",
        run - 1)]
    RunsUnsorted {
        run: usize,
        start: i64,
        previous: i64,
    },

    /// Image runs that share tokens.
    #[error(
        "image run {run} starts at {start}, but run {} ends at {previous_end}; a token belongs to \
         one image", run - 1
    )]
    RunsOverlap {
        run: usize,
        start: i64,
        previous_end: i64,
    },

    /// One image in two nodes.
    #[error(
        "image {image} is in node {first_node} and, by run {run}, in node {node}; an image lies \
         inside one node, so number images uniquely in the row"
    )]
    ImageInTwoNodes {
        image: i64,
        run: usize,
        first_node: usize,
        node: usize,
    },

    /// Groups that alternate: A B A B.
    #[error(
        "image {image} goes on at run {run}, but image {other}, inside which it began, has gone on \
         since; images may be nested (A B B A), not interleaved (A B A B)"
    )]
    GroupsInterleaved { image: i64, other: i64, run: usize },

    /// A row position outside the row.
    #[error("token {token} is outside the row of {total} tokens")]
    TokenOutOfRange { token: i64, total: usize },

    /// Root positions that do not fit the row.
    #[error(
        "root_positions hold {len} numbers on {axes} axes for a row of {total} tokens; give them \
         the shape [axes, total] with at least one axis"
    )]
    RootPositionsShape {
        len: usize,
        axes: usize,
        total: usize,
    },

    /// Positions beyond int64.
    #[error(
        "node {node} goes on from position {position} on axis {axis}, too near the largest int64; \
         use smaller root_positions"
    )]
    PositionOverflow {
        node: usize,
        axis: usize,
        position: i64,
    },

    /// A node that does not exist.
    #[error("nodes[{entry}] is {node}, but the row has nodes 0 to {}", n_nodes - 1)]
    NodeOutOfRange {
        entry: usize,
        node: i64,
        n_nodes: usize,
    },

    /// Nodes with targets out of order.
    #[error("nodes[{entry}] is {node} after {previous}; name each node once, in increasing order")]
    NodesNotIncreasing {
        entry: usize,
        node: i64,
        previous: i64,
    },

    /// An array of targets of the wrong length.
    #[error("{name} has {len} entries, expected {expected}: one for each {each}")]
    TargetsLength {
        name: &'static str,
        len: usize,
        expected: usize,
        each: &'static str,
    },

    /// A plan too long for its own int32 offsets.
    #[error("the plan needs {entries} entries or more, an int32 counts {max}; split the row",
        max = i32::MAX)]
    PlanTooLong { entries: usize },

    /// Not so much memory.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),

    /// A dense mask that does not fit into memory.
    #[error(
        "the dense mask of {total} tokens takes {total} x {total} bytes, more than this machine \
         gives; use the compressed vectors or the plan"
    )]
    DenseTooLarge { total: usize },

    /// A block of no tokens.
    #[error("a block of {size} tokens holds nothing; use 1 or more, such as 128")]
    BlockSize { size: usize },

    /// A sliding window of no tokens.
    #[error(
        "a window of {window} tokens sees nothing; a window counts the token itself, so 1 or more"
    )]
    WindowSize { window: usize },
}
