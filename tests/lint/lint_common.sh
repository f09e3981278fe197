# Sourced by the checks: where they run and what they look at.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1

FOLDERS="base configs kernels db model rollout reward trainer cli tests"
failed=0

# complain FILE:LINE "what is wrong; what to do": remembers the failure.
complain() {
    printf '%s: %s\n' "$1" "$2" >&2
    failed=1
}

# sources EXTENSION...: files of the project with these endings, sorted.
sources() {
    local extension arguments=()
    for extension in "$@"; do
        arguments+=(-o -name "*.$extension")
    done
    # shellcheck disable=SC2086
    find $FOLDERS -type f \( "${arguments[@]:1}" \) 2>/dev/null | LC_ALL=C sort
}
