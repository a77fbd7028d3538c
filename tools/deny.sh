#!/usr/bin/env bash
# Licences, duplicates and sources of all dependencies as deny.toml allows them, and known vulnerabilities where the advisory
# database can be fetched. Needs cargo-deny (`cargo install cargo-deny --locked`, some minutes); so not a part of .ci/run.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v cargo-deny >/dev/null; then
    echo "error: cargo-deny is not there" >&2
    echo "hint: cargo install cargo-deny --locked" >&2
    exit 1
fi
# What the wheel adds has a lock file of its own.
manifests=(Cargo.toml tools/python/Cargo.toml)
for manifest in "${manifests[@]}"; do
    cargo deny --locked --manifest-path "$manifest" --config deny.toml check licenses bans sources
done
# The database lies on a git host that not every machine reaches: that is no finding, but said.
if cargo deny fetch >/dev/null 2>&1; then
    for manifest in "${manifests[@]}"; do
        cargo deny --locked --manifest-path "$manifest" --config deny.toml check --disable-fetch advisories
    done
else
    echo "advisories: not checked, the database can't be fetched from here" >&2
fi
