//! Time of a push into a pool that is full, for several numbers of budgets and pool sizes.

#![allow(missing_docs, reason = "criterion's macro makes a public function")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{criterion_group, criterion_main, BenchmarkId, Criterion};
use treepack_core::packing::{Packer, Settings};
use treepack_core::permutation::mix64;

const BUDGETS: [u64; 6] = [16_384, 128, 1 << 20, 512, 4_096, 64];

/// Sizes from a twentieth of each budget up, skewed to small ones.
fn cost(key: u64, width: usize) -> Vec<u64> {
    let share = |d: u64| mix64(key * 8 + d) % 1_000;
    (0..width)
        .map(|d| (BUDGETS[d] * (50 + share(d as u64) * share(7) / 2_500) / 1_000).max(1))
        .collect()
}

fn push(c: &mut Criterion) {
    let mut group = c.benchmark_group("push");
    for (width, pool_size) in [(1, 48), (2, 48), (6, 48), (2, 512), (2, 4_096)] {
        let budgets = (0..width).map(|d| (format!("b{d}"), BUDGETS[d])).collect();
        let settings = Settings {
            pool_size,
            ..Settings::default()
        };
        let mut packer = Packer::new(budgets, settings).unwrap();
        let mut key = 0;
        let id = BenchmarkId::from_parameter(format!("{width} budgets, pool {pool_size}"));
        group.bench_function(id, |b| {
            b.iter_custom(|packs| {
                (0..packs)
                    .map(|_| next_pack(&mut packer, &mut key, width))
                    .sum()
            });
        });
    }
    group.finish();
}

/// Pushes until a pack goes; the time of that last push.
fn next_pack(packer: &mut Packer<u64>, key: &mut u64, width: usize) -> Duration {
    loop {
        *key += 1;
        let cost = cost(*key, width);
        let start = Instant::now();
        if black_box(packer.push(*key, &cost).unwrap()).is_some() {
            return start.elapsed();
        }
    }
}

criterion_group!(benches, push);
criterion_main!(benches);
