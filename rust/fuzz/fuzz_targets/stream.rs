//! For cargo fuzz; see the library.

#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|case: treepack_fuzz::Stream| {
    treepack_fuzz::check_stream(&case);
});

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("run by cargo fuzz; without it, cargo run --bin driver does the same");
}
