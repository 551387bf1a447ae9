#!/bin/sh
# archive.sh OUT [FEATURES]: builds the static library for C as it is shipped, in the directory OUT.
#
#   liblibos_ipc.a           all functions, under all their names
#   liblibos_ipc_prefixed.a  all functions, under the names that begin with libos_ipc_ only
#   liblibos_ipc_seed.a      the functions of libos_ipc_seed.h, and those of set-up, under all their names; it is built
#                            without what they make no use of (src/parts.rs)
#
# Each archive has one object file without unwind tables, debugging information and code that no function needs, so a
# program takes no more than its size, also without --gc-sections. FEATURES are those of Cargo.toml, such as capi,secure.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
out=$1
features=${2:-capi}
mkdir -p "$out"
built=$out/build/archive/liblibos_ipc.a
object=$out/libos_ipc.o.$$

# build FEATURES: with interprocedural register allocation, which saves only registers that a caller uses. It is for functions
# that nobody outside calls, which the compiler knows because of `lto = "fat"`.
build() {
    "${CARGO:-cargo}" rustc --quiet --locked --manifest-path "$root/arch/c/Cargo.toml" --profile archive --lib \
        --no-default-features --features "$1" --target-dir "$out/build" -- -C llvm-args=-enable-ipra
}

build "$features"

# The plugin of Debian's nm misreads Rust objects.
prefixed=$("${NM:-nm}" --plugin=/nonexistent --defined-only --extern-only "$built" 2>/dev/null |
    sed -n 's/.* [A-Z] \(libos_ipc_[a-z_]*\)$/\1/p' | sort -u)
seed=$(sed -n 's/^[a-zA-Z].*[ *]\([a-z_]*\)(.*/\1/p' "$root/include/libos_ipc_seed.h" | grep -v get_ipc_msg_size)
setup="libos_ipc_setup libos_ipc_default_limits libos_ipc_memory_size libos_ipc_turn"

# ship NAME ROOTS SYMBOLS: links ROOTS and what they need, and keeps SYMBOLS.
ship() {
    "${LD:-ld}" -r --gc-sections -o "$object" $(printf ' -u %s' $2) "$built"
    "${OBJCOPY:-objcopy}" --strip-debug --remove-section=.eh_frame --remove-section=.comment \
        $(printf ' --keep-global-symbol=%s' $3) "$object"
    "${OBJCOPY:-objcopy}" --strip-unneeded "$object"
    "${AR:-ar}" rcs "$out/$1.$$" "$object"
    mv "$out/$1.$$" "$out/$1"
    rm "$object"
}

data="libos_ipc_process_ids g_process_ipc_ids"
ship liblibos_ipc.a "$prefixed" "$prefixed $seed $data"
ship liblibos_ipc_prefixed.a "$prefixed" "$prefixed libos_ipc_process_ids"
build "$features,seed"
ship liblibos_ipc_seed.a "$seed $setup $data" "$seed $setup $data"
