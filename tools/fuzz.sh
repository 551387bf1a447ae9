#!/usr/bin/env bash
# Runs every fuzz target for a while, one after the other, and prints how often each ran.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'EOF'
usage: tools/fuzz.sh [-s SECONDS] [-m] [TARGET...]

Fuzzes each TARGET (all of fuzz/fuzz_targets if none is named) for SECONDS (60), beginning with the
inputs in fuzz/corpus, to which new ones are added. Needs the nightly toolchain and cargo-fuzz.

  -s SECONDS  the time that each target runs
  -m          first makes each corpus as small as it can be (cargo fuzz cmin)
  -h          this text

At the end a table shows how often each target ran. The exit code is 1 if a target found a fault: the
input is in fuzz/artifacts/TARGET, and `cargo +nightly fuzz run TARGET FILE` reproduces it.
EOF
}

seconds=60
minimise=false
while getopts s:mh option; do
    case $option in
        s) seconds=$OPTARG ;;
        m) minimise=true ;;
        h) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
done
shift $((OPTIND - 1))
case $seconds in '' | *[!0-9]*) usage >&2; exit 2 ;; esac

if ! cargo +nightly fuzz --version >/dev/null 2>&1; then
    echo 'tools/fuzz.sh: cargo +nightly fuzz does not run: cargo install --locked cargo-fuzz' >&2
    exit 2
fi
mapfile -t all < <(cargo +nightly fuzz list)
if [ $# -eq 0 ]; then set -- "${all[@]}"; fi
for target; do
    if [[ ! " ${all[*]} " == *" $target "* ]]; then
        echo "tools/fuzz.sh: there is no target $target (there are: ${all[*]})" >&2
        exit 2
    fi
done

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
failed=0
number=0
printf 'building\n'
cargo +nightly fuzz build -O >"$logs/build" 2>&1 || { cat "$logs/build"; exit 1; }
for target; do
    number=$((number + 1))
    printf '[%d of %d] %s: %d s, from %s\n' "$number" $# "$target" "$seconds" "$(date +%H:%M:%S)"
    mkdir -p "fuzz/corpus/$target"
    if $minimise; then
        cargo +nightly fuzz cmin -O "$target" >"$logs/cmin" 2>&1 || { cat "$logs/cmin"; exit 1; }
    fi
    # An input that takes longer than ten seconds is a fault.
    if ! cargo +nightly fuzz run -O "$target" -- -max_total_time="$seconds" -timeout=10 \
        -print_final_stats=1 >"$logs/$target" 2>&1; then
        failed=1
        printf 'FAILED: %s\n' "$target"
        grep -E 'panicked|SUMMARY|Test unit written' "$logs/$target" || tail -n 20 "$logs/$target"
    fi
done

printf '\n%-16s %14s %10s %8s %8s\n' target executions 'a second' corpus result
for target; do
    statistic() { sed -n "s/^stat::$1: *//p" "$logs/$target" | tail -n 1; }
    executions=$(statistic number_of_executed_units)
    # A target without statistics has not run to its end.
    if [ -z "$executions" ] || grep -q 'SUMMARY' "$logs/$target"; then result=FAILED; else result=ok; fi
    printf '%-16s %14s %10s %8s %8s\n' "$target" "$executions" \
        "$(statistic average_exec_per_sec)" "$(find "fuzz/corpus/$target" -type f | wc -l)" "$result"
done
exit $failed
