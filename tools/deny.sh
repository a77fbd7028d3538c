#!/usr/bin/env bash
# Checks licences, duplicates and sources of all dependencies against deny.toml, and known vulnerabilities if the
# advisory database can be fetched. Needs cargo-deny (`cargo install cargo-deny --locked`, some minutes), so not a part
# of .ci/run.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v cargo-deny >/dev/null; then
    echo "error: no cargo-deny" >&2
    echo "hint: cargo install cargo-deny --locked" >&2
    exit 1
fi
# The wheel has its own lock file.
manifests=(Cargo.toml tools/python/Cargo.toml)
for manifest in "${manifests[@]}"; do
    cargo deny --locked --manifest-path "$manifest" --config deny.toml check licenses bans sources
done
# The database is on a git host that not every machine can reach.
if cargo deny fetch >/dev/null 2>&1; then
    for manifest in "${manifests[@]}"; do
        cargo deny --locked --manifest-path "$manifest" --config deny.toml check --disable-fetch advisories
    done
else
    echo "advisories: not checked, the database can't be fetched" >&2
fi
