#!/usr/bin/env bash
# Measures, and draws docs/performance/*.svg.
#
#   tools/performance.sh          measure (a few minutes; best with nothing else running), then draw
#   tools/performance.sh draw     draw what was measured last
#
# What was measured is kept beside the pictures, in docs/performance/figures.tsv.
set -euo pipefail
cd "$(dirname "$0")/.."
directory=docs/performance
figures=$directory/figures.tsv

case "${1-}" in
    "")
        mkdir -p "$directory"
        # The benches are built before the first of them runs: a compiler beside a measurement would disturb it.
        cargo bench --locked --quiet --no-run --bench rpc --bench locks
        new=$(mktemp)
        trap 'rm -f "$new"' EXIT
        # The pictures name the machine.
        processor=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
        printf 'machine\t%s, %s cores, Linux %s, %s\n' "${processor:-$(uname -m)}" "$(nproc)" \
            "$(uname -r | cut -d. -f1,2)" "$(date +%F)" >"$new"
        for bench in rpc locks; do
            printf '\n== %s\n' "$bench"
            LIBOS_IPC_BENCH_OUT=$new cargo bench --locked --quiet --bench "$bench"
        done
        # The file is replaced only now, so that an interrupted run leaves the last figures as they are.
        cat "$new" >"$figures"
        ;;
    draw) ;;
    *)
        sed -n '2,7s/^# \{0,1\}//p' "$0"
        exit 2
        ;;
esac
cargo run --locked --quiet --manifest-path tools/plot/Cargo.toml -- "$figures" "$directory"
printf '\ndrawn: %s\n' "$directory"/*.svg
