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

log=$(mktemp)
trap 'rm -f "$log"' EXIT

(($# > 0)) || set -- --workspace
# Tests wait for more than a third of their time. Many more at once only starve each other: a browser, as root, goes first.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((($(nproc) * 3 + 1) / 2))}
# With CI set, a lock file that does not fit is an error instead of a silent change.
[[ -z ${CI:-} ]] || set -- --locked "$@"
status=0
# One failure must not hide the others; tee keeps the output flowing while it is kept for counting.
cargo test --no-fail-fast "$@" 2>&1 | tee "$log" || status=$?

# Each test program ends with `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
read -r passed failed skipped < <(awk '
    /^test result: / {
        for (i = 4; i < NF; i++) {
            if ($(i + 1) == "passed;") passed += $i
            if ($(i + 1) == "failed;") failed += $i
            if ($(i + 1) == "ignored;") skipped += $i
        }
    }
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
    awk '/^failures:$/ { names = "" } /^    [^ ]+$/ { names = names $0 "\n" } /^test result: FAILED/ { printf "%s", names }' "$log"
    status=1
fi
echo "$passed passed, $failed failed, $skipped skipped"
exit "$((status != 0))"
