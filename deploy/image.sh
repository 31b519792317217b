#!/usr/bin/env bash
# Writes the image that deploy/Dockerfile describes, without Docker: one static program in an otherwise empty file
# system. The result is a tar of an OCI layout, for `ctr images import`, `docker load`, `skopeo copy oci-archive:…` and the
# like, and the same bytes whenever the same program is given.
# Usage: image.sh [--quick] [--label NAME=TEXT]... PROGRAM NAME:TAG IMAGE.tar     (--quick: larger, in a fraction of the time)
set -euo pipefail

level=-9
labels=
while [[ ${1:-} == --* ]]; do
    case $1 in
        --quick) level=-1 ;;
        --label)
            shift
            [[ $1 =~ ^([a-z.]+)=([^\"\\]*)$ ]] || { echo "image.sh: not a label: $1" >&2; exit 2; }
            labels+=${labels:+,}"\"${BASH_REMATCH[1]}\":\"${BASH_REMATCH[2]}\""
            ;;
        *) echo "image.sh: no such flag: $1" >&2; exit 2 ;;
    esac
    shift
done
(($# == 3)) || { echo "usage: image.sh [--quick] [--label NAME=TEXT]... PROGRAM NAME:TAG IMAGE.tar" >&2; exit 2; }
program=$1
image=$2
target=$3
name=$(basename "$program")

case $(uname -m) in
    x86_64) architecture=amd64 ;;
    aarch64) architecture=arm64 ;;
    *) echo "image.sh: no name for the architecture $(uname -m)" >&2; exit 1 ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
blobs=$work/layout/blobs/sha256
mkdir -p "$work/root" "$blobs"

# Whoever packs it and when must not show.
pack() {
    local folder=$1
    shift
    LC_ALL=C tar --create --format=ustar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner \
        --directory "$folder" "$@"
}
digest() { sha256sum "$1" | cut -d ' ' -f 1; }
# keep FILE TYPE: moves it among the blobs, and gives the reference to it.
keep() {
    local hash size
    hash=$(digest "$1")
    size=$(stat -c %s "$1")
    mv "$1" "$blobs/$hash"
    printf '"mediaType":"application/vnd.oci.image.%s","digest":"sha256:%s","size":%s' "$2" "$hash" "$size"
}

install -m 0755 "$program" "$work/root/$name"
pack "$work/root" --file "$work/layer.tar" "$name"
unpacked=$(digest "$work/layer.tar")
gzip --no-name "$level" "$work/layer.tar"
layer=$(keep "$work/layer.tar.gz" layer.v1.tar+gzip)

platform="\"architecture\":\"$architecture\",\"os\":\"linux\""
printf '{%s,"config":{"User":"10001:10001","Entrypoint":["/%s"],"Labels":{%s}},%s}' \
    "$platform" "$name" "$labels" "\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:$unpacked\"]}" >"$work/config"
config=$(keep "$work/config" config.v1+json)

# What Docker reads in place of the index, unless it keeps its images in containerd.
blob() { sed -n 's,.*"digest":"sha256:\([0-9a-f]*\)".*,blobs/sha256/\1,p' <<<"$1"; }
printf '[{"Config":"%s","RepoTags":["%s"],"Layers":["%s"]}]' "$(blob "$config")" "$image" "$(blob "$layer")" >"$work/layout/manifest.json"

printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{%s},"layers":[{%s}]}' \
    "$config" "$layer" >"$work/manifest"
manifest=$(keep "$work/manifest" manifest.v1+json)

# The first annotation is the name that containerd takes, the second the one of the standard.
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{%s,"platform":{%s},"annotations":{%s,%s}}]}' \
    "$manifest" "$platform" "\"io.containerd.image.name\":\"$image\"" \
    "\"org.opencontainers.image.ref.name\":\"${image##*:}\"" >"$work/layout/index.json"
printf '{"imageLayoutVersion":"1.0.0"}' >"$work/layout/oci-layout"

mkdir -p "$(dirname "$target")"
chmod -R u=rwX,go=rX "$work/layout"
pack "$work/layout" --file "$target.part" oci-layout index.json manifest.json blobs
mv "$target.part" "$target"
