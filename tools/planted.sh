#!/usr/bin/env bash
# Plants each bug of tools/planted in a copy of the tree, and prints which seed of the simulator finds
# it, and which check. `tools/planted.sh NAME…` takes only these.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
export CARGO_TARGET_DIR=$root/target/planted
names=("$@")
if [ ${#names[@]} = 0 ]; then
    for patch in tools/planted/*.patch; do names+=("$(basename "$patch" .patch)"); done
fi
failed=0
printf '%-14s %-8s %s\n' planted 'seed' 'found by'
for name in "${names[@]}"; do
    rm -rf "$copy/tree"
    mkdir "$copy/tree"
    git ls-files -z | xargs -0 cp --parents -t "$copy/tree"
    patch --quiet --directory "$copy/tree" --strip 1 <"tools/planted/$name.patch"
    (cd "$copy/tree" && cargo build --quiet --release --example sim)
    # A bug may keep a run from ending: that is not found.
    told=$(timeout 300 "$CARGO_TARGET_DIR/release/examples/sim" --runs 20000 --no-shrink --jobs 1 || true)
    seed=$(sed -n 's/^again: .*--seed \([0-9]*\).*/\1/p' <<<"$told" | tail -1)
    if [ -z "$seed" ]; then
        printf '%-14s %-8s %s\n' "$name" - 'NOT FOUND in 20000 seeds or 5 minutes'
        failed=1
        continue
    fi
    check=$("$CARGO_TARGET_DIR/release/examples/sim" --seed "$seed" --no-shrink | sed -n 's/^sim: FAILED: \([^:]*\).*/\1/p' || true)
    printf '%-14s %-8s %s\n' "$name" "$seed" "$check"
done
exit $failed
