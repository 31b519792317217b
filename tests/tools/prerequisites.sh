#!/usr/bin/env bash
# Checks what must be on a machine before anything is built, and names what is missing.
# Usage: prerequisites.sh [run|check|test|node|bench|cluster|chart|all]     (default: all)
# As root on a system with apt-get it installs what the distribution has in a sufficient version; in CI also where sudo asks
# for no password.
set -euo pipefail

purpose=${1:-all}
case $purpose in
    run | check | test | node | bench | cluster | chart | all) ;;
    *) echo "usage: prerequisites.sh [run|check|test|node|bench|cluster|chart|all]" >&2; exit 2 ;;
esac

# Command (alternatives split by |; a library of C with lib: before its name for pkg-config), least version, purposes, Debian
# package, how to get it elsewhere. `node` is for the tests on a whole Kubernetes, where the machine can run one.
list='
cc                                       -     run,check,test,bench,cluster  gcc,libc6-dev    a C compiler, such as gcc or clang with the headers of the C library
cargo                                    1.90  run,check,test,bench,cluster  cargo            Rust from https://rustup.rs; an older rustup updates with: rustup update stable
git                                      -     check,test,bench,cluster,chart  git              https://git-scm.com/downloads
node                                     20    check,test,bench              nodejs           https://nodejs.org (20 or newer)
npm                                      -     check,test,bench              npm              comes with Node.js: https://nodejs.org
go                                       1.24  test,cluster,chart            golang-go        https://go.dev/dl (1.24 or newer)
chromium|chromium-browser|google-chrome  -     test                          chromium         https://www.chromium.org, or Google Chrome
chromedriver                             -     test                          chromium-driver  the ChromeDriver of the same version as the browser
faketime                                 -     test                          faketime         https://github.com/wolfcw/libfaketime
c++                                      -     bench                         g++              a C++ compiler, such as g++ or clang++
python3                                  3.9   test,bench                    python3,python3-venv  https://www.python.org/downloads, with its venv module
pkg-config                               -     node                          pkg-config       https://www.freedesktop.org/wiki/Software/pkg-config
lib:libseccomp                           -     node                          libseccomp-dev   https://github.com/seccomp/libseccomp, with its headers and static library
nft                                      -     node                          nftables         https://www.nftables.org
ip                                       -     node                          iproute2         https://wiki.linuxfoundation.org/networking/iproute2
make                                     -     bench                         make             GNU make
'

# at_least HAVE LEAST: version order, for those sorts that lack -V too.
at_least() {
    awk -v have="$1" -v least="$2" 'BEGIN {
        split(have, h, "."); split(least, l, ".")
        for (i = 1; i <= 3; i++) if (h[i] + 0 != l[i] + 0) exit !(h[i] + 0 > l[i] + 0)
    }'
}

version_of() {
    case $1 in
        cargo) cargo --version | awk '{print $2}' ;;
        node) node --version | tr -d v ;;
        go) go env GOVERSION | tr -d go ;;
        python3) python3 --version | awk '{print $2}' ;;
    esac 2>/dev/null || echo 0
}

present() {
    case $1 in
        lib:*) pkg-config --exists "${1#lib:}" 2>/dev/null ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

# lacking COMMANDS LEAST: says what is wrong and succeeds, or fails when all is well.
lacking() {
    local name version
    local -a names
    IFS='|' read -ra names <<<"$1"
    for name in "${names[@]}"; do
        present "$name" || continue
        [[ $2 == - ]] && return 1
        version=$(version_of "$name")
        at_least "$version" "$2" && return 1
        echo "is $version, at least $2 is needed"
        return
    done
    echo "is missing"
}

# on_offer LEAST PACKAGE...: whether the distribution has the packages, the first in that version.
on_offer() {
    local least=$1 candidate package
    shift
    for package in "$@"; do
        candidate=$(LC_ALL=C apt-cache policy "$package" | awk '/Candidate:/ {print $2}')
        [[ -n $candidate && $candidate != "(none)" ]] || return 1
        # Debian writes an epoch before the version.
        [[ $least == - ]] || at_least "${candidate#*:}" "$least" || return 1
        least=-
    done
}

# read_missing: one line for each thing that this purpose needs and this machine lacks.
read_missing() {
    local commands least purposes packages hint problem
    while read -r commands least purposes packages hint; do
        [[ -n $commands ]] || continue
        [[ $purpose == all || ,$purposes, == *,$purpose,* ]] || continue
        if problem=$(lacking "$commands" "$least"); then
            printf '%s\t%s\t%s\t%s\t%s\n' "${commands%%|*}" "$least" "$packages" "$problem" "$hint"
        fi
    done <<<"$list"
}

# The machine of a CI run is thrown away; on a person's own nothing is installed that they did not ask for as root.
root=()
may_install() {
    command -v apt-get >/dev/null || return 1
    [[ $(id -u) != 0 ]] || return 0
    [[ -n ${CI:-} ]] && sudo -n true 2>/dev/null && root=(sudo -n env DEBIAN_FRONTEND=noninteractive)
}

missing=$(read_missing)
if [[ -n $missing ]] && may_install; then
    echo "missing: $(cut -f 1 <<<"$missing" | paste -sd ' ' -); asking apt-get"
    export DEBIAN_FRONTEND=noninteractive
    # An unreachable source of one repository must not hide what the others have.
    "${root[@]}" apt-get update -qq || true
    install=()
    while IFS=$'\t' read -r _ least packages _ _; do
        IFS=, read -ra names <<<"$packages"
        if on_offer "$least" "${names[@]}"; then install+=("${names[@]}"); fi
    done <<<"$missing"
    if ((${#install[@]} > 0)); then
        echo "installing: ${install[*]}"
        "${root[@]}" apt-get install -y -qq --no-install-recommends "${install[@]}" </dev/null || true
    fi
    missing=$(read_missing)
fi

if [[ -n $missing ]]; then
    {
        while IFS=$'\t' read -r name _ packages problem hint; do
            printf '%s %s.\n    Get it: %s\n' "$name" "$problem" "$hint"
            printf '    Debian, Ubuntu: apt-get install %s (if recent enough)\n' "${packages//,/ }"
        done <<<"$missing"
    } >&2
    exit 1
fi
