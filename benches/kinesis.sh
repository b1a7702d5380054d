#!/usr/bin/env bash
# CPU seconds of the commands on Kinesis, plain and aggregated, beside the embedded log. Makes a release build; the
# server, which does not count, is of the dev profile.
#
#   ROWS=1000000 benches/kinesis.sh
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --quiet
HEADWATER=$PWD/target/release/headwater cargo bench --quiet --workspace --profile dev --bench kinesis
