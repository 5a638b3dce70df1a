//! The mask of a row as varlen attention calls, no pair in two of them.
//!
//! A causal call on first-child chains, calls in which the rest of each subtree sees the nodes of
//! a chain, and the strict upper triangle of each image group.

use super::error::TreeError;
use super::groups::ImageGroups;
use super::int::{index, int32};
use super::TreeMask;

/// Entries of a plan's arrays are counted in fours, so that each begins at 16 bytes.
const ALIGN: usize = 4;

/// Attention calls whose disjoint union is the mask of a row.
///
/// `host` is `[n_calls, total, used, 0]` and then, for each call, the twelve numbers
///
/// ```text
/// kind, q_start, q_rows, k_start, k_rows, n_seg, max_q, max_k,
/// off_cu_q, off_cu_k, off_q_index, off_k_index
/// ```
///
/// Queries `q_start..q_start + q_rows` and keys `k_start..k_start + k_rows` are cut into `n_seg`
/// segments; the offsets say where in `entries` the cuts lie, `n_seg + 1` numbers each, counted
/// from `q_start` and `k_start`. A query of a segment sees
///
/// - kind 0 (self): the keys of the segment up to itself;
/// - kind 1 (cross): all keys of the segment;
/// - kind 2 (rev): the keys of the segment from its own place on;
/// - kind 3 (rev, gathered): the same, of the rows named at `off_q_index` and `off_k_index`;
/// - kind 4 (window, see [`TreeMask::window_plan`]): of the keys named at `off_k_index`, the
///   `host[3]` that end at its own.
///
/// What a call leaves out is cut into segments without queries or without keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What the device reads.
    pub entries: Vec<i32>,
    /// What the host reads.
    pub host: Vec<i32>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Causal = 0,
    Cross = 1,
    Rev = 2,
    RevGathered = 3,
    Window = 4,
}

/// Queries `q.0..q.1` that meet keys `k.0..k.1`.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub q: (i32, i32),
    pub k: (i32, i32),
}

impl Piece {
    const fn square(start: i32, end: i32) -> Self {
        Self {
            q: (start, end),
            k: (start, end),
        }
    }
}

impl TreeMask {
    /// The attention calls of this row: self, cross by nesting depth, rev, rev gathered.
    ///
    /// # Errors
    ///
    /// [`TreeError::PlanTooLong`] when an int32 cannot count its entries.
    pub fn plan(&self) -> Result<Plan, TreeError> {
        let (chains, crosses) = self.tree_pieces();
        let mut writer = Writer::new(self);
        writer.call(Kind::Causal, &chains)?;
        for level in by_depth(crosses) {
            writer.call(Kind::Cross, &level)?;
        }
        self.write_groups(&mut writer)?;
        Ok(writer.finish())
    }

    /// What image tokens see ahead.
    pub(super) fn write_groups(&self, writer: &mut Writer) -> Result<(), TreeError> {
        let (whole, holed) = self.group_pieces();
        writer.call(Kind::Rev, &whole)?;
        writer.gathered(&self.groups, &holed)
    }

    /// Chains, and what the rest of each subtree sees of a chain's nodes.
    ///
    /// A chain is a node, its first child, that one's first child and so on: contiguous and causal.
    /// Nodes without tokens are passed over; their children count as children of the ancestor.
    fn tree_pieces(&self) -> (Vec<Piece>, Vec<Piece>) {
        let (mut chains, mut crosses) = (Vec::new(), Vec::new());
        for chain in self.chains() {
            self.close_chain(chain, &mut chains, &mut crosses);
        }
        (chains, crosses)
    }

