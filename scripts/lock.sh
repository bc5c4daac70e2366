#!/usr/bin/env bash
# Resolve every dependency anew and write the hashed lock files. They carry names, versions and hashes, no addresses.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=.venv/bin/uv
common=(--python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate
        --custom-compile-command 'scripts/lock.sh' --upgrade --quiet)
distributions=(core/pyproject.toml sdk/pyproject.toml enclave/pyproject.toml service/pyproject.toml)
none_of_ours=(--no-emit-package avalon-core --no-emit-package avalon-sdk --no-emit-package avalon-enclave
              --no-emit-package avalon-service)
"$uv" pip compile "${common[@]}" "${none_of_ours[@]}" "${distributions[@]}" -o requirements/run.txt
"$uv" pip compile "${common[@]}" "${none_of_ours[@]}" "${distributions[@]}" requirements/tools.in -o requirements/dev.txt
"$uv" pip compile "${common[@]}" "${none_of_ours[@]}" enclave/pyproject.toml -o requirements/enclave.txt
"$uv" pip compile "${common[@]}" requirements/uv.in -o requirements/uv.txt
