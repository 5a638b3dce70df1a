#!/usr/bin/env bash
# A seeded sample of the mutants of the core: which faults in it no Rust test would notice.
#
#     tests/mutants/rust.sh                  # packing, then masks and attention; about an hour each
#     tests/mutants/rust.sh packing 50       # one group, fewer mutants
#
# Needs `cargo install cargo-mutants --locked`. Results lie in target/mutants/GROUP; a run that was
# stopped goes on where it was, and mutants that were caught are not tried again.
set -euo pipefail
cd "$(dirname "$0")/../.."

sample() { # file pattern, number: names of mutants, the same ones wherever their lines move to
    cargo mutants --list --json --package treepack-core --file "$1" | python3 -c '
import collections, hashlib, json, re, sys

seen = collections.Counter()
keyed = []
for mutant in json.load(sys.stdin):
    # The name without line and column, and which of several it is.
    place = mutant["file"], re.sub(r":\d+:\d+:", ":", mutant["name"])
    seen[place] += 1
    key = hashlib.sha256(repr(("treepack", place, seen[place])).encode()).digest()
    keyed.append((key, mutant["name"]))
for _, name in sorted(keyed)[: int(sys.argv[1])]:
    print(name)
' "$2"
}

run() { # group, number, file pattern, test targets
    local group=$1 number=$2 files=$3 patterns=()
    shift 3
    local out=target/mutants/$group
    mkdir -p "$out"
    sample "$files" "$number" > "$out/sample.txt"
    while read -r pattern; do patterns+=(--re "^$pattern\$"); done \
        < <(sed 's/[][\\.^$*+?(){}|]/\\&/g' "$out/sample.txt")
    # What is built for one mutant is kept for the next, and for the next run.
    export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target/mutants/build}
    keep "$out"
    # Shrinking a failure costs more than finding it. Missed mutants (status 2) are the result.
    PROPTEST_MAX_SHRINK_ITERS=0 cargo mutants --package treepack-core --file "$files" \
        "${patterns[@]}" --profile mutants --jobs 1 --iterate --output "$out" --no-times \
        --minimum-test-timeout 60 "${@/#/--cargo-arg=}" || test $? -le 3
    keep "$out"
    count() { grep -cxFf "$out/sample.txt" "$1" || true; }
    echo "$group: $(count "$out/caught.txt") caught, $(count "$out/mutants.out/missed.txt") missed," \
        "$(count "$out/unviable.txt") did not compile"
    cat "$out/mutants.out/missed.txt"
}

keep() { # folder: adds the last run to the sums of all runs; a test that never ends has failed too
    local last=$1/mutants.out
    touch "$1/caught.txt" "$1/unviable.txt"
    test -e "$last" || return 0
    sort -u "$1/caught.txt" "$last/caught.txt" "$last/timeout.txt" -o "$1/caught.txt"
    sort -u "$1/unviable.txt" "$last/unviable.txt" -o "$1/unviable.txt"
}

group=${1:-all} number=${2:-120}
if [[ $group = all || $group = packing ]]; then
    run packing "$number" 'rust/treepack-core/src/packing/**' \
        --lib --test={packing,packing_errors,vectors}
fi
if [[ $group = all || $group = masks ]]; then
    run masks "$number" 'rust/treepack-core/src/{mask,attention}/**' \
        --lib --test={mask,mask_errors,attention,vectors}
fi