    /// The nodes of each chain.
    pub(super) fn chains(&self) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        let nodes = &self.nodes;
        let mut first = 0;
        (1..=nodes.len()).filter_map(move |node| {
            let goes_on = node < nodes.len()
                && (nodes.tokens(node).is_empty() || nodes.before[node] == nodes.start[node] - 1);
            (!goes_on).then(|| std::mem::replace(&mut first, node)..node)
        })
    }

    fn close_chain(
        &self,
        chain: std::ops::Range<usize>,
        chains: &mut Vec<Piece>,
        crosses: &mut Vec<Piece>,
    ) {
        let nodes = &self.nodes;
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
        for (group, pair) in self.groups.ptr.windows(2).enumerate() {
            let run = index(pair[0]);
            let (start, end) = (self.groups.run_start[run], self.groups.run_end[run]);
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

pub(super) struct Writer {
    entries: Vec<i32>,
    host: Vec<i32>,
    cuts: Cuts,
}

impl Writer {
    pub fn new(mask: &TreeMask) -> Self {
        let room = 4 * (mask.nodes.len() + mask.groups.run_start.len() + ALIGN);
        Self {
            entries: Vec::with_capacity(room),
            host: vec![0, mask.total, int32(mask.used()), 0],
            cuts: Cuts::default(),
        }
    }

    pub fn set_window(&mut self, window: i32) {
        self.host[3] = window;
    }

    /// A call on all queries and on gathered keys; the pieces count those by their place.
    pub fn gathered_keys(
        &mut self,
        kind: Kind,
        pieces: &[Piece],
        keys: &[i32],
    ) -> Result<(), TreeError> {
        self.cuts.begin(0, 0);
        for piece in pieces {
            self.cuts.push(*piece);
        }
        let off_q = self.put(|cuts| &cuts.q)?;
        let off_k = self.put(|cuts| &cuts.k)?;
        let off_index = self.offset()?;
        self.entries.extend_from_slice(keys);
        self.pad();
        let rows = [0, self.cuts.q[self.cuts.q.len() - 1], 0, int32(keys.len())];
        self.describe(kind, rows, [off_q, off_k, 0, off_index])
    }

    /// A call on the rows from the first piece to the last.
    fn call(&mut self, kind: Kind, pieces: &[Piece]) -> Result<(), TreeError> {
        let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else {
            return Ok(());
        };
        self.cuts.begin(first.q.0, first.k.0);
        for piece in pieces {
            self.cuts.push(*piece);
        }
        let off_q = self.put(|cuts| &cuts.q)?;
        let off_k = if kind == Kind::Causal {
            off_q
        } else {
            self.put(|cuts| &cuts.k)?
        };
        let rows = [
            first.q.0,
            last.q.1 - first.q.0,
            first.k.0,
            last.k.1 - first.k.0,
        ];
        self.describe(kind, rows, [off_q, off_k, 0, 0])
    }

    /// One call on the tokens of groups with holes, which are gathered.
    fn gathered(&mut self, groups: &ImageGroups, holed: &[usize]) -> Result<(), TreeError> {
        if holed.is_empty() {
            return Ok(());
        }
        self.cuts.begin(0, 0);
        let mut rows = 0;
        for &group in holed {
            let end = rows + groups.size(group) - 1;
            self.cuts.push(Piece::square(rows, end));
            rows = end;
        }
        let off_cu = self.put(|cuts| &cuts.q)?;
        self.entries.reserve(2 * (index(rows) + ALIGN));
        let off_q = self.gather(groups, holed, (0, 1))?;
        let off_k = self.gather(groups, holed, (1, 0))?;
        self.describe(
            Kind::RevGathered,
            [0, rows, 0, rows],
            [off_cu, off_cu, off_q, off_k],
        )
    }

    /// The tokens of groups, without so many of the first and of the last of each.
    fn gather(
        &mut self,
        groups: &ImageGroups,
        holed: &[usize],
        (first, last): (i32, i32),
    ) -> Result<i32, TreeError> {
        let offset = self.offset()?;
        for &group in holed {
            let span = groups.span(group);
            let (from, to) = (span.0 + first, span.1 + 1 - last);
            for (start, end) in groups.runs(group) {
                self.entries.extend(start.max(from)..end.min(to));
            }
        }
        self.pad();
        Ok(offset)
    }

    fn put(&mut self, column: impl Fn(&Cuts) -> &[i32]) -> Result<i32, TreeError> {
        let offset = self.offset()?;
        self.entries.extend_from_slice(column(&self.cuts));
        self.pad();
        Ok(offset)
    }

    fn offset(&self) -> Result<i32, TreeError> {
        checked_offset(self.entries.len())
    }

    fn pad(&mut self) {
        self.entries
            .resize(self.entries.len().next_multiple_of(ALIGN), 0);
    }

    fn describe(&mut self, kind: Kind, rows: [i32; 4], offsets: [i32; 4]) -> Result<(), TreeError> {
        self.offset()?;
        let Cuts {
            q, max_q, max_k, ..
        } = &self.cuts;
        self.host[0] += 1;
        self.host.push(kind as i32);
        self.host.extend(rows);
        self.host.extend([int32(q.len() - 1), *max_q, *max_k]);
        self.host.extend(offsets);
        Ok(())
    }

    pub fn finish(self) -> Plan {
        Plan {
            entries: self.entries,
            host: self.host,
        }
    }
}

fn checked_offset(entries: usize) -> Result<i32, TreeError> {
    i32::try_from(entries).map_err(|_| TreeError::PlanTooLong { entries })
}

/// Where the segments of a call begin, counted from its first query and its first key.
#[derive(Default)]
struct Cuts {
    origin: (i32, i32),
    q: Vec<i32>,
    k: Vec<i32>,
    max_q: i32,
    max_k: i32,
}

impl Cuts {
    fn begin(&mut self, q: i32, k: i32) {
        self.origin = (q, k);
        self.q.clear();
        self.k.clear();
        self.q.push(0);
        self.k.push(0);
        // Flash kernels misread a longest query of 1 under grouped heads.
        (self.max_q, self.max_k) = (2, 1);
    }

    /// The gap of queries before a piece, the gap of keys, and the piece.
    fn push(&mut self, piece: Piece) {
        let (q, k) = (piece.q.0 - self.origin.0, piece.k.0 - self.origin.1);
        self.cut(q, self.k[self.k.len() - 1]);
        self.cut(q, k);
        self.cut(piece.q.1 - self.origin.0, piece.k.1 - self.origin.1);
    }

    fn cut(&mut self, q: i32, k: i32) {
        let (rows, keys) = (q - self.q[self.q.len() - 1], k - self.k[self.k.len() - 1]);
        if rows > 0 || keys > 0 {
            self.q.push(q);
            self.k.push(k);
            self.max_q = self.max_q.max(rows);
            self.max_k = self.max_k.max(keys);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_longer_than_int32_is_refused() {
        let entries = 1 << 31;
        assert_eq!(checked_offset(entries - 1), Ok(i32::MAX));
        assert_eq!(
            checked_offset(entries),
            Err(TreeError::PlanTooLong { entries })
        );
    }
}
