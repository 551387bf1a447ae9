#!/usr/bin/env bash
# Every public item of the crate but those with the feature `testing`, as docs/public-api.txt lists it.
#
#   tools/public-api.sh           compares the list with the code: fails if they differ, or if an item of the last
#                                 version tag is gone although the version promises that it is not
#   tools/public-api.sh update    writes the list
#
# Needs a nightly toolchain, for rustdoc's JSON, and cargo-public-api.
set -euo pipefail
cd "$(dirname "$0")/.."
list=docs/public-api.txt

for tool in "cargo +nightly --version" "cargo public-api --version"; do
    if ! $tool >/dev/null 2>&1; then
        printf 'the public API is not compared: there is no `%s`\n' "${tool% --version}"
        # In CI nobody reads that message, so a missing tool is a failure there.
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

# Fails if an item of the last tagged version is gone although a program that was built with it may use it. Before 1.0 a
# minor version may remove items, and from then on only a major one.
keeps_promises() {
    local last version gone
    last=$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null) || {
        printf 'no version is tagged, so none is compared with\n'
        return 0
    }
    version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
    compatible() { sed -E 's/^v?(0\.[0-9]+|[1-9][0-9]*)\..*/\1/' <<<"$1"; }
    gone=$(comm -23 <(git show "$last:$list" | sort) <(sort "$list"))
    if [ -n "$gone" ] && [ "$(compatible "$last")" = "$(compatible "$version")" ]; then
        printf '%s\n\nGone since %s: the version %s has to be raised.\n' "$gone" "$last" "$version" >&2
        return 1
    fi
    printf 'nothing of %s is gone that %s promises\n' "$last" "$version"
}

case "${1-}" in
    "")
        if ! diff -u "$list" "$now"; then
            printf '\nThe public API changed. If it is meant to: tools/public-api.sh update\n' >&2
            exit 1
        fi
        keeps_promises
        ;;
    update) cat "$now" >"$list" ;;
    *)
        sed -n '2,8s/^# \{0,1\}//p' "$0"
        exit 2
        ;;
esac
