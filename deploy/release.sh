#!/usr/bin/env bash
# What a release consists of, in one folder, from what deploy/images.sh has built before: the programs as tarballs, the images as OCI
# tars, the chart as a package, the manifests, and SHA256SUMS of all. IMAGES tells the images' digests, in the same form.
# Usage: release.sh pack FOLDER     (with TAG=v1.2.3 in the environment: only if that is the version)
#        release.sh sbom FOLDER     adds what the programs are made of, CycloneDX
#        release.sh push FOLDER     images and chart to the registry that REGISTRY names (with REGISTRY_USER, REGISTRY_PASSWORD)
#        release.sh announce FOLDER a draft of a release at GitHub, by gh, with all files and the changelog's section
set -euo pipefail

step=${1:-}
fail() { printf 'release.sh: %s\n' "$*" >&2; exit 1; }
[[ $step =~ ^(pack|sbom|push|announce)$ && -n ${2:-} ]] || fail "usage: release.sh pack|sbom|push|announce FOLDER"
[[ -d $2 ]] || fail "there is no folder '$2'; run \`make release\` first"
folder=$(cd "$2" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=$(awk '/^\[workspace.package\]/ { here = 1 } here && $1 == "version" { gsub("\"", "", $3); print $3; exit }' Cargo.toml)
host=$(rustc --version --verbose | awk '/^host:/ { print $2 }')
case $host in
    x86_64-*) platform=linux-amd64 ;;
    aarch64-*) platform=linux-arm64 ;;
    *) fail "no name for the platform of $host" ;;
esac
programs=(grantsmith grantsmith-operator)
chart=$folder/grantsmith-$version.tgz
tool() { tests/tools/get.sh "$1"; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The sums are made anew after each step that adds files.
sums() { (cd "$folder" && rm -f SHA256SUMS && sha256sum -- * >.sums && mv .sums SHA256SUMS); }
# of_version FILE TIMES BEFORE: the version stands there that often, behind what BEFORE matches, and no other does.
of_version() {
    [[ $(grep -E "$3" "$1" | grep -cE "$3${version//./\\.}( |\$)") == "$2" && $(grep -cE "$3" "$1") == "$2" ]] || fail "$1 is not of version $version"
}
has_changes() { grep -q "^## $version" CHANGELOG.md || fail "CHANGELOG.md has no section '## $version'"; }

pack() {
    local program built stamp
    [[ -z ${TAG:-} || $TAG == "v$version" ]] || fail "the tag is $TAG and the version in Cargo.toml $version"
    of_version charts/grantsmith/Chart.yaml 2 '^(version|appVersion): '
    of_version deploy/Dockerfile 1 '^ARG VERSION='
    of_version deploy/compose.yaml 1 'image: grantsmith/grantsmith:'
    of_version deploy/OPERATING.md 2 '\bgrantsmith/grantsmith:'
    [[ -z ${TAG:-} ]] || has_changes
    built=${CARGO_TARGET_DIR:-target}/$host/release
    # The commit's time, so that a release that is built again has the same tarballs.
    stamp=@$(git log -1 --format=%ct)
    for program in "${programs[@]}"; do
        tar --create --sort=name --mtime="$stamp" --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
            --transform "s,^,$program-$version/," --directory "$built" "$program" --directory "$PWD" LICENSE CHANGELOG.md |
            gzip --no-name -9 >"$folder/$program-$version-$platform.tar.gz"
        mv "$folder/$program.tar" "$folder/$program-$version-$platform.oci.tar"
        printf '%s  grantsmith/%s:%s\n' "$(digest "$program")" "$program" "$version"
    done >"$folder/IMAGES"
    # Helm takes the times of the files.
    cp -R charts/grantsmith "$work"
    find "$work/grantsmith" -exec touch --date="$stamp" {} +
    "$(tool helm)" package "$work/grantsmith" --destination "$folder" >/dev/null
    cp deploy/manifests/grantsmith.yaml "$folder/grantsmith-$version.yaml"
    sums
    cat "$folder/SHA256SUMS"
}

# digest PROGRAM: of its image's manifest, which the index of the layout names.
digest() {
    tar --extract --to-stdout --file "$folder/$1-$version-$platform.oci.tar" index.json |
        sed -n 's/.*"manifests":\[{[^}]*"digest":"sha256:\([0-9a-f]\{64\}\)".*/\1/p'
}

sbom() {
    local program package tool
    tool=$(tool cargo-sbom)
    for program in "${programs[@]}"; do
        package=${program/%grantsmith/grantsmith-service}
        "$tool" --cargo-package "$package" --output-format cyclone_dx_json_1_6 >"$folder/$program-$version.cdx.json"
    done
    sums
}

push() {
    local program oras helm host
    [[ -n ${REGISTRY:-} ]] || fail "REGISTRY names no registry, such as HOST/OWNER"
    oras=$(tool oras)
    helm=$(tool helm)
    host=${REGISTRY%%/*}
    # A registry on this machine has no certificate.
    local to=() plain=()
    [[ ! ${host%:*} =~ ^(localhost|127\.0\.0\.1)$ ]] || { plain=(--plain-http) to=(--to-plain-http); }
    if [[ -n ${REGISTRY_USER:-} ]]; then
        # Both look there, and nothing is left of it.
        export DOCKER_CONFIG=$work HELM_REGISTRY_CONFIG=$work/config.json
        "$oras" login "${plain[@]}" --username "$REGISTRY_USER" --password-stdin "$host" <<<"${REGISTRY_PASSWORD:-}"
    fi
    for program in "${programs[@]}"; do
        "$oras" cp "${to[@]}" --from-oci-layout "$folder/$program-$version-$platform.oci.tar:$version" "$REGISTRY/$program:$version"
    done
    # Beside the images and not under a name of theirs: the chart is called as one of them.
    "$helm" push "${plain[@]}" "$chart" "oci://$REGISTRY/charts"
}

announce() {
    local notes=$work/notes
    has_changes
    awk -v head="## $version" 'index($0, "## ") == 1 { here = index($0, head) == 1; next } here' CHANGELOG.md >"$notes"
    { printf '\nImages:\n\n```\n'; cat "$folder/IMAGES"; printf '```\n'; } >>"$notes"
    gh release create "v$version" --draft --verify-tag --title "$version" --notes-file "$notes" "$folder"/*
}

"$step"
