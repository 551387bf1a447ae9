#!/usr/bin/env bash
# Every public item of the crate but those with the feature `testing`, as docs/public-api.txt lists it.
#
#   tools/public-api.sh           compares the list with the code: fails if they differ
#   tools/public-api.sh update    writes the list
#
# Needs a nightly toolchain, for rustdoc's JSON, and cargo-public-api.
set -euo pipefail
cd "$(dirname "$0")/.."
list=docs/public-api.txt

for tool in "cargo +nightly --version" "cargo public-api --version"; do
    if ! $tool >/dev/null 2>&1; then
        printf 'the public API is not compared: there is no `%s`\n' "${tool% --version}"
        # Where nobody reads that, it is a failure.
        [ -z "${CI-}" ] || exit 1
        exit 0
    fi
done
now=$(mktemp)
trap 'rm -f "$now"' EXIT
# Without blanket, automatic and derived implementations: they follow from the rest.
cargo +nightly public-api --package libos-ipc --features capi,log,secure --color never -sss \
    >"$now" 2>"$now.log" || {
    cat "$now.log" >&2
    rm -f "$now.log"
    exit 1
}
rm -f "$now.log"

case "${1-}" in
    "")
        if ! diff -u "$list" "$now"; then
            printf '\nThe public API changed. If it is meant to: tools/public-api.sh update\n' >&2
            exit 1
        fi
        ;;
    update) cat "$now" >"$list" ;;
    *)
        sed -n '2,7s/^# \{0,1\}//p' "$0"
        exit 2
        ;;
esac
