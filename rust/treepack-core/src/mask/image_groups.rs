//! Image tokens that see each other in both directions.

use std::fmt;
use std::str::FromStr;

use super::error::TreeError;
use super::image_runs::{checked_runs, first_runs, ImageRun};
use super::int::{index, int32};
use super::nodes::NodeTable;
use crate::room::{self, NoMemory};

/// Which image tokens see each other regardless of order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Bidirectional {
    /// None: the mask is causal along each path.
    #[default]
    None,
    /// All image tokens of a node, across its images; text between them stays causal.
    ImageTokens,
    /// Those of one image.
    WithinImage,
}

impl Bidirectional {
    /// The mode's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ImageTokens => "image_tokens",
            Self::WithinImage => "within_image",
        }
    }
}

impl fmt::Display for Bidirectional {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Bidirectional {
    type Err = TreeError;

    fn from_str(name: &str) -> Result<Self, TreeError> {
        [Self::None, Self::ImageTokens, Self::WithinImage]
            .into_iter()
            .find(|mode| mode.name() == name)
            .ok_or_else(|| TreeError::UnknownMode {
                mode: name.to_owned(),
            })
    }
}

/// Groups of image tokens; group `g` is the runs `ptr[g]..ptr[g + 1]`.
///
/// Groups are in the order of their first token, runs in increasing order within a group. Runs are
/// maximal: two that touch are one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageGroups {
    /// First token of each run.
    pub run_start: Vec<i32>,
    /// One past the last token of each run.
    pub run_end: Vec<i32>,
    /// Where the runs of each group begin, and one entry more.
    pub ptr: Vec<i32>,
}

/// Eight bytes each: what all vectors of one entry a run take together, at most.
const RUN_WORDS: usize = 14;

/// A run that has been validated, with the group that it belongs to.
struct Member {
    start: i32,
    end: i32,
    group: usize,
}

impl ImageGroups {
    pub(super) fn new(
        runs: &[ImageRun],
        mode: Bidirectional,
        nodes: &NodeTable,
        total: i32,
    ) -> Result<Self, TreeError> {
        room::check::<[u64; RUN_WORDS]>("image runs", runs.len())?;
        let (bounds, node_of) = checked_runs(runs, nodes, total)?;
        let first_of = first_runs(runs, &node_of)?;
        let group_of = match mode {
            Bidirectional::None => return Ok(Self::from_members(Vec::new())),
            Bidirectional::ImageTokens => number(runs.len(), |r| node_of[r] == node_of[r - 1]),
            Bidirectional::WithinImage => {
                check_nesting(runs, &first_of)?;
                number_by_first(&first_of)
            }
        };
        let members = bounds.into_iter().zip(group_of);
        Ok(Self::from_members(
            members
                .map(|((start, end), group)| Member { start, end, group })
                .collect(),
        ))
    }

    fn from_members(mut members: Vec<Member>) -> Self {
        members.sort_by_key(|member| member.group);
        members.dedup_by(|next, kept| {
            let touch = next.group == kept.group && next.start == kept.end;
            if touch {
                kept.end = next.end;
            }
            touch
        });
        let mut ptr = vec![0];
        for (run, pair) in members.windows(2).enumerate() {
            if pair[0].group != pair[1].group {
                ptr.push(int32(run) + 1);
            }
        }
        if !members.is_empty() {
            ptr.push(int32(members.len()));
        }
        Self {
            run_start: members.iter().map(|member| member.start).collect(),
            run_end: members.iter().map(|member| member.end).collect(),
            ptr,
        }
    }

    /// Number of groups.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ptr.len() - 1
    }

    /// Whether no token sees ahead.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The runs `(start, end)` of one group.
    ///
    /// # Panics
    ///
    /// When there is no such group.
    pub fn runs(&self, group: usize) -> impl Iterator<Item = (i32, i32)> + '_ {
        let range = index(self.ptr[group])..index(self.ptr[group + 1]);
        let ends = &self.run_end[range.clone()];
        self.run_start[range]
            .iter()
            .copied()
            .zip(ends.iter().copied())
    }

    /// First and last token of a group.
    pub(crate) fn span(&self, group: usize) -> (i32, i32) {
        let (first, next) = (index(self.ptr[group]), index(self.ptr[group + 1]));
        (self.run_start[first], self.run_end[next - 1] - 1)
    }

    /// Number of tokens in a group.
    pub(crate) fn size(&self, group: usize) -> i32 {
        self.runs(group).map(|(start, end)| end - start).sum()
    }

    /// Whether two tokens are of one group.
    pub(super) fn share(&self, q: i32, k: i32) -> bool {
        let holds = |group, token| {
            self.runs(group)
                .any(|(start, end)| (start..end).contains(&token))
        };
        (0..self.len()).any(|group| holds(group, q) && holds(group, k))
    }

    /// The runs by position, each with the number of its group as its image.
    ///
    /// # Errors
    ///
    /// [`NoMemory`].
    pub fn in_order(&self) -> Result<Vec<ImageRun>, NoMemory> {
        let mut runs = room::room("image runs", self.run_start.len())?;
        for (group, image) in (0..self.len()).zip(0..) {
            let whole = |(start, end): (i32, i32)| ImageRun {
                start: start.into(),
                end: end.into(),
                image,
            };
            runs.extend(self.runs(group).map(whole));
        }
        runs.sort_unstable_by_key(|run: &ImageRun| run.start);
        Ok(runs)
    }
}

/// Rejects A B A B: an image that was left for good when an outer one went on must not return.
fn check_nesting(runs: &[ImageRun], first_of: &[usize]) -> Result<(), TreeError> {
    let mut open: Vec<usize> = Vec::new();
    // The image that went on while this one, which began inside it, was open.
    let mut closed_by: Vec<Option<usize>> = vec![None; runs.len()];
    for (run, &first) in first_of.iter().enumerate() {
        if let Some(other) = closed_by[first] {
            let (image, other) = (runs[run].image, runs[other].image);
            return Err(TreeError::GroupsInterleaved { image, other, run });
        }
        if first == run {
            open.push(first);
        }
        while let Some(&inner) = open.last().filter(|top| **top != first) {
            closed_by[inner] = Some(first);
            open.pop();
        }
    }
    Ok(())
}

fn number(len: usize, same_as_previous: impl Fn(usize) -> bool) -> Vec<usize> {
    let mut group = 0;
    (0..len)
        .map(|run| {
            group += usize::from(run > 0 && !same_as_previous(run));
            group
        })
        .collect()
}

fn number_by_first(first_of: &[usize]) -> Vec<usize> {
    let mut groups = 0;
    let mut group_of = vec![0; first_of.len()];
    for (run, &first) in first_of.iter().enumerate() {
        if first == run {
            group_of[run] = groups;
            groups += 1;
        } else {
            group_of[run] = group_of[first];
        }
    }
    group_of
}
