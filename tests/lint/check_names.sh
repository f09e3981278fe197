#!/usr/bin/env bash
# File names are lower_case and unique in the tree, so that an include or a message names one file.
. "$(dirname "${BASH_SOURCE[0]}")/lint_common.sh"

while read -r file; do
    name=$(basename "$file")
    if ! [[ $name =~ ^[a-z][a-z0-9_]*\.[a-z]+$ ]]; then
        complain "$file:1" "name is not lower_case: letters, digits and _ only"
    fi
done < <(sources c h cu cuh sh py)

while read -r name; do
    for file in $(sources c h cu cuh sh py | grep "/$name\$"); do
        complain "$file:1" "name is not unique in the tree: put the module's name in front"
    done
done < <(sources c h cu cuh sh py | xargs -n 1 basename | LC_ALL=C sort | uniq -d)

exit "$failed"
