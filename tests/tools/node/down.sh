#!/usr/bin/env bash
# Removes what outlives a node's processes: its control groups and its folder. up.sh runs it when a node has ended.
# Usage: down.sh FOLDER
set -uo pipefail

folder=$1

# sweep GROUP: it is empty as soon as the kernel is done with its processes.
sweep() {
    local group=$1 tries
    for ((tries = 0; tries < 100; tries++)); do
        # Leaves first: a group cannot go before those in it.
        find "$group" -depth -type d -exec rmdir {} + 2>/dev/null
        [[ -d $group ]] || return
        sleep 0.05
    done
    echo "left behind: $group" >&2
}

shopt -s nullglob
# A node is named after its up.sh, so what belongs to one that was killed is found by its number: nobody has it any more.
for group in /sys/fs/cgroup/grantsmith-node.* /sys/fs/cgroup/*/grantsmith-node.*; do
    owner=${group##*.}
    if [[ $group == */"$(cat "$folder/cgroup" 2>/dev/null)" || ! -d /proc/$owner ]]; then sweep "$group"; fi
done

rm -rf "$folder"
