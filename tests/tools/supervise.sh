#!/usr/bin/env bash
# Keeps programs that live no longer than the caller: when standard input ends, also because the caller
# was killed, they are killed and the folder is removed. Nobody but a parent that waits can promise that.
# Usage: supervise.sh FOLDER
# Orders, one a line, each answered with a line:
#     start NAME     runs FOLDER/NAME.command, one argument a line; its output goes to FOLDER/NAME.log
#     kill NAME      kills it and waits until it is gone
set -uo pipefail

folder=$1
declare -A running

gone() {
    kill -KILL "$1" 2>/dev/null
    # Bash reports what was killed on standard error; it was asked for.
    wait "$1" 2>/dev/null
}

while read -r order name; do
    case $order in
        start)
            mapfile -t command <"$folder/$name.command"
            "${command[@]}" >>"$folder/$name.log" 2>&1 &
            running[$name]=$!
            ;;
        kill)
            gone "${running[$name]}"
            unset "running[$name]"
            ;;
    esac
    # The caller may be gone; its programs are still to be ended.
    echo "$order $name" 2>/dev/null || break
done

for name in "${!running[@]}"; do gone "${running[$name]}"; done
rm -rf "$folder"
