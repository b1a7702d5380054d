#!/usr/bin/env bash
# The whole path of a generated CSV: produce, consume, replay, verify. Prints rows per CPU second, the median of three
# runs, and fails when a replay is slower than 0.9 of the consumer that caught up.
#
#   benches/whole-path.sh [ROWS]        1000000 unless told; needs a release build (it makes one)
set -euo pipefail
cd "$(dirname "$0")/.."
rows=${1:-1000000}
cargo build --release --quiet
headwater=$PWD/target/release/headwater
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"

# Ten columns that neither repeat nor compress too well; the generator is the same everywhere.
awk -v rows="$rows" 'BEGIN {
    print "id,user,page,amount,ok,country,agent,ms,ref,v"
    x = 20261121
    for (n = 0; n < rows; n++) {
        x = (x * 1103515245 + 12345) % 2147483648
        y = (y * 22695477 + x) % 4294967296
        printf "%d,user-%d,/catalog/item/%d,%d.25,%s,C%d,agent/%d,%d,%08x%08x,3\n", \
            n, x % 16384, y % 1048576, x % 1024, (x % 2 ? "true" : "false"), x % 40, y % 9, y % 4096, x, y
    }
}' > in.csv

# Runs a command and prints the CPU seconds it took, user and system.
cpu_seconds() {
    local TIMEFORMAT='%U %S'
    { time "$@" > out.txt 2> err.txt; } 2>&1 | awk '{ print $1 + $2 }'
}

median() { sort -n | sed -n 2p; }

: > produce.txt; : > consume.txt; : > replay.txt
for _ in 1 2 3; do
    rm -rf stream lake .headwater
    cpu_seconds "$headwater" produce in.csv --to log:stream --log off >> produce.txt
    cpu_seconds "$headwater" consume --from log:stream --lake lake --table t --until-caught-up --log off >> consume.txt
    cpu_seconds "$headwater" replay run --from log:stream --lake lake --table t --log off >> replay.txt
done
"$headwater" replay compare --lake lake --table t --log off
"$headwater" verify --full --lake lake --log off
for step in produce consume replay; do
    awk -v rows="$rows" -v step="$step" '{ printf "%s: %.2f CPU s, %d rows per CPU s\n", step, $1, rows / $1 }' \
        <(median < $step.txt)
done
awk -v consume="$(median < consume.txt)" -v replay="$(median < replay.txt)" 'BEGIN {
    printf "replay: %.2f of the speed of the consumer that caught up\n", consume / replay
    exit (consume / replay < 0.9)
}'
