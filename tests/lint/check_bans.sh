#!/usr/bin/env bash
# Calls and forms that are banned outside their one home (bans.txt), in code without its comments
# and strings; and comments that promise work or hold code.
. "$(dirname "${BASH_SOURCE[0]}")/lint_common.sh"

# Prints the files with comments and the contents of strings blanked, as FILE:LINE:CODE.
strip_code() {
    awk '
    FNR == 1 { in_comment = 0 }
    {
        out = ""
        quote = ""
        n = length($0)
        for (i = 1; i <= n; i++) {
            c = substr($0, i, 1)
            two = substr($0, i, 2)
            if (in_comment) {
                if (two == "*/") { in_comment = 0; i++ }
            } else if (quote != "") {
                if (c == "\\") i++
                else if (c == quote) { quote = ""; out = out c }
            } else if (two == "/*") { in_comment = 1; i++; out = out " " }
            else if (two == "//") break
            else {
                if (c == "\"" || c == "\047") quote = c
                out = out c
            }
        }
        if (out ~ /[^ \t]/) print FILENAME ":" FNR ":" out
    }' "$@"
}

# find_bans FILES...: one line a violation.
find_bans() {
    strip_code "$@" | awk '
    FILENAME == "tests/lint/bans.txt" {
        if ($0 ~ /^#/ || NF == 0) next
        split($0, part, / *:: */)
        n++
        pattern[n] = "(^|[^A-Za-z0-9_>.])(" part[1] ")"
        homes[n] = part[2]
        hint[n] = part[3]
        next
    }
    function is_home(file, list,    i, k, home) {
        k = split(list, home, " ")
        for (i = 1; i <= k; i++) if (index(file, home[i]) == 1) return 1
        return 0
    }
    {
        split($0, place, ":")
        code = substr($0, length(place[1]) + length(place[2]) + 3)
        for (i = 1; i <= n; i++)
            if (code ~ pattern[i] && !is_home(place[1], homes[i]))
                print place[1] ":" place[2] ": " hint[i]
        if (code ~ /^[ \t]*#[ \t]*(if|ifdef|ifndef|elif)/ && code !~ /HONE_[A-Z0-9_]*_H$/ &&
            place[1] !~ /^(base|kernels)\//)
            print place[1] ":" place[2] ": conditional compilation is for base/ and kernels/: choose a file in CMake instead"
        if (code ~ /(^|[^A-Za-z0-9_])return STATUS_[A-Z_]+/ && code !~ /return STATUS_OK[^A-Z_]/ &&
            place[1] != "base/status.c")
            print place[1] ":" place[2] ": a status without a message: return status_set(...)"
    }' tests/lint/bans.txt -
}

report=$(sources c h cu cuh | xargs -n 400 | while read -r files; do
    # shellcheck disable=SC2086
    find_bans $files
done)
if [ -n "$report" ]; then
    printf '%s\n' "$report" >&2
    failed=1
fi

while IFS=: read -r file line _; do
    complain "$file:$line" "a promise of work: do it, or name the issue as TODO(#number)"
done < <(sources c h cu cuh | xargs grep -HnE '\b(TODO|FIXME|XXX|HACK)\b' | grep -vE 'TODO\(#[0-9]+\)')

while IFS=: read -r file line _; do
    complain "$file:$line" "code in a comment: remove it"
done < <(sources c h cu cuh | xargs grep -HnE '^[ \t]*(//|/\*)[ \t]*([a-z_]+ ?\(.*\)|[a-z_>.-]+ [-+*]?= .*|return .*|#include .*);?[ \t]*(\*/)?$' |
    grep -E ';[ \t]*(\*/)?$')

exit "$failed"
