//! From node lengths and parents to the mask, the plan, the positions and the targets of a row.

#![allow(missing_docs, reason = "criterion's macros document nothing")]

use std::hint::black_box;

use criterion::{criterion_group, criterion_main, Criterion};
use treepack_core::mask::{Bidirectional, ImageRun, TargetNodes, TreeMask};

const TOTAL: i64 = 16_384;
const EXAMPLES: i64 = 4;
const BRANCHES: i64 = 15;
const FRAMES: i64 = 24;
/// Image and text tokens of a frame.
const FRAME: (i64, i64) = (83, 5);
const BRANCH: i64 = 120;

/// A row of videos, each a root of frames with branches of text that are trained on.
struct Row {
    lengths: Vec<i64>,
    parents: Vec<i64>,
    runs: Vec<ImageRun>,
    trained: Vec<i64>,
    labels: Vec<i64>,
    weights: Vec<f32>,
    end_targets: Vec<i64>,
    end_weights: Vec<f32>,
}

fn row() -> Row {
    let (mut lengths, mut parents, mut runs, mut trained) = (vec![], vec![], vec![], vec![]);
    let (mut node, mut start) = (0, 0);
    for example in 0..EXAMPLES {
        let root = node;
        let frames = (0..FRAMES).map(|frame| {
            let at = start + frame * (FRAME.0 + FRAME.1);
            ImageRun {
                start: at,
                end: at + FRAME.0,
                image: example * FRAMES + frame,
            }
        });
        runs.extend(frames);
        lengths.push(FRAMES * (FRAME.0 + FRAME.1));
        parents.push(-1);
        lengths.extend((0..BRANCHES).map(|_| BRANCH));
        parents.extend((0..BRANCHES).map(|_| root));
        trained.extend(root + 1..=root + BRANCHES);
        node += 1 + BRANCHES;
        start += FRAMES * (FRAME.0 + FRAME.1) + BRANCHES * BRANCH;
    }
    let labels: Vec<i64> = trained.iter().flat_map(|_| 0..BRANCH).collect();
    let weights = vec![1.0; labels.len()];
    let end_targets = vec![2; trained.len()];
    let end_weights = vec![1.0; trained.len()];
    Row {
        lengths,
        parents,
        runs,
        trained,
        labels,
        weights,
        end_targets,
        end_weights,
    }
}

impl Row {
    fn mask(&self, mode: Bidirectional) -> TreeMask {
        TreeMask::from_nodes(&self.lengths, &self.parents, &self.runs, mode, Some(TOTAL)).unwrap()
    }

    fn targets(&self) -> TargetNodes<'_> {
        TargetNodes {
            nodes: &self.trained,
            labels: &self.labels,
            weights: &self.weights,
            end_targets: &self.end_targets,
            end_weights: &self.end_weights,
        }
    }
}

fn parts(c: &mut Criterion) {
    let row = row();
    let mut group = c.benchmark_group("16k row, 4 examples, 60 branches");
    let modes = [
        Bidirectional::None,
        Bidirectional::ImageTokens,
        Bidirectional::WithinImage,
    ];
    for mode in modes {
        group.bench_function(format!("everything, {mode}"), |b| {
            b.iter(|| {
                let mask = black_box(&row).mask(mode);
                let targets = mask.targets(&row.targets()).unwrap();
                (
                    mask.vectors().unwrap(),
                    mask.plan().unwrap(),
                    mask.positions(None).unwrap(),
                    targets,
                )
            });
        });
    }
    let mask = row.mask(Bidirectional::ImageTokens);
    group.bench_function("node table and groups", |b| {
        b.iter(|| black_box(&row).mask(Bidirectional::ImageTokens));
    });
    group.bench_function("vectors", |b| {
        b.iter(|| black_box(&mask).vectors().unwrap());
    });
    group.bench_function("plan", |b| b.iter(|| black_box(&mask).plan().unwrap()));
    group.bench_function("positions", |b| {
        b.iter(|| black_box(&mask).positions(None).unwrap());
    });
    group.bench_function("targets", |b| {
        b.iter(|| mask.targets(&row.targets()).unwrap());
    });
    group.bench_function("block lists, 128 by 128", |b| {
        b.iter(|| black_box(&mask).block_lists(128, 128).unwrap());
    });
    group.bench_function("plan of a window of 1,024", |b| {
        b.iter(|| black_box(&mask).window_plan(1_024).unwrap());
    });
    group.finish();
}

criterion_group!(benches, parts);
criterion_main!(benches);
