#!/usr/bin/env bash
# Runs every test there is and ends with one line: `N passed, N failed, N skipped`.
# Usage: test.sh [arguments of cargo test]     (default: the whole workspace)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

tests/tools/prerequisites.sh test
GRANTSMITH_MAILPIT=$(tests/tools/get.sh mailpit)
GRANTSMITH_STRIPE_MOCK=$(tests/tools/get.sh stripe-mock)
export GRANTSMITH_MAILPIT GRANTSMITH_STRIPE_MOCK
GRANTSMITH_RIVALS=$(tests/tools/get.sh rivals)
export GRANTSMITH_RIVALS
# Minutes where they are not there yet, so not for whoever runs the tests of another crate.
if (($# == 0)) || [[ " $* " == *grantsmith-tests* ]]; then
    GRANTSMITH_KUBERNETES=$(tests/tools/get.sh kubernetes)
    export GRANTSMITH_KUBERNETES
    GRANTSMITH_PYTHON_CLIENT=$(tests/tools/get.sh python-client)
    export GRANTSMITH_PYTHON_CLIENT
    GRANTSMITH_HELM=$(tests/tools/get.sh helm)
    GRANTSMITH_HELM_UNITTEST=$(tests/tools/get.sh helm-unittest)
    GRANTSMITH_GLUA=$(tests/tools/get.sh glua)
    export GRANTSMITH_HELM GRANTSMITH_HELM_UNITTEST GRANTSMITH_GLUA
    # Where there can be no node, its tests say so and count as skipped.
    if tests/tools/node/able.sh >/dev/null; then
        tests/tools/prerequisites.sh node
        GRANTSMITH_NODE=$(tests/tools/get.sh node)
        GRANTSMITH_IMAGES=${CARGO_TARGET_DIR:-$PWD/target}/images-dev
        deploy/images.sh dev "$GRANTSMITH_IMAGES" test
        export GRANTSMITH_NODE GRANTSMITH_IMAGES
    fi
fi

work=$(mktemp --directory)
trap 'rm -rf "$work"' EXIT
log=$work/log

# With CI set, a lock file that does not fit is an error instead of a silent change.
locked=()
[[ -z ${CI:-} ]] || locked=(--locked)

# All programs of the workspace, a few at a time: most wait for much of their time. Those that take minutes begin first.
all() {
    local slow='subscriptions|operator|node|faults|pages|backup|issuing|restart|crash' status=0
    cargo test "${locked[@]}" --workspace --no-run --message-format=json-render-diagnostics >"$work/built" || return
    sed -nE '/"profile":\{[^}]*"test":true/ s/.*"manifest_path":"([^"]*)".*"executable":"([^"]*)".*/\1\t\2/p' "$work/built" |
        awk -v slow="/($slow)-[0-9a-f]+$" '{ print ($0 ~ slow ? 1 : 2) "\t" $0 }' |
        sort --stable --key=1,1 | cut --fields=2- | tr '\t\n' '\0\0' |
        xargs --null --max-args=2 --max-procs="$(nproc)" tests/tools/test-program.sh "$work" || status=$?
    cargo test "${locked[@]}" --workspace --doc --no-fail-fast || status=$?
    return "$status"
}

status=0
# One failure must not hide the others; tee keeps the output flowing while it is kept for counting.
if (($# == 0)); then
    all
else
    cargo test "${locked[@]}" --no-fail-fast "$@"
fi 2>&1 | tee "$log" || status=$?

# Each test program ends with `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
read -r passed failed skipped < <(awk '
    /^test result: / {
        for (i = 4; i < NF; i++) {
            if ($(i + 1) == "passed;") passed += $i
            if ($(i + 1) == "failed;") failed += $i
            if ($(i + 1) == "ignored;") skipped += $i
        }
    }
    /^error: .* before it could tell its result$/ { failed++ }
    END { print passed + 0, failed + 0, skipped + 0 }
' "$log")

echo
if ((status != 0 && failed == 0)); then
    # Did not compile, or a test program was killed before it could report.
    echo "cargo test failed outside of a test (exit code $status): see above"
    failed=1
elif ((passed + failed == 0)); then
    echo "no test ran"
    status=1
elif ((failed > 0)); then
    echo "failed:"
    # The list before each result; the lines of single tests may have what a test said in them.
    awk '/^failures:$/ { names = "" } /^    [^ ]+$/ { names = names $0 "\n" } /^test result: FAILED/ { printf "%s", names }
        /^error: .* before it could tell its result$/ { print "    " $2 }' "$log"
    status=1
fi
echo "$passed passed, $failed failed, $skipped skipped"
exit "$((status != 0))"
