#!/usr/bin/env bash
# Layout: clang-format with the .clang-format of the root.
. "$(dirname "${BASH_SOURCE[0]}")/lint_common.sh"

if ! sources c h cu cuh | xargs clang-format --dry-run -Werror --ferror-limit=1; then
    printf 'format: run clang-format -i on the files named above\n' >&2
    failed=1
fi

exit "$failed"
