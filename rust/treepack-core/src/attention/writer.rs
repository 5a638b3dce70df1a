//! Writes a plan: cuts the pieces of each call into segments and lays the arrays out.

use super::layout::{HostCall, HostHeader, Kind, Plan, ALIGN};
use crate::mask::int::{index, int32};
use crate::mask::{ImageGroups, TreeError, TreeMask};
use crate::room::{self, NoMemory};

/// Queries `q.0..q.1` that meet keys `k.0..k.1`.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub q: (i32, i32),
    pub k: (i32, i32),
}

impl Piece {
    pub const fn square(start: i32, end: i32) -> Self {
        Self {
            q: (start, end),
            k: (start, end),
        }
    }
}

/// What all vectors of one entry a piece take together, at most.
const PIECES: usize = 10;

/// A plan under way: calls are appended in the order in which they will run.
pub(super) struct Writer {
    entries: Vec<i32>,
    header: HostHeader,
    /// The host table, with room for the header in front.
    host: Vec<i32>,
    cuts: Cuts,
}

/// The tokens of a call: first and number of queries, first and number of keys.
struct Extent {
    q: (i32, i32),
    k: (i32, i32),
}

/// Where the arrays of a call lie in the entries; an index at 0 is none.
struct Offsets {
    cu: (i32, i32),
    index: (i32, i32),
}

impl Writer {
    /// A plan without calls, where there is room for the pieces of a mask.
    pub fn new(mask: &TreeMask) -> Result<Self, NoMemory> {
        let pieces = mask.nodes().len() + mask.groups().run_start.len();
        room::check::<[Piece; PIECES]>("nodes", pieces)?;
        Ok(Self {
            entries: room::room("entries of a plan", 4 * (pieces + ALIGN))?,
            header: HostHeader {
                n_calls: 0,
                total: int32(mask.total()),
                used: int32(mask.used()),
                window: 0,
            },
            host: vec![0; HostHeader::LEN],
            cuts: Cuts::default(),
        })
    }

    pub fn set_window(&mut self, window: i32) {
        self.header.window = window;
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
        let cu = (self.put(|cuts| &cuts.q)?, self.put(|cuts| &cuts.k)?);
        let k_index = self.offset()?;
        self.grow(keys.len())?;
        self.entries.extend_from_slice(keys);
        self.pad();
        let extent = Extent {
            q: (0, self.cuts.q[self.cuts.q.len() - 1]),
            k: (0, int32(keys.len())),
        };
        let index = (0, k_index);
        self.describe(kind, &extent, &Offsets { cu, index })
    }

    /// A call on the tokens from the first piece to the last; without pieces there is no call.
    pub fn call(&mut self, kind: Kind, pieces: &[Piece]) -> Result<(), TreeError> {
        let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else {
            return Ok(());
        };
        self.cuts.begin(first.q.0, first.k.0);
        for piece in pieces {
            self.cuts.push(*piece);
        }
        let cu_q = self.put(|cuts| &cuts.q)?;
        let cu_k = if kind == Kind::SelfCausal {
            cu_q
        } else {
            self.put(|cuts| &cuts.k)?
        };
        let extent = Extent {
            q: (first.q.0, last.q.1 - first.q.0),
            k: (first.k.0, last.k.1 - first.k.0),
        };
        let (cu, index) = ((cu_q, cu_k), (0, 0));
        self.describe(kind, &extent, &Offsets { cu, index })
    }

    /// One call on the tokens of groups with holes, which are gathered; without groups no call.
    pub fn gathered(&mut self, groups: &ImageGroups, holed: &[usize]) -> Result<(), TreeError> {
        if holed.is_empty() {
            return Ok(());
        }
        self.cuts.begin(0, 0);
        let mut len = 0;
        for &group in holed {
            let end = len + groups.size(group) - 1;
            self.cuts.push(Piece::square(len, end));
            len = end;
        }
        let cu = self.put(|cuts| &cuts.q)?;
        self.grow(2 * (index(len) + ALIGN))?;
        let q_index = self.gather(groups, holed, (0, 1))?;
        let k_index = self.gather(groups, holed, (1, 0))?;
        let extent = Extent {
            q: (0, len),
            k: (0, len),
        };
        let offsets = Offsets {
            cu: (cu, cu),
            index: (q_index, k_index),
        };
        self.describe(Kind::AntiCausalGathered, &extent, &offsets)
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
        self.grow(column(&self.cuts).len())?;
        self.entries.extend_from_slice(column(&self.cuts));
        self.pad();
        Ok(offset)
    }

    fn offset(&self) -> Result<i32, TreeError> {
        checked_offset(self.entries.len())
    }

    fn grow(&mut self, count: usize) -> Result<(), NoMemory> {
        room::grow(&mut self.entries, "entries of a plan", count + ALIGN)
    }

    fn pad(&mut self) {
        self.entries
            .resize(self.entries.len().next_multiple_of(ALIGN), 0);
    }

    fn describe(
        &mut self,
        kind: Kind,
        extent: &Extent,
        offsets: &Offsets,
    ) -> Result<(), TreeError> {
        self.offset()?;
        let call = HostCall {
            kind: kind as i32,
            q_start: extent.q.0,
            q_len: extent.q.1,
            k_start: extent.k.0,
            k_len: extent.k.1,
            n_seg: int32(self.cuts.q.len() - 1),
            max_q: self.cuts.max_q,
            max_k: self.cuts.max_k,
            off_cu_q: offsets.cu.0,
            off_cu_k: offsets.cu.1,
            off_q_index: offsets.index.0,
            off_k_index: offsets.index.1,
        };
        self.header.n_calls += 1;
        self.host.extend(call.to_array());
        Ok(())
    }

    pub fn finish(mut self) -> Plan {
        self.host[..HostHeader::LEN].copy_from_slice(&self.header.to_array());
        Plan {
            entries: self.entries,
            host: self.host,
        }
    }
}

pub(super) fn checked_offset(entries: usize) -> Result<i32, TreeError> {
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
        let (queries, keys) = (q - self.q[self.q.len() - 1], k - self.k[self.k.len() - 1]);
        if queries > 0 || keys > 0 {
            self.q.push(q);
            self.k.push(k);
            self.max_q = self.max_q.max(queries);
            self.max_k = self.max_k.max(keys);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_longer_than_int32_is_rejected() {
        let entries = 1 << 31;
        assert_eq!(checked_offset(entries - 1), Ok(i32::MAX));
        assert_eq!(
            checked_offset(entries),
            Err(TreeError::PlanTooLong { entries })
        );
    }
}
