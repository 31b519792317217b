#!/usr/bin/env bash
# Runs one test program as cargo would, and prints what it said in one piece, also while others run.
# Usage: test-program.sh FOLDER MANIFEST PROGRAM     (the folder is for what it says)
set -euo pipefail

said=$1/${3##*/}
name=${3##*/}
cd "${2%/*}"
status=0
CARGO_MANIFEST_DIR=$PWD "$3" >"$said" 2>&1 || status=$?

exec 9>"$1/turn"
flock 9
printf '\n     Running %s\n' "${name%-*}"
cat "$said"
# 101 is a failure that the program has told itself.
if ((status != 0 && status != 101)); then
    printf 'error: %s ended with %s before it could tell its result\n' "${name%-*}" "$status"
fi
exit "$((status != 0))"
