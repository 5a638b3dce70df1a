//! The same cases from random bytes, without cargo fuzz: `driver CASES [SEED]`.

use arbitrary::{Arbitrary, Unstructured};
use treepack_core::permutation::mix64;
use treepack_fuzz::{check_stream, check_table, Stream, Table};

/// Bytes of a case: many are short, some long.
fn bytes(seed: u64, case: u64) -> Vec<u8> {
    let word = |i: u64| mix64(seed ^ mix64(case.wrapping_mul(1 << 20).wrapping_add(i)));
    let words = 16 + word(0) % [16, 32, 128, 256][(word(1) % 4) as usize];
    (2..words + 2).flat_map(|i| word(i).to_le_bytes()).collect()
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let cases = arguments.next().and_then(Result::ok).unwrap_or(10_000);
    let seed = arguments.next().and_then(Result::ok).unwrap_or(0);
    let start = std::time::Instant::now();
    let mut packed = [0u64; 2];
    for case in 0..cases {
        let bytes = bytes(seed, case);
        let done = std::panic::catch_unwind(|| {
            let stream = Stream::arbitrary_take_rest(Unstructured::new(&bytes));
            let table = Table::arbitrary_take_rest(Unstructured::new(&bytes));
            (
                stream.is_ok_and(|stream| check_stream(&stream)),
                table.is_ok_and(|table| check_table(&table)),
            )
        });
        let Ok((stream, table)) = done else {
            eprintln!("case {case} of seed {seed} breaks a law");
            std::process::exit(1);
        };
        packed[0] += u64::from(stream);
        packed[1] += u64::from(table);
    }
    let seconds = start.elapsed().as_secs();
    let [streams, tables] = packed;
    println!("{cases} cases in {seconds} s: {streams} streams and {tables} tables were packed");
}
