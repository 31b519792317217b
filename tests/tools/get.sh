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

# pinned_control_plane: the one that is pinned here, whatever the machine has.
pinned_control_plane() { kubernetes_programs kubernetes etcd kube-apiserver kube-controller-manager kubectl; }

# A folder with a control plane: what KUBEBUILDER_ASSETS names where that is set, completed by what its
# makers leave out; else all of it built here.
control_plane() {
    local program assets=${KUBEBUILDER_ASSETS:-}
    if [[ -z $assets ]]; then
        pinned_control_plane
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

# What runs pods beside Kubernetes' own programs. Each is a module of its own: their requirements contradict each other.
containers_build() {
    need go
    need cc
    need pkg-config
    local folder=$PWD version package program
    export CGO_ENABLED=0 GOFLAGS=-trimpath
    # node_program MODULE PACKAGE [go build's flags]...: into the folder, under the package's last name.
    node_program() {
        local module=$1 package=$2 name=${2##*/}
        shift 2
        say "compiling $name"
        go build -C "$here/node/$module" "$@" -o "$folder/$name" "$package"
    }
    version_in() { go list -C "$here/node/$1" -m -f '{{.Version}}' "$2"; }

    package=github.com/containerd/containerd/v2
    version=$(version_in containerd $package)
    for program in containerd containerd-shim-runc-v2 ctr; do
        node_program containerd "$package/cmd/$program" -tags 'no_btrfs no_zfs no_devmapper' \
            -ldflags "-s -w -X $package/version.Version=$version"
    done

    # The one program in C as well: it makes the namespaces of pods. Static, as it runs in their file systems.
    package=github.com/opencontainers/runc
    version=$(version_in runc $package)
    CGO_ENABLED=1 node_program runc $package -tags 'seccomp netgo osusergo' \
        -ldflags "-s -w -extldflags -static -X main.version=${version#v}"

    node_program coredns grantsmith.dev/tests/tools/node/coredns -ldflags '-s -w'

    mkdir cni
    folder=$folder/cni
    package=github.com/containernetworking/plugins/plugins
    for program in main/ptp main/loopback ipam/host-local; do
        node_program cni "$package/$program" -ldflags '-s -w'
    done
    folder=$PWD

    node_program pause grantsmith.dev/tests/tools/node/pause -ldflags '-s -w'
    "$here/../../deploy/image.sh" pause localhost/pause:1 pause.tar
    rm pause
}

# A folder with all that a node of Kubernetes needs. Not named `node`: that would hide the program of Node.js from all here.
whole_node() {
    local parts=()
    build containers "$({
        declare -f containers_build
        cat "$here"/node/*/{go.mod,go.sum,main.go} "$here/../../deploy/image.sh"
    } | hash_of)" containers_build
    parts+=("$built")
    pinned_control_plane
    parts+=("$built")
    kubernetes_programs kubernetes-node kubelet kube-scheduler kube-proxy
    parts+=("$built")
    build node "$(printf '%s\n' "${parts[@]}" | hash_of)" link_all "${parts[@]}"
}
link_all() {
    local folder
    for folder in "$@"; do ln -s "$folder"/* .; done
}

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

# A client in another language: an environment of its own, with the classes that its compiler writes from proto/.
python_client() {
    need python3
    python3 -m venv .
    bin/pip install --quiet --disable-pip-version-check --requirement "$1"
    mkdir classes
    local protos
    mapfile -t protos < <(cd "$2" && find grantsmith -name '*.proto')
    bin/python -m grpc_tools.protoc --proto_path "$2" --python_out classes --grpc_python_out classes "${protos[@]}"
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
    # For releases.
    cargo-sbom) build cargo-sbom 0.10.0 cargo_install cargo-sbom 0.10.0; echo "$built/bin/cargo-sbom" ;;
    oras) go_tool oras oras.land/oras/cmd/oras@v1.3.6; echo "$built/oras" ;;
    rivals) rivals; echo "$built" ;;
    kubernetes) control_plane; echo "$built" ;;
    # A folder: bin/python, and the classes of proto/ in classes.
    python-client)
        client=$here/../clients/python/requirements.txt proto=$here/../../proto
        build python-client "$({ python3 --version; cat "$client"; find "$proto/grantsmith" -name '*.proto' | sort | xargs cat; } | hash_of)" \
            python_client "$client" "$proto"
        echo "$built"
        ;;
    # A whole Kubernetes that runs pods, for tests/tools/node/up.sh.
    node) whole_node; echo "$built" ;;
    chromium) on_path chromium chromium-browser google-chrome google-chrome-stable ;;
    chromedriver) on_path chromedriver ;;
    *) fail "usage: get.sh mailpit|stripe-mock|helm|helm-unittest|glua|grpcurl|buf|cargo-deny|cargo-sbom|oras|rivals|kubernetes|node|chromium|chromedriver" ;;
esac
