#!/usr/bin/env bash
# The tests under the sanitizers, and the example in C under valgrind.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'EOF'
usage: tools/sanitizers.sh [address|thread|memory|valgrind]...

Runs the tests with the compiler's checks for bad memory accesses and leaks (address) and for data
races (thread), a family in a program without the standard library with the check for bytes that were
never written (memory), and the C program of examples/c, leader and followers, under memcheck
(valgrind). All four if none is named. The first three need the nightly toolchain; the standard library
is not rebuilt, so what happens inside it is not seen.

The exit code is 1 if one of them found something.
EOF
}

case ${1-} in -h | --help) usage; exit 0 ;; esac
if [ $# -eq 0 ]; then set -- address thread memory valgrind; fi
target=x86_64-unknown-linux-gnu
step() { printf '\n== %s\n' "$*"; }

# The tests of the wire format leak on purpose.
# Tests that start other programs of the repository, or a guest, do nothing in the process that the sanitizer checks.
tests=(--lib --test calls --test fault_injector --test host_pal --test host_wakeups --test ids_model
    --test locks --test loopback_pal --test processes --test sync --test waits)

sanitize() { # name, flags
    step "$1 sanitizer"
    RUSTFLAGS=$2 cargo +nightly test --quiet --target "$target" --target-dir "target/$1" \
        --no-fail-fast "${tests[@]}"
}

memory() {
    step 'memory sanitizer'
    RUSTFLAGS='-Zsanitizer=memory -Zsanitizer-memory-track-origins=2 -Cunsafe-allow-abi-mismatch=sanitizer' \
        cargo +nightly build --quiet --locked --release --target "$target" --target-dir target/memory \
        --manifest-path tests/memory_sanitizer/Cargo.toml || return 1
    local program=target/memory/$target/release/memory-sanitizer
    if "$program" with-a-mistake >/dev/null 2>&1; then
        printf 'the sanitizer does not see a byte that was never written\n'
        return 1
    fi
    "$program"
}

failed=0
for check; do
    case $check in
        address)
            sanitize address '-Zsanitizer=address' || failed=1
            ;;
        thread)
            # The sanitizer reports races in the standard library and in the test harness, because these are not
            # instrumented.
            suppressions=$(mktemp)
            printf 'race:%s\n' alloc::sync::Arc std::sync::once_lock::OnceLock CompletedTest \
                >"$suppressions"
            # A test that runs as another user for a while has to read the file, too.
            chmod a+r "$suppressions"
            export TSAN_OPTIONS="suppressions=$suppressions halt_on_error=0 exitcode=66"
            sanitize thread '-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer' || failed=1
            rm -f "$suppressions"
            ;;
        memory)
            memory || failed=1
            ;;
        valgrind)
            step 'the example in C under valgrind'
            make --silent -C examples/c valgrind || failed=1
            ;;
        *)
            usage >&2
            exit 2
            ;;
    esac
done
exit $failed
