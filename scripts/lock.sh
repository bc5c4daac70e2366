#!/usr/bin/env bash
# Resolve the dependencies and write the hashed lock files: `scripts/lock.sh` keeps every version that still fits,
# `scripts/lock.sh --upgrade` takes the newest. Locks carry names, versions and hashes, no addresses, and a digest of
# what they were made from, by which scripts/check_house.py tells that one is out of date.
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1-} in '' | --upgrade) upgrade=("$@") ;; *) echo "usage: scripts/lock.sh [--upgrade]" >&2; exit 2 ;; esac
uv=.venv/bin/uv
common=(--python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate
        --custom-compile-command 'scripts/lock.sh' --quiet
        --no-emit-package avalon-core --no-emit-package avalon-sdk --no-emit-package avalon-enclave
        --no-emit-package avalon-service)
distributions=(core/pyproject.toml sdk/pyproject.toml enclave/pyproject.toml service/pyproject.toml)

# lock NAME INPUT...: everything but uv itself agrees with dev.txt, which is made first.
lock() {
    local output=requirements/$1.txt agree=()
    shift
    case $output in */dev.txt | */uv.txt) ;; *) agree=(--constraints requirements/dev.txt) ;; esac
    "$uv" pip compile "${common[@]}" "${upgrade[@]}" "${agree[@]}" "$@" -o "$output"
    .venv/bin/python scripts/lock_digest.py "$output" "$@"
}

lock dev "${distributions[@]}" requirements/tools.in
lock run "${distributions[@]}"
lock enclave core/pyproject.toml enclave/pyproject.toml
lock build requirements/build.in
lock tpm-build requirements/tpm-build.in
lock tpm requirements/tpm.in
lock uv requirements/uv.in
