//! The packs and plans that the reference implementations give, number for number.
//!
//! The files are written by `tests/helpers/core_vectors.py`: three lines for each case.

use std::collections::BTreeMap;
use std::str::FromStr;

use treepack_core::mask::{ImageRun, TreeMask};
use treepack_core::packing::{Pack, Packer, Search, Settings, Solver};

/// The three lines of each case.
fn cases(text: &str) -> impl Iterator<Item = [&str; 3]> {
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len() % 3, 0);
    (0..lines.len() / 3).map(move |i| [lines[3 * i], lines[3 * i + 1], lines[3 * i + 2]])
}

fn fields(line: &str) -> BTreeMap<&str, &str> {
    line.split(' ')
        .map(|field| field.split_once('=').unwrap())
        .collect()
}

fn numbers<T: FromStr<Err: std::fmt::Debug>>(text: &str, separator: char) -> Vec<T> {
    let words = text.split(separator).filter(|word| !word.is_empty());
    words.map(|word| word.parse().unwrap()).collect()
}

fn packer(fields: &BTreeMap<&str, &str>) -> Packer<usize> {
    let number = |name: &str| fields[name].parse().unwrap();
    let settings = Settings {
        pool_size: usize::try_from(number("pool_size")).unwrap(),
        early: fields["early"] == "1",
        solver: match fields["solver"] {
            "first_fit" => Solver::FirstFit,
            _ => Solver::Anchors,
        },
        search: Search {
            anchors: number("anchors"),
            steps: number("steps"),
            gamma: number("gamma"),
            age: number("age"),
            ..Search::default()
        },
        ..Settings::default()
    };
    let budgets = numbers(fields["budgets"], ',').into_iter().enumerate();
    let named = budgets.map(|(d, size)| (format!("b{d}"), size)).collect();
    Packer::new(named, settings).unwrap()
}

#[test]
fn packs_are_those_of_the_reference() {
    for [first, costs, packs] in cases(include_str!("vectors/packs.txt")) {
        let mut packer = packer(&fields(first));
        let mut found = Vec::new();
        let mut note = |arrival: usize, pack: Pack<usize>| {
            let keys: Vec<String> = pack.keys.iter().map(ToString::to_string).collect();
            found.push(format!("{arrival}:{}", keys.join(",")));
        };
        let mut arrivals = 0;
        for cost in costs.split(' ') {
            if let Some(pack) = packer.push(arrivals, &numbers(cost, ',')).unwrap() {
                note(arrivals, pack);
            }
            arrivals += 1;
        }
        while let Some(pack) = packer.pop() {
            assert!(!pack.keys.is_empty(), "{first}");
            note(arrivals, pack);
        }
        assert_eq!(found.join(" "), packs, "{first}");
    }
}

#[test]
fn plans_are_those_of_the_reference() {
    for [first, entries, host] in cases(include_str!("vectors/plans.txt")) {
        let fields = fields(first);
        let runs = fields["runs"].split(';').filter(|run| !run.is_empty());
        let runs: Vec<ImageRun> = runs
            .map(|run| {
                let run = numbers(run, ',');
                ImageRun {
                    start: run[0],
                    end: run[1],
                    image: run[2],
                }
            })
            .collect();
        let mask = TreeMask::from_nodes(
            &numbers(fields["lengths"], ','),
            &numbers(fields["parents"], ','),
            &runs,
            fields["mode"].parse().unwrap(),
            Some(fields["total"].parse().unwrap()),
        )
        .unwrap();
        let plan = match fields["window"].parse().unwrap() {
            0 => mask.plan(),
            window => mask.window_plan(window),
        };
        let plan = plan.unwrap();
        assert_eq!(plan.entries, numbers::<i32>(entries, ' '), "{first}");
        assert_eq!(plan.host, numbers::<i32>(host, ' '), "{first}");
    }
}
