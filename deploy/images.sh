#!/usr/bin/env bash
# Builds the images of Grantsmith without Docker and without a network, as FOLDER/grantsmith.tar and
# FOLDER/grantsmith-operator.tar, and says how large they are.
# Usage: images.sh dev|release FOLDER [TAG]     (default tag: the version; dev is what tests use: minutes faster to build)
set -euo pipefail

profile=$1
folder=$(mkdir -p "$2" && cd "$2" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
version=$(awk '/^\[workspace.package\]/ { here = 1 } here && $1 == "version" { gsub("\"", "", $3); print $3; exit }' Cargo.toml)
tag=${3:-$version}
host=$(rustc --version --verbose | awk '/^host:/ { print $2 }')

# Static, since there is no C library in the image. With a target named, the flags do not reach build scripts and
# macros, so these are the ones that every other build uses, too. Whose home it was built in does not show.
# (Encoded, since a path may hold spaces.)
flags=(-C target-feature=+crt-static -C strip=symbols "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo")
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f' && printf '%s' "${flags[*]}")
export CARGO_ENCODED_RUSTFLAGS
locked=()
[[ -z ${CI:-} ]] || locked=(--locked)
cargo build --quiet "${locked[@]}" --profile "$profile" --target "$host" \
    --package grantsmith-service --bin grantsmith --package grantsmith-operator --bin grantsmith-operator

built=${CARGO_TARGET_DIR:-target}/$host/${profile/#dev/debug}
quick=()
[[ $profile == release ]] || quick=(--quick)
image() {
    local name=$1 title=$2
    if readelf --program-headers "$built/$name" | grep -q INTERP; then
        echo "images.sh: $name is not static" >&2
        exit 1
    fi
    deploy/image.sh "${quick[@]}" \
        --label "org.opencontainers.image.title=$name" \
        --label "org.opencontainers.image.description=$title" \
        --label "org.opencontainers.image.version=$version" \
        --label org.opencontainers.image.licenses=Apache-2.0 \
        "$built/$name" "localhost/grantsmith/$name:$tag" "$folder/$name.tar"
    printf '%s: localhost/grantsmith/%s:%s, %s MB, the program in it %s MB\n' "$folder/$name.tar" "$name" "$tag" \
        "$(($(stat -c %s "$folder/$name.tar") / 1000000))" "$(($(stat -c %s "$built/$name") / 1000000))"
}
image grantsmith 'Stripe purchases in, license keys out'
image grantsmith-operator 'LicenseGrants in, AuthForge licenses out'
