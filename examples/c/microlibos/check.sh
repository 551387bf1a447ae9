#!/bin/sh
# check.sh DIRECTORY PROGRAM...: runs each program natively and in microlibos, each time in a new directory, and compares
# the outputs with the exit status. RUN is a command that runs microlibos, such as valgrind.
out=$1
shift
failed=0
run() {
    directory=$(mktemp -d)
    # The end of the pipe is the end of the last process.
    (
        cd "$directory" || exit 1
        timeout 120 "$@"
        echo "status $?"
    ) 2>&1 | cat
    rm -rf "$directory"
}
for program in "$@"; do
    ML_PROCESSES=
    [ "$program" = full ] && ML_PROCESSES=3
    export ML_PROCESSES ML_DIRECTORY="$out/native"
    [ "$ML_PROCESSES" ] || unset ML_PROCESSES
    run "$out/native/$program" >"$out/$program.native"
    # shellcheck disable=SC2086
    run ${RUN:-} "$out/microlibos" "$out/programs/$program.so" >"$out/$program.inside"
    if diff "$out/$program.native" "$out/$program.inside" >"$out/$program.diff"; then
        echo "$program: ok"
    else
        echo "$program: differs (<: natively, >: in microlibos)"
        cat "$out/$program.diff"
        failed=1
    fi
done
[ $failed = 0 ] && echo "microlibos: ok"
exit $failed
