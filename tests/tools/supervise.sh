#!/usr/bin/env bash
# Keeps programs that live no longer than the caller: when standard input ends, also because the caller
# was killed, they are killed and the folder is removed. Nobody but a parent that waits can promise that.
# Usage: supervise.sh FOLDER
# Orders, one a line, each answered with the same line:
#     start NAME     runs FOLDER/NAME.command, one argument a line; its output goes to FOLDER/NAME.log
#     kill NAME      kills it and waits until it is gone
set -uo pipefail

folder=$1

start() {
    local word command=()
    while IFS= read -r word; do command+=("$word"); done <"$folder/$1.command"
    "${command[@]}" >>"$folder/$1.log" 2>&1 &
    echo $! >"$folder/$1.pid"
}

kill_it() {
    local pid
    pid=$(<"$folder/$1.pid")
    rm "$folder/$1.pid"
    kill -KILL "$pid" 2>/dev/null
    # Bash reports what was killed on standard error; it was asked for.
    wait "$pid" 2>/dev/null
}

while read -r order name; do
    case $order in
        start) start "$name" ;;
        kill) kill_it "$name" ;;
    esac
    # The caller may be gone; its programs are still to be ended.
    echo "$order $name" 2>/dev/null || break
done

# Also what the caller has started itself and left here.
for file in "$folder"/*.pid; do
    [[ -e $file ]] && kill_it "$(basename "$file" .pid)"
done
rm -rf "$folder"
