#!/usr/bin/env bash
# Files of at most 600 lines; functions of at most 60, in kernels/ 100. Exceptions: exceptions.txt.
. "$(dirname "${BASH_SOURCE[0]}")/lint_common.sh"

# Lines "FILE LINE LENGTH LIMIT NAME" for whatever has a length.
lengths() {
    sources c h cu cuh sh py | xargs awk 'FNR == 1 { file[++n] = FILENAME } { lines[FILENAME] = FNR }
        END { for (i = 1; i <= n; i++) print file[i], 1, lines[file[i]], 600, "-" }'
    sources c cu | xargs ctags -x --languages=C,C++ --langmap=C++:+.cu --kinds-C=f --kinds-C++=f \
        --fields=+ne --_xformat='%F %n %{end} %N' |
        awk '{ print $1, $2, $3 - $2 + 1, ($1 ~ /^kernels\//) ? 100 : 60, $4 }'
}

report=$(lengths | awk '
    FILENAME == "tests/lint/exceptions.txt" {
        if ($0 ~ /^#/ || NF == 0) next
        if (NF < 3) print FILENAME ":" FNR ": want FILE[:FUNCTION] LIMIT REASON"
        limit[$1] = $2
        where[$1] = FNR
        next
    }
    {
        key = $5 == "-" ? $1 : $1 ":" $5
        what = $5 == "-" ? "file" : "function " $5
        allowed = (key in limit) ? limit[key] : $4
        if ($3 > $4) is_needed[key] = 1
        if ($3 > allowed) print $1 ":" $2 ": " what " has " $3 " lines, at most " allowed " are allowed: split it along its steps"
    }
    END {
        for (key in limit) {
            if (!(key in is_needed)) print "tests/lint/exceptions.txt:" where[key] ": " key " is within the gate: remove the line"
        }
    }' tests/lint/exceptions.txt -)
if [ -n "$report" ]; then
    printf '%s\n' "$report" >&2
    failed=1
fi

exit "$failed"
