#!/usr/bin/env bash
# Prints the path of a tool that the tests or benchmarks need, after building it if need be.
# Usage: get.sh NAME     (any working directory; the path goes to stdout, progress to stderr)
#
# What is built lives in the user's cache folder under a name that carries the hash of everything
# it was made from, so a changed pin builds anew and a checkout never holds a tool.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-${HOME:?is not set, and neither is XDG_CACHE_HOME}/.cache}/grantsmith/tools

say() { printf 'get.sh: %s\n' "$*" >&2; }
fail() { say "$@"; exit 1; }

# git is there wherever a checkout is; the names of other hash programs differ between systems.
hash_of() { git hash-object --stdin | cut -c 1-12; }

need() {
    command -v "$1" >/dev/null || fail "'$1' is missing; tests/tools/prerequisites.sh says how to get it"
}

# build NAME HASH COMMAND...: runs COMMAND in an empty folder and leaves its final path in `built`.
# The rename at the end means that a folder of that name is always complete, also after a crash;
# the lock only spares the second of two callers the work.
build() {
    local name=$1 start=$SECONDS staging status
    built=$cache/$1-$2
    shift 2
    [[ -d $built ]] && return
    mkdir -p "$cache"
    exec 9>"$cache/.$name.lock"
    if command -v flock >/dev/null && ! flock --nonblock 9; then
        say "waiting for another build of $name"
        flock 9
        [[ -d $built ]] && return
    fi
    say "building $name, once; it is kept in $built"
    staging=$(mktemp -d "$cache/.$name.XXXXXX")
    # shellcheck disable=SC2064  # the path of now is meant
    trap "rm -rf '$staging'" EXIT
    # Neither `if (…)` nor `(…) ||`: both would switch `set -e` off inside.
    set +e
    (set -e; cd "$staging"; "$@") >&2 9>&-
    status=$?
    set -e
    ((status == 0)) || fail "building $name failed"
    mv "$staging" "$built"
    trap - EXIT
    exec 9>&-
    say "built $name in $((SECONDS - start)) s"
}

# The flags are part of the key, and the caller's own GOFLAGS must not change what is built.
go_flags=('-ldflags=-s -w')
go_install() {
    need go
    CGO_ENABLED=0 GOFLAGS='' GOBIN=$PWD go install "${go_flags[@]}" "$1"
}
go_tool() {
    build "$1" "$(printf '%s\n' "$2" "${go_flags[@]}" | hash_of)" go_install "$2"
}

# helm-unittest: a module of its own, because it replaces another one by a fork, which only a main module may.
helm_unittest_build() {
    need go
    CGO_ENABLED=0 GOFLAGS='' go build -C "$here/helm-unittest" "${go_flags[@]}" -o "$PWD/helm-unittest" \
        github.com/helm-unittest/helm-unittest/cmd/helm-unittest
}

# Real Kubernetes, from the Go modules that it is published as. The versions that the programs tell of
# themselves must be put in, or clients cannot read them. -trimpath belongs to the key of every entry
# of Go's own cache: whatever else is built from this module should keep it.
kubernetes_flags() {
    local version major minor package=k8s.io/component-base/version
    version=$(awk '$1 == "k8s.io/kubernetes" { print $2 }' "$here/kubernetes/go.mod")
    IFS=. read -r major minor _ <<<"${version#v}"
    flags=(
        -trimpath
        "-ldflags=-s -w -X $package.gitVersion=$version -X $package.gitMajor=$major -X $package.gitMinor=$minor"
    )
}

# kubernetes_build PROGRAM...: one after the other, with a sign of life, because the first takes minutes.
kubernetes_build() {
    need go
    local program package folder=$PWD
    while sleep 30 &>/dev/null && kill -0 $$ 2>/dev/null; do say "still compiling, $SECONDS s"; done &
    # shellcheck disable=SC2064  # the process of now is meant
    trap "kill $!" EXIT
    for program in "$@"; do
        package=k8s.io/kubernetes/cmd/$program
        [[ $program == etcd ]] && package=go.etcd.io/etcd/server/v3
        say "compiling $program"
        CGO_ENABLED=0 GOFLAGS='' go build -C "$here/kubernetes" "${flags[@]}" -o "$folder/$program" "$package"
    done
}

# kubernetes_programs NAME PROGRAM...: a folder with these.
kubernetes_programs() {
    local name=$1 flags
    shift
    kubernetes_flags
    build "$name" "$({ printf '%s\n' "$@" "${flags[@]}"; cat "$here"/kubernetes/go.{mod,sum}; } | hash_of)" \
        kubernetes_build "$@"
}

