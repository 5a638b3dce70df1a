//! The laws of the tree room, on random rows: everything equals its definition.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use treepack_core::tree::{
    Bidirectional, BlockTable, ImageRun, Plan, RootPositions, TargetNodes, TreeError, TreeMask,
    IGNORE,
};

/// What `from_nodes` takes.
#[derive(Debug, Clone)]
struct Row {
    lengths: Vec<i64>,
    parents: Vec<i64>,
    runs: Vec<ImageRun>,
    mode: Bidirectional,
    total: i64,
}

impl Row {
    fn mask(&self) -> Result<TreeMask, TreeError> {
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
    fn node_of(&self) -> Vec<usize> {
        let repeat = |(node, &length): (usize, &i64)| vec![node; usize::try_from(length).unwrap()];
        self.lengths.iter().enumerate().flat_map(repeat).collect()
    }

    /// The node and its ancestors, from the root down.
    fn path(&self, node: usize) -> Vec<usize> {
        let up = |&node: &usize| usize::try_from(self.parents[node]).ok();
        let mut path: Vec<usize> = std::iter::successors(Some(node), up).collect();
        path.reverse();
        path
    }

    /// The row positions on the path to a node's end.
    fn tokens_to(&self, node: usize) -> Vec<usize> {
        let (path, node_of) = (self.path(node), self.node_of());
        (0..node_of.len())
            .filter(|&token| path.contains(&node_of[token]))
            .collect()
    }

    /// The image of each token that has one.
    fn image_of(&self) -> BTreeMap<usize, i64> {
        let tokens = |run: &ImageRun| {
            let (start, end) = (usize::try_from(run.start), usize::try_from(run.end));
            let image = run.image;
            (start.unwrap()..end.unwrap()).map(move |token| (token, image))
        };
        self.runs.iter().flat_map(tokens).collect()
    }

    /// The mask, straight from the definition.
    fn dense(&self) -> Vec<Vec<bool>> {
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
    fn interleaves(&self) -> bool {
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
    fn rows()(
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

/// How often each pair is computed by a plan.
fn count_pairs(plan: &Plan, total: usize) -> Vec<Vec<u32>> {
    let at = |index: i32| usize::try_from(index).unwrap();
    let mut count = vec![vec![0; total]; total];
    for call in plan.host[4..].chunks_exact(12) {
        let segments = at(call[5]);
        let cuts = |offset: i32| &plan.entries[at(offset)..=at(offset) + segments];
        let (cu_q, cu_k) = (cuts(call[8]), cuts(call[9]));
        assert!(
            call[8..].iter().all(|offset| offset % 4 == 0),
            "every array begins at 16 bytes"
        );
        assert_eq!([cu_q[0], cu_k[0]], [0, 0]);
        assert!(
            call[6] >= 2 && call[7] >= 1,
            "flash kernels misread a longest query of 1"
        );
        assert_eq!([cu_q[segments], cu_k[segments]], [call[2], call[4]]);
        let row = |side: usize, cut: i32| match call[0] {
            3 => at(plan.entries[at(call[10 + side] + cut)]),
            4 if side == 1 => at(plan.entries[at(call[11] + cut)]),
            _ => at(call[1 + 2 * side] + cut),
        };
        for (q, k) in cu_q.windows(2).zip(cu_k.windows(2)) {
            assert!(
                q[1] - q[0] <= call[6] && k[1] - k[0] <= call[7],
                "no longer than announced"
            );
            let ahead = (k[1] - k[0]) - (q[1] - q[0]);
            for (i, q) in (0..).zip(q[0]..q[1]) {
                for (j, k) in (0..).zip(k[0]..k[1]) {
                    let sees = match call[0] {
                        0 => j <= i,
                        1 => true,
                        4 => j <= i + ahead && j > i + ahead - plan.host[3],
                        _ => j >= i,
                    };
                    count[row(0, q)][row(1, k)] += u32::from(sees);
                }
            }
        }
    }
    count
}

/// The pairs of a table, row by row.
fn listed(table: &BlockTable) -> Vec<(usize, usize)> {
    let rows = table.indices.chunks(table.width).zip(&table.counts);
    let blocks = rows.map(|(blocks, &count)| &blocks[..usize::try_from(count).unwrap()]);
    (0..)
        .zip(blocks)
        .flat_map(|(row, blocks)| blocks.iter().map(move |&b| (row, b.try_into().unwrap())))
        .collect()
}

/// A row that is valid, or whose only fault is that its images alternate.
fn valid(row: &Row) -> Option<TreeMask> {
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn the_mask_is_its_definition(row in rows()) {
        let Some(mask) = valid(&row) else { return Ok(()) };
        let dense = row.dense();
        prop_assert_eq!(mask.to_dense().unwrap(), dense.concat());
        let area = dense.concat().iter().filter(|&&seen| seen).count();
        prop_assert_eq!(mask.area(), area as u64);
        for (q, keys) in (0..).zip(&dense) {
            for (k, &seen) in (0..).zip(keys) {
                prop_assert_eq!(mask.visible(q, k), Ok(seen));
            }
        }
    }

    #[test]
    fn the_plan_computes_every_visible_pair_once(row in rows()) {
        let Some(mask) = valid(&row) else { return Ok(()) };
        let plan = mask.plan().unwrap();
        let once: Vec<Vec<u32>> = row.dense().iter()
            .map(|keys| keys.iter().map(|&seen| u32::from(seen)).collect())
            .collect();
        prop_assert_eq!(count_pairs(&plan, mask.total()), once);
        prop_assert_eq!(&plan.host[1..4], &[
            i32::try_from(mask.total()).unwrap(), i32::try_from(mask.used()).unwrap(), 0,
        ]);
    }

    #[test]
    fn a_window_hides_what_is_further_back_on_the_path(row in rows(), window in 1usize..12) {
        let Some(mask) = valid(&row) else { return Ok(()) };
        let plan = mask.window_plan(window).unwrap();
        let place = mask.positions(None).unwrap();
        let far = |q: usize, k: usize| k < q && place[q] - place[k] >= i64::try_from(window).unwrap();
        let once: Vec<Vec<u32>> = row.dense().iter().enumerate()
            .map(|(q, keys)| keys.iter().enumerate()
                .map(|(k, &seen)| u32::from(seen && !far(q, k))).collect())
            .collect();
        prop_assert_eq!(count_pairs(&plan, mask.total()), once);
        prop_assert_eq!(mask.window_plan(mask.longest_path()), mask.plan());
    }

    #[test]
    fn blocks_are_listed_from_both_sides_exactly(
        row in rows(), block_q in 1usize..20, block_k in 1usize..20,
    ) {
        let Some(mask) = valid(&row) else { return Ok(()) };
        let lists = mask.block_lists(block_q, block_k).unwrap();
        let dense = row.dense();
        let (nq, nk) = (dense.len().div_ceil(block_q), dense.len().div_ceil(block_k));
        let (mut partial, mut full) = (vec![], vec![]);
        for (q, k) in (0..nq).flat_map(|q| (0..nk).map(move |k| (q, k))) {
            let keys = dense.iter().skip(q * block_q).take(block_q);
            let block = keys.flat_map(|keys| keys.iter().skip(k * block_k).take(block_k));
            match (block.clone().any(|&seen| seen), block.clone().all(|&seen| seen)) {
                (_, true) => full.push((q, k)),
                (true, _) => partial.push((q, k)),
                _ => {}
            }
        }
        prop_assert_eq!(listed(&lists.kv_partial), partial.clone());
        prop_assert_eq!(listed(&lists.kv_full), full.clone());
        for (by_k, mut pairs) in [(&lists.q_partial, partial), (&lists.q_full, full)] {
            pairs.sort_unstable_by_key(|&(q, k)| (k, q));
            let turned: Vec<_> = listed(by_k).into_iter().map(|(k, q)| (q, k)).collect();
            prop_assert_eq!(turned, pairs);
        }
    }

    #[test]
    fn groups_give_back_their_runs(row in rows()) {
        let Some(mask) = valid(&row) else { return Ok(()) };
        let again = Row { runs: mask.groups().in_order(), ..row };
        prop_assert_eq!(again.mask().unwrap(), mask);
    }

    #[test]
    fn positions_count_along_each_path(row in rows(), first in -9i64..9, axes in 1usize..4) {
        let row = Row { runs: vec![], ..row };
        let mask = row.mask().unwrap();
        let total = mask.total();
        let plain = mask.positions(None).unwrap();
        let values: Vec<i64> = (first..).step_by(3).take(axes * total).collect();
        let rows = mask.positions(Some(RootPositions { values: &values, axes })).unwrap();
        for (token, &node) in row.node_of().iter().enumerate() {
            let path = row.tokens_to(node);
            let place = path.iter().position(|&other| other == token).unwrap();
            prop_assert_eq!(plain[token], i64::try_from(place).unwrap());
            for axis in 0..axes {
                let at = axis * total + token;
                let goes_on = row.parents[node] >= 0;
                let expected = if goes_on { rows[axis * total + path[place - 1]] + 1 } else { values[at] };
                prop_assert_eq!(rows[at], expected);
            }
        }
        prop_assert!(plain[mask.used()..].iter().all(|&position| position == 0));
    }

    #[test]
    fn a_target_is_predicted_by_the_token_before_it_on_its_path(
        row in rows(),
        chosen in vec(any::<bool>(), 9),
        labels in vec(prop::sample::select(vec![IGNORE, 5, 6]), 56),
        end_targets in vec(prop::sample::select(vec![IGNORE, 2]), 9),
    ) {
        let row = Row { runs: vec![], ..row };
        let mask = row.mask().unwrap();
        let nodes: Vec<usize> = (0..row.lengths.len()).filter(|&node| chosen[node]).collect();
        let count = nodes.iter().map(|&node| mask.nodes().tokens(node).len()).sum::<usize>();
        let weights: Vec<f32> = (0..56u8).map(f32::from).collect();
        let found = mask.targets(&TargetNodes {
            nodes: &nodes.iter().map(|&node| i64::try_from(node).unwrap()).collect::<Vec<_>>(),
            labels: &labels[..count],
            weights: &weights[..count],
            end_targets: &end_targets[..nodes.len()],
            end_weights: &weights[..nodes.len()],
        }).unwrap();

        let mut expected = vec![];
        let mut given = labels.iter().zip(&weights);
        for (entry, &node) in nodes.iter().enumerate() {
            let path = row.tokens_to(node);
            for token in mask.nodes().tokens(node) {
                let (&label, &weight) = given.next().unwrap();
                let place = path.iter().position(|&other| other == token).unwrap();
                if place > 0 {
                    expected.push((path[place - 1], label, weight));
                }
            }
            expected.push((path[path.len() - 1], end_targets[entry], weights[entry]));
        }
        expected.retain(|&(_, token, _)| token != IGNORE);
        let position = found.position.iter().map(|&position| usize::try_from(position).unwrap());
        let parts = position.zip(found.token).zip(found.weight);
        prop_assert_eq!(parts.map(|((p, t), w)| (p, t, w)).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn a_deep_chain_is_one_causal_call() {
    let n = 100_000;
    let parents: Vec<i64> = (-1..n - 1).collect();
    let lengths = vec![1; parents.len()];
    let mask = TreeMask::from_nodes(&lengths, &parents, &[], Bidirectional::None, None).unwrap();
    let flat = TreeMask::from_nodes(&[n], &[-1], &[], Bidirectional::None, None).unwrap();
    assert_eq!(mask.vectors(), flat.vectors());
    assert_eq!(mask.plan(), flat.plan());
    assert_eq!(mask.positions(None), flat.positions(None));
    assert_eq!(mask.area(), flat.area());
}

#[test]
fn a_deep_comb_takes_a_call_for_each_tooth() {
    // Each node has the next one as its first child and a leaf as its second.
    let depth = 50_000;
    let mut parents: Vec<i64> = (-1..depth - 1).collect();
    parents.extend((0..depth - 1).rev());
    let lengths = vec![1; parents.len()];
    let mask = TreeMask::from_nodes(&lengths, &parents, &[], Bidirectional::None, None).unwrap();
    let plan = mask.plan().unwrap();
    assert_eq!(i64::from(plan.host[0]), depth);
    assert!(plan.entries.len() < 10 * parents.len());
    let positions = mask.positions(None).unwrap();
    assert_eq!(positions[positions.len() - 1], 1);
}

#[test]
fn examples_side_by_side_share_one_call() {
    let parents = [-1, 0, 0, -1, 3, 3, 3];
    let mask = TreeMask::from_nodes(&[2; 7], &parents, &[], Bidirectional::None, None).unwrap();
    assert_eq!(mask.plan().unwrap().host[0], 2);
}

#[test]
fn empty_nodes_are_looked_through() {
    // A root, an empty child, its child of two tokens: one chain of five tokens.
    let none = Bidirectional::None;
    let mask = TreeMask::from_nodes(&[3, 0, 2, 0], &[-1, 0, 1, 0], &[], none, None).unwrap();
    assert_eq!(
        mask.plan(),
        TreeMask::from_nodes(&[5], &[-1], &[], none, None)
            .unwrap()
            .plan()
    );
    assert_eq!(mask.positions(None).unwrap(), [0, 1, 2, 3, 4]);
}
