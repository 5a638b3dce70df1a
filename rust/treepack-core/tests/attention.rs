//! The laws of plans and block lists on random rows: each is the mask, no pair twice.

mod common;

use common::{rows, valid};
use proptest::prelude::*;
use treepack_core::attention::{BlockTable, HostCall, HostHeader, Kind, Plan, ALIGN};
use treepack_core::mask::{Bidirectional, TreeMask};

/// One of the two sides of a call.
struct Side<'a> {
    /// Where segments begin, counted from the first token of the call.
    cu: &'a [i32],
    /// Row positions of the call's tokens.
    tokens: Vec<usize>,
}

fn at(index: i32) -> usize {
    usize::try_from(index).unwrap()
}

/// Reads one side of a call and checks what every kernel relies on.
fn side<'a>(plan: &'a Plan, call: &HostCall, is_q: bool) -> Side<'a> {
    let (start, len, longest, least) = if is_q {
        (call.q_start, call.q_len, call.max_q, 2)
    } else {
        (call.k_start, call.k_len, call.max_k, 1)
    };
    let (off_cu, off_index) = if is_q {
        (call.off_cu_q, call.off_q_index)
    } else {
        (call.off_cu_k, call.off_k_index)
    };
    let cu = &plan.entries[at(off_cu)..=at(off_cu + call.n_seg)];
    let longest_seen = cu.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert_eq!((cu[0], cu[cu.len() - 1]), (0, len));
    assert!(cu.is_sorted());
    // Flash kernels misread a longest query of 1.
    assert_eq!(longest, longest_seen.max(least));
    for offset in [off_cu, off_index] {
        assert_eq!(at(offset) % ALIGN, 0, "every array begins at 16 bytes");
    }
    let tokens = if off_index > 0 {
        assert_eq!(start, 0);
        let index = &plan.entries[at(off_index)..at(off_index + len)];
        index.iter().map(|&token| at(token)).collect()
    } else {
        (at(start)..at(start + len)).collect()
    };
    Side { cu, tokens }
}

/// How often each pair is computed by a plan.
fn count_pairs(plan: &Plan, total: usize) -> Vec<Vec<u32>> {
    let mut count = vec![vec![0; total]; total];
    let window = plan.header().window;
    for call in plan.calls() {
        let (q, k) = (side(plan, &call, true), side(plan, &call, false));
        let kind = Kind::from_number(call.kind).unwrap();
        for (qs, ks) in q.cu.windows(2).zip(k.cu.windows(2)) {
            let ahead = (ks[1] - ks[0]) - (qs[1] - qs[0]);
            for (i, query) in (0..).zip(&q.tokens[at(qs[0])..at(qs[1])]) {
                for (j, key) in (0..).zip(&k.tokens[at(ks[0])..at(ks[1])]) {
                    let sees = match kind {
                        Kind::SelfCausal => j <= i,
                        Kind::Cross => true,
                        Kind::AntiCausal | Kind::AntiCausalGathered => j >= i,
                        Kind::Window => j <= i + ahead && j > i + ahead - window,
                    };
                    count[*query][*key] += u32::from(sees);
                }
            }
        }
    }
    count
}

/// The pairs of a table, list by list.
fn listed(table: &BlockTable) -> Vec<(usize, usize)> {
    let lists = table.indices.chunks(table.width).zip(&table.counts);
    let blocks = lists.map(|(blocks, &count)| &blocks[..at(count)]);
    (0..)
        .zip(blocks)
        .flat_map(|(list, blocks)| blocks.iter().map(move |&block| (list, at(block))))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn the_plan_computes_every_visible_pair_once(row in rows()) {
        let Some(mask) = valid(&row) else { return Ok(()) };
        let plan = mask.plan().unwrap();
        let once: Vec<Vec<u32>> = row.dense().iter()
            .map(|keys| keys.iter().map(|&seen| u32::from(seen)).collect())
            .collect();
        prop_assert_eq!(count_pairs(&plan, mask.total()), once);
        let HostHeader { n_calls, total, used, window } = plan.header();
        prop_assert_eq!((at(total), at(used), window), (mask.total(), mask.used(), 0));
        prop_assert_eq!(plan.calls().count(), at(n_calls));
        prop_assert_eq!(plan.host.len(), HostHeader::LEN + at(n_calls) * HostCall::LEN);
        prop_assert_eq!(plan.entries.len() % ALIGN, 0);
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
        prop_assert_eq!(mask.window_plan(mask.longest_path().unwrap()), mask.plan());
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
    assert_eq!(i64::from(plan.header().n_calls), depth);
    assert!(plan.entries.len() < 10 * parents.len());
    let positions = mask.positions(None).unwrap();
    assert_eq!(positions[positions.len() - 1], 1);
}

#[test]
fn examples_side_by_side_share_one_call() {
    let parents = [-1, 0, 0, -1, 3, 3, 3];
    let mask = TreeMask::from_nodes(&[2; 7], &parents, &[], Bidirectional::None, None).unwrap();
    assert_eq!(mask.plan().unwrap().header().n_calls, 2);
}

#[test]
fn kinds_are_numbered_in_order_and_found_by_their_number() {
    for (number, kind) in (0..).zip(Kind::ALL) {
        assert_eq!(
            (kind as i32, Kind::from_number(number)),
            (number, Some(kind))
        );
    }
    assert_eq!(Kind::from_number(5), None);
    assert_eq!(Kind::from_number(-1), None);
    let names: Vec<&str> = Kind::ALL.map(Kind::name).to_vec();
    assert_eq!(
        names.join(" "),
        "SELF CROSS ANTI_CAUSAL ANTI_CAUSAL_GATHERED WINDOW"
    );
}
