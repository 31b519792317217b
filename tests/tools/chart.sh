#!/usr/bin/env bash
# Works on the chart with Helm and helm-unittest.
# Usage: chart.sh generate    writes what is made from the chart: its README, deploy/manifests/grantsmith.yaml
#        chart.sh readme      prints the README
#        chart.sh manifests   prints the manifests
#        chart.sh check       renders and lints every example, runs the unit tests, and fails where something is stale
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

chart=charts/grantsmith
manifests=deploy/manifests

helm() { "${GRANTSMITH_HELM:=$(tests/tools/get.sh helm)}" "$@"; }
fail() { printf 'chart.sh: %s\n' "$*" >&2; exit 1; }

# The values as tables: the comment above a key is its text, a line with ## begins a section.
values() {
    awk '
        function row(key, value) {
            gsub(/\|/, "\\|", value)
            gsub(/\|/, "\\|", text)
            print "| `" key "` | " (value == "" ? "" : "`" value "`") " | " text " |"
        }
        /^## / { if (sections++) print ""; print "### " substr($0, 4) "\n\n| value | default | |\n|---|---|---|"; text = ""; next }
        /^ *# / { sub(/^ *# /, ""); text = text (text == "" ? "" : " ") $0; next }
        /^ *[A-Za-z]+:/ {
            match($0, /^ */)
            depth = RLENGTH / 2
            key = $0; sub(/^ */, "", key); sub(/:.*/, "", key)
            value = $0; sub(/^ *[A-Za-z]+: */, "", value)
            path[depth] = key
            name = path[0]
            for (i = 1; i <= depth; i++) name = name "." path[i]
            # A key with keys below it has a row only if it has a text.
            if (value != "" || text != "") row(name, value)
            text = ""
        }
    ' "$chart/values.yaml"
}

readme() {
    local line
    while IFS= read -r line; do
        if [[ $line == @VALUES@ ]]; then values; else printf '%s\n' "$line"; fi
    done <"$chart/README.md.tmpl"
}

manifests() {
    cat <<'END'
# The chart, rendered by `make generate` with values.yaml beside this. Put your own address in place of licenses.example.com, then:
#   kubectl create namespace grantsmith
#   kubectl label namespace grantsmith pod-security.kubernetes.io/enforce=restricted
#   kubectl apply --server-side -f grantsmith.yaml
# The Secrets that it names are yours to make; charts/grantsmith/README.md says how.
END
    helm template grantsmith "$chart" --namespace grantsmith --values "$manifests/values.yaml"
}

fresh() {
    cmp --silent "$1" - || fail "$1 is stale; run \`make generate\` and commit what it writes"
}

check() {
    local values once
    for values in "$chart"/ci/*-values.yaml "$manifests/values.yaml"; do
        helm lint --strict --quiet "$chart" --namespace try --values "$values"
        once=$(helm template try "$chart" --namespace try --values "$values")
        [[ $once == "$(helm template try "$chart" --namespace try --values "$values")" ]] ||
            fail "two renderings with $values differ"
    done
    "${GRANTSMITH_HELM_UNITTEST:=$(tests/tools/get.sh helm-unittest)}" --strict --color=false "$chart"
    readme | fresh "$chart/README.md"
    manifests | fresh "$manifests/grantsmith.yaml"
}

case ${1:-} in
    generate)
        readme >"$chart/README.md"
        # Not into the file itself: a failure would leave half of it.
        rendered=$(manifests)
        printf '%s\n' "$rendered" >"$manifests/grantsmith.yaml"
        ;;
    readme | manifests | check) "$1" ;;
    *) fail "usage: chart.sh generate|readme|manifests|check" ;;
esac
