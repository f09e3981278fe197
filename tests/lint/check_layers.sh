#!/usr/bin/env bash
# Includes against layers.txt (our headers) and headers.txt (system headers with a home); a header
# ending in _internal.h is for its own folder; main() only where programs are.
. "$(dirname "${BASH_SOURCE[0]}")/lint_common.sh"

includes() {
    sources c h cu cuh | xargs grep -HnE '^[ \t]*#[ \t]*include[ \t]*["<]' |
        sed -E 's/^([^:]+):([0-9]+):[ \t]*#[ \t]*include[ \t]*(["<])([^">]+).*/\1 \2 \3 \4/'
}

layers=$(includes | awk '
    FILENAME == "tests/lint/layers.txt" {
        may[$1] = $1
        for (i = 2; i <= NF; i++) may[$1] = may[$1] " " $i
        next
    }
    FILENAME == "tests/lint/headers.txt" {
        if ($0 ~ /^#/ || NF == 0) next
        homes[$1] = ""
        for (i = 2; i <= NF; i++) homes[$1] = homes[$1] " " $i
        next
    }
    function has(list, word) { return index(" " list " ", " " word " ") > 0 }
    function say(what) { print $1 ":" $2 ": " what }
    {
        split($1, from, "/")
        folder = from[1]
    }
    $3 == "\"" {
        n = split($4, to, "/")
        if (n < 2) {
            say("\"" $4 "\" is not included from the root: write \"folder/" $4 "\"")
        } else if (!(to[1] in may)) {
            say("folder " to[1] " is not in tests/lint/layers.txt")
        } else if (!has(may[folder], to[1]) && !has(may[folder], "*")) {
            say(folder " may not include " to[1] ": its row in tests/lint/layers.txt is \"" may[folder] "\"")
        } else if ($4 ~ /_internal\.h$/ && to[1] != folder && folder != "tests") {
            say($4 " is for " to[1] " only: use a public header")
        }
        next
    }
    {
        for (name in homes) {
            stem = name
            is_match = stem ~ /\*$/ ? (sub(/\*$/, "", stem) && index($4, stem) == 1) : $4 == name
            if (is_match && !has(homes[name], folder)) say("<" $4 "> may be included only in" homes[name])
        }
    }' tests/lint/layers.txt tests/lint/headers.txt -)
if [ -n "$layers" ]; then
    printf '%s\n' "$layers" >&2
    failed=1
fi

while IFS=: read -r file line _; do
    complain "$file:$line" "main() outside cli/ and tests/: make it a function that cli/ calls"
done < <(sources c cu | grep -vE '^(cli|tests)/' | xargs grep -HnE '^(int|void)[ \t]+main[ \t]*\(')

exit "$failed"
