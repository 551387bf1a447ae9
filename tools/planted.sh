#!/usr/bin/env bash
# Plants each bug of tools/planted in a copy of the tree, one after the other, and prints the first seed of
# the simulator for which the check of the same name fails; in brackets, the checks that failed for earlier
# seeds. The exit code is 1 if that check does not fail. Of several bugs for one check each has a name of its
# own behind the check's: shares.zombies.
# `tools/planted.sh NAME…` plants only these bugs. A patch may begin with a line that states the faults of its runs.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR=$PWD/target/planted
# The tree is built again for each bug, so a fast build matters more than fast code.
export CARGO_INCREMENTAL=1
quick=(--config 'profile.release.package.libos-ipc.opt-level=1'
    --config 'profile.release.package.libos-ipc.debug=0'
    --config 'profile.release.package.libos-ipc-simulator.opt-level=1'
    --config 'profile.release.package.libos-ipc-simulator.debug=0')
sim=$CARGO_TARGET_DIR/release/examples/sim
tree=$CARGO_TARGET_DIR/tree
rm -rf "$tree"
mkdir -p "$tree"
git ls-files -z | xargs -0 cp --parents -t "$tree"
names=("$@")
if [ ${#names[@]} = 0 ]; then
    for patch in tools/planted/*.patch; do names+=("$(basename "$patch" .patch)"); done
fi
failed=0
printf '%-12s %-6s %s\n' planted seed 'found by'
for name in "${names[@]}"; do
    patch=$PWD/tools/planted/$name.patch
    patch --quiet --directory "$tree" --strip 1 <"$patch"
    faults=$(sed -n 's/^faults: //p' "$patch")
    faults=${faults:-all}
    (cd "$tree" && nice cargo build --quiet --release --example sim "${quick[@]}" 2>"$tree.log") ||
        { cat "$tree.log" && exit 1; }
    # The seeds are always the same. Another check may fail for an earlier seed.
    from=0
    others=
    while :; do
        # A bug that prevents the end of a run is not found.
        output=$(timeout 300 nice "$sim" --from "$from" --runs $((40000 - from)) --no-shrink --jobs 1 \
            --faults "$faults" || true)
        seed=$(sed -n 's/^again: .*--seed \([0-9]*\).*/\1/p' <<<"$output")
        check=nothing
        [ -n "$seed" ] || break
        output=$("$sim" --seed "$seed" --no-shrink --faults "$faults" || true)
        check=$(sed -n 's/^sim: FAILED: \([^:]*\).*/\1/p' <<<"$output" | head -1)
        [ "$check" != "${name%%.*}" ] || break
        others+=" ($check $seed)"
        from=$((seed + 1))
    done
    if [ "$check" != "${name%%.*}" ]; then failed=1; fi
    printf '%-12s %-6s %s\n' "$name" "${seed:--}" "$check$others"
    patch --quiet --reverse --directory "$tree" --strip 1 <"$patch"
done
exit $failed
