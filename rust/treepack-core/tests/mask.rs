//! The laws of masks, positions and targets on random rows: everything equals its definition.

mod common;

use std::collections::BTreeMap;

use common::{rows, valid, Row};
use proptest::collection::vec;
use proptest::prelude::*;
use treepack_core::mask::{Bidirectional, RootPositions, TargetNodes, TreeMask, IGNORE};

fn at(index: i64) -> usize {
    usize::try_from(index).unwrap()
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
    fn the_node_table_is_its_definition(row in rows()) {
        let Some(mask) = valid(&row) else { return Ok(()) };
        let (table, node_of) = (mask.nodes(), row.node_of());
        let roots = row.parents.iter().filter(|&&parent| parent < 0).count();
        prop_assert_eq!((table.len(), table.is_empty()), (row.lengths.len(), false));
        prop_assert_eq!((table.n_examples(), table.used()), (roots, node_of.len()));
        prop_assert_eq!((mask.used(), mask.total()), (node_of.len(), at(row.total)));
        prop_assert_eq!(mask.bidirectional(), row.mode);
        for node in 0..table.len() {
            let path = row.path(node);
            let own: Vec<usize> = (0..node_of.len()).filter(|&t| node_of[t] == node).collect();
            prop_assert_eq!(table.tokens(node).collect::<Vec<_>>(), own);
            prop_assert_eq!(i64::from(table.parent[node]), row.parents[node]);
            prop_assert_eq!(at(table.depth[node].into()), path.len() - 1);
            let before = row.parents[..=path[0]].iter().filter(|&&parent| parent < 0).count();
            prop_assert_eq!(at(table.example[node].into()), before - 1);
            let above = row.tokens_to(node).into_iter().rfind(|&token| node_of[token] != node);
            prop_assert_eq!(usize::try_from(table.before[node]).ok(), above);
            let below = (0..node_of.len()).rfind(|&t| row.path(node_of[t]).contains(&node));
            let end = below.map_or(table.end[node], |last| i32::try_from(last + 1).unwrap());
            prop_assert_eq!(table.subtree_end[node], end.max(table.end[node]));
        }
    }

    #[test]
    fn groups_are_the_image_tokens_that_see_each_other(row in rows()) {
        let Some(mask) = valid(&row) else { return Ok(()) };
        let (node_of, image_of) = (row.node_of(), row.image_of());
        let mut groups: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        for (&token, &image) in &image_of {
            let group = match row.mode {
                Bidirectional::None => continue,
                Bidirectional::ImageTokens => i64::try_from(node_of[token]).unwrap(),
                Bidirectional::WithinImage => image,
            };
            groups.entry(group).or_default().push(token);
        }
        let mut expected: Vec<Vec<usize>> = groups.into_values().collect();
        expected.sort();
        let found: Vec<Vec<usize>> = (0..mask.groups().len())
            .map(|group| {
                let runs = mask.groups().runs(group);
                runs.flat_map(|(start, end)| at(start.into())..at(end.into())).collect()
            })
            .collect();
        prop_assert_eq!(mask.groups().is_empty(), expected.is_empty());
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn groups_give_back_their_runs(row in rows()) {
        let Some(mask) = valid(&row) else { return Ok(()) };
        let again = Row { runs: mask.groups().in_order().unwrap(), ..row };
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
