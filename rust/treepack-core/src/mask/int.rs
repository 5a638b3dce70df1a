//! The only conversions between row positions (int32 at every border) and indices.
//!
//! [`super::TreeMask::from_nodes`] keeps every position, node and group in
//! `0..=i32::MAX`, so neither direction can lose anything.

#[expect(
    clippy::cast_sign_loss,
    reason = "checked by from_nodes: never negative"
)]
pub(crate) const fn index(position: i32) -> usize {
    position as usize
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "checked by from_nodes: at most i32::MAX"
)]
#[expect(
    clippy::cast_possible_wrap,
    reason = "checked by from_nodes: at most i32::MAX"
)]
pub(crate) const fn int32(index: usize) -> i32 {
    index as i32
}
