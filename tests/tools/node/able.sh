#!/usr/bin/env bash
# Whether this machine lets us run a node. If not, says why in one line and fails.
set -uo pipefail

cannot() { echo "$*"; exit 1; }

[[ $(uname -s) == Linux ]] || cannot "a node needs Linux"
[[ $(id -u) == 0 ]] || cannot "a node needs root"
# Root of a user namespace alone has not the rights over the machine that the kubelet takes for granted.
[[ $(awk '{ print $1, $2, $3 }' /proc/self/uid_map) == "0 0 4294967295" ]] || cannot "a node needs root of the whole machine"
command -v unshare >/dev/null || cannot "a node needs unshare of util-linux"

scratch=$(mktemp -d) || cannot "a node needs a folder for temporary files"
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch"/{lower,upper,work,merged}

# One probe for each right that it takes; everything goes with the namespaces.
probe() { unshare --mount --net --pid --uts --ipc --fork --propagation private "$@" >/dev/null 2>&1; }
probe true || cannot "a node needs new namespaces (CAP_SYS_ADMIN)"
probe mount -t overlay overlay -o "lowerdir=$scratch/lower,upperdir=$scratch/upper,workdir=$scratch/work" \
    "$scratch/merged" || cannot "a node needs overlay mounts in $scratch"
probe bash -c 'echo 1 >/proc/sys/net/ipv4/ip_forward' || cannot "a node needs to route packets of its own (CAP_NET_ADMIN)"

shopt -s nullglob
for tree in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/{memory,pids}/cgroup.procs; do
    [[ -e $tree ]] || continue
    group=$(dirname "$tree")/grantsmith-probe.$$
    { mkdir "$group" && rmdir "$group"; } 2>/dev/null || cannot "a node needs control groups of its own in $(dirname "$tree")"
done
