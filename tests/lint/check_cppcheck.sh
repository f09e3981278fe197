#!/usr/bin/env bash
# cppcheck over all C files, results kept in the build folder so that a second run is quick.
. "$(dirname "${BASH_SOURCE[0]}")/lint_common.sh"

mkdir -p build/lint-cache/cppcheck
sources c | cppcheck --quiet --std=c11 --enable=warning,performance,portability --inline-suppr \
    --error-exitcode=1 --suppressions-list=tests/lint/cppcheck_suppressions.txt -D_GNU_SOURCE -D__x86_64__ -I. \
    --cppcheck-build-dir=build/lint-cache/cppcheck -j "$(nproc)" --file-list=- \
    --template='{file}:{line}: {message} [{id}]' || failed=1

exit "$failed"