# A folder with a control plane: what KUBEBUILDER_ASSETS names where that is set, completed by what its
# makers leave out; else all of it built here.
control_plane() {
    local program assets=${KUBEBUILDER_ASSETS:-}
    if [[ -z $assets ]]; then
        kubernetes_programs kubernetes etcd kube-apiserver kube-controller-manager kubectl
        return
    fi
    for program in etcd kube-apiserver kubectl; do
        [[ -x $assets/$program ]] || fail "KUBEBUILDER_ASSETS is '$assets', which has no '$program'; unset it to have one built"
    done
    built=$assets
    [[ -x $assets/kube-controller-manager ]] && return
    kubernetes_programs kube-controller-manager kube-controller-manager
    build kubernetes-assets "$(printf '%s\n' "$assets" "$built" | hash_of)" link_programs "$assets" "$built"
}
link_programs() { ln -s "$1"/{etcd,kube-apiserver,kubectl} "$2/kube-controller-manager" .; }

# Install scripts of packages do not run: what must be compiled is compiled below, in plain sight.
npm_ci() {
    need npm
    cp "$1/package.json" "$1/package-lock.json" .
    npm ci --ignore-scripts --omit=dev --no-audit --no-fund --no-progress --loglevel=error
}

# better-sqlite3 is compiled rather than fetched as a binary: that needs no download site and gives
# every machine the same flags. Where Node came with its headers they are used; elsewhere node-gyp
# fetches them.
rivals_ci() {
    need python3
    need make
    need c++
    npm_ci "$1"
    local prefix flags=(--release --loglevel=error) log=build.log
    prefix=$(node -p 'path.dirname(path.dirname(process.execPath))')
    [[ -f $prefix/include/node/node.h ]] && flags+=("--nodedir=$prefix")
    say "compiling better-sqlite3, about a minute"
    npm run --silent --prefix node_modules/better-sqlite3 build-release -- "${flags[@]}" >"$log" 2>&1 ||
        { cat "$log"; return 1; }
    # The compiled library is all that is needed from here on.
    mv node_modules/better-sqlite3/build/Release/better_sqlite3.node .
    rm -rf node_modules/better-sqlite3/{build,deps,src} "$log"
    mkdir -p node_modules/better-sqlite3/build/Release
    mv better_sqlite3.node node_modules/better-sqlite3/build/Release
    node -e 'new (require("better-sqlite3"))(":memory:").close()'
}

# A folder with the programs and their packages. The programs are copied, because Node looks for
# packages beside the real path of a file, and the checkout should stay free of them.
rivals() {
    local source=$here/../bench/rivals packages
    need node
    packages=$({ node -p 'process.version + process.arch'; cat "$source/package-lock.json"; } | hash_of)
    build rivals-packages "$packages" rivals_ci "$source"
    build rivals "$({ echo "$packages"; cat "$source"/*.mjs; } | hash_of)" copy_rivals "$source" "$built"
}
copy_rivals() {
    cp "$1"/*.mjs "$1/package.json" .
    ln -s "$2/node_modules" node_modules
}

cargo_install() {
    need cargo
    cargo install --locked --root "$PWD" --target-dir "$PWD/target" "$1@$2"
    rm -rf target
}

on_path() {
    local name
    for name in "$@"; do
        if command -v "$name"; then return; fi
    done
    fail "'$1' is missing; tests/tools/prerequisites.sh says how to get it"
}

# No `build … && echo …` here: that too would switch `set -e` off inside.
case ${1:-} in
    # A real SMTP server that the tests read back. Its web pages are not in the module; its API is.
    mailpit) go_tool mailpit github.com/axllent/mailpit@v1.27.11; echo "$built/mailpit" ;;
    # Stripe's own check of what is sent to it: refuses parameters that its API does not know.
    stripe-mock) go_tool stripe-mock github.com/stripe/stripe-mock@v0.203.0; echo "$built/stripe-mock" ;;
    helm) go_tool helm helm.sh/helm/v4/cmd/helm@v4.3.1; echo "$built/helm" ;;
    helm-unittest)
        build helm-unittest "$({ printf '%s\n' "${go_flags[@]}"; cat "$here"/helm-unittest/go.{mod,sum}; } | hash_of)" \
            helm_unittest_build
        echo "$built/helm-unittest" ;;
    # The Lua that Argo CD itself runs its health checks with.
    glua) go_tool glua github.com/yuin/gopher-lua/cmd/glua@v1.1.1; echo "$built/glua" ;;
    grpcurl) go_tool grpcurl github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4; echo "$built/grpcurl" ;;
    buf) build buf "$(hash_of <"$here/buf/package-lock.json")" npm_ci "$here/buf"; echo "$built/node_modules/.bin/buf" ;;
    cargo-deny) build cargo-deny 0.20.2 cargo_install cargo-deny 0.20.2; echo "$built/bin/cargo-deny" ;;
    rivals) rivals; echo "$built" ;;
    kubernetes) control_plane; echo "$built" ;;
    chromium) on_path chromium chromium-browser google-chrome google-chrome-stable ;;
    chromedriver) on_path chromedriver ;;
    *) fail "usage: get.sh mailpit|stripe-mock|helm|helm-unittest|glua|grpcurl|buf|cargo-deny|rivals|kubernetes|chromium|chromedriver" ;;
esac
