//! How a plan is laid out: the kinds of call, the fields of the host table, the alignment.
//!
//! The one place where they are written down: Python reads them from here.

/// Every array in a plan begins at a multiple of so many entries, which is 16 bytes.
pub const ALIGN: usize = 4;

/// Attention calls whose disjoint union is the mask of a row.
///
/// A plan is two int32 arrays. `entries` goes to the device: boundaries of segments and indices of
/// tokens, each array padded with zeros to a multiple of [`ALIGN`]. `host` stays on the CPU: the
/// fields of [`HostHeader`], then for each call those of [`HostCall`].
///
/// A call takes the queries `q_start..q_start + q_len` and the keys `k_start..k_start + k_len` of
/// the row. Where `off_q_index` or `off_k_index` is not 0, the `q_len` queries or `k_len` keys are
/// the tokens named there instead. They are cut into `n_seg` segments: segment `s` is queries
/// `cu_q[s]..cu_q[s + 1]` and keys `cu_k[s]..cu_k[s + 1]` of the call's own, and what a query of it
/// sees depends on the [`Kind`]. Stretches that a call does not use are segments without queries or
/// without keys.
///
/// `docs/reference/plan.md` draws a row with its plan.
///
/// ```
/// use treepack_core::attention::Kind;
/// use treepack_core::mask::{Bidirectional, TreeMask};
/// // A root of 6 tokens with branches of 4 and 3.
/// let mask = TreeMask::from_nodes(&[6, 4, 3], &[-1, 0, 0], &[], Bidirectional::None, None)?;
/// let plan = mask.plan()?;
/// let calls: Vec<_> = plan.calls().collect();
/// assert_eq!((plan.header().n_calls, plan.header().used), (2, 13));
/// // The root and its first branch are one causal segment, the second branch another;
/// assert_eq!((calls[0].kind, calls[0].q_len, calls[0].n_seg), (Kind::SelfCausal as i32, 13, 2));
/// // then the second branch sees the root.
/// assert_eq!((calls[1].kind, calls[1].q_start, calls[1].k_len), (Kind::Cross as i32, 10, 6));
/// # Ok::<(), treepack_core::mask::TreeError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What the device reads.
    pub entries: Vec<i32>,
    /// What the host reads.
    pub host: Vec<i32>,
}

impl Plan {
    /// The first fields of the host table.
    ///
    /// # Panics
    ///
    /// When `host` is shorter than a header.
    #[must_use]
    pub fn header(&self) -> HostHeader {
        HostHeader::read(&self.host)
    }

    /// The calls of the host table, in the order in which they run.
    ///
    /// # Panics
    ///
    /// When `host` is shorter than a header.
    pub fn calls(&self) -> impl Iterator<Item = HostCall> + '_ {
        self.host[HostHeader::LEN..]
            .chunks_exact(HostCall::LEN)
            .map(HostCall::read)
    }
}

/// What a query of a segment sees of the segment's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Kind {
    /// The keys up to its own; queries and keys are the same tokens.
    SelfCausal = 0,
    /// All keys.
    Cross = 1,
    /// The keys from its own place on.
    AntiCausal = 2,
    /// As [`Self::AntiCausal`], of tokens named at `off_q_index` and `off_k_index`.
    AntiCausalGathered = 3,
    /// The last `window` keys that end at its own, of the tokens named at `off_k_index`. Queries
    /// and keys of a segment end with the same token.
    Window = 4,
}

impl Kind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 5] = [
        Self::SelfCausal,
        Self::Cross,
        Self::AntiCausal,
        Self::AntiCausalGathered,
        Self::Window,
    ];

    /// The kind of a number in the host table; `None` for another number.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|&kind| kind as i32 == number)
    }

    /// The name that the kind has in Python.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SelfCausal => "SELF",
            Self::Cross => "CROSS",
            Self::AntiCausal => "ANTI_CAUSAL",
            Self::AntiCausalGathered => "ANTI_CAUSAL_GATHERED",
            Self::Window => "WINDOW",
        }
    }
}

/// Declares a stretch of the host table: one int32 for each field, in the order written down.
macro_rules! host_fields {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name { $($(#[$field_doc])* pub $field: i32,)* }

        impl $name {
            /// Names of the fields, in the order of the table.
            pub const FIELDS: &'static [&'static str] = &[$(stringify!($field)),*];
            /// Number of fields.
            pub const LEN: usize = Self::FIELDS.len();

            pub(super) const fn to_array(self) -> [i32; Self::LEN] {
                [$(self.$field),*]
            }

            fn read(table: &[i32]) -> Self {
                let [$($field),*] = std::array::from_fn::<i32, { Self::LEN }, _>(|i| table[i]);
                Self { $($field),* }
            }
        }
    };
}

host_fields! {
    /// The fields with which the host table of a [`Plan`] begins.
    HostHeader {
        /// Number of calls.
        n_calls,
        /// Tokens of the row, padding included.
        total,
        /// Tokens of the row without padding.
        used,
        /// Tokens of its path that a query sees, itself included; 0 for all.
        window,
    }
}

host_fields! {
    /// The fields of one call in the host table of a [`Plan`].
    HostCall {
        /// The number of a [`Kind`].
        kind,
        /// First query; 0 where queries are gathered.
        q_start,
        /// Queries of the call.
        q_len,
        /// First key; 0 where keys are gathered.
        k_start,
        /// Keys of the call.
        k_len,
        /// Number of segments.
        n_seg,
        /// Queries of the longest segment, but at least 2.
        max_q,
        /// Keys of the longest segment, but at least 1.
        max_k,
        /// Where `cu_q` lies in the entries: `n_seg + 1` numbers, counted from `q_start`.
        off_cu_q,
        /// Where `cu_k` lies in the entries: `n_seg + 1` numbers, counted from `k_start`.
        off_cu_k,
        /// Where the indices of the `q_len` queries lie; 0 where the queries are not gathered.
        off_q_index,
        /// Where the indices of the `k_len` keys lie; 0 where the keys are not gathered.
        off_k_index,
    }
}
