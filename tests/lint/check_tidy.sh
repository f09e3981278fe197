#!/usr/bin/env bash
# clang-tidy over all C files. A file that passed is not looked at again until it, a header it
# includes, the rules or its compile command change: the sum of these is kept in build/lint-cache.
. "$(dirname "${BASH_SOURCE[0]}")/lint_common.sh"

CACHE=build/lint-cache/tidy
export CACHE

# tidy_one FILE: silent when it passes.
tidy_one() {
    local file=$1 inputs sum output
    inputs=$(gcc -MM -D_GNU_SOURCE -I. -DSIMD_ISA=portable \
        -DSIMD_HEADER='"kernels/cpu/simd/simd_portable.h"' "$file" 2>/dev/null |
        sed -e 's/^[^:]*://' -e 's/\\$//' | tr ' ' '\n' | grep -v '^$')
    # shellcheck disable=SC2086
    sum=$(cat .clang-tidy CMakeLists.txt $inputs "$file" | sha256sum | cut -c 1-32)
    [ ! -e "$CACHE/$sum" ] || return 0
    output=$(clang-tidy -p build/release --quiet --extra-arg=-Wno-unknown-warning-option "$file" 2>/dev/null)
    # Findings come with status 1; another failure without one (no compile command) fails too.
    if [ "$?" -eq 0 ] && ! grep -qE ': (warning|error): ' <<<"$output"; then
        : >"$CACHE/$sum"
        return 0
    fi
    printf '%s\n' "${output:-$file:1: clang-tidy could not read it}" >&2
    return 1
}
export -f tidy_one

mkdir -p "$CACHE"
if [ ! -e build/release/compile_commands.json ]; then
    complain "build/release:1" "no compile commands: run ./run build"
    exit "$failed"
fi
find "$CACHE" -type f -mtime +30 -delete
sources c | xargs -P "$(nproc)" -n 1 bash -c 'tidy_one "$1"' tidy || failed=1

exit "$failed"
