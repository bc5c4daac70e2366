#!/usr/bin/env bash
# Install from Debian what some tests need and a virtual environment cannot hold. For CI, which requires those tests;
# elsewhere they skip and say which package they want.
set -euo pipefail
packages=(
  faketime
  swtpm libtss2-dev gcc libc6-dev pkg-config python3-dev # a TPM in software, and what builds tpm2-pytss for it
)
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ]; then
  echo "Not root, so not installed: ${missing[*]}. Tests that need them skip, or fail where everything is required." >&2
  exit 0
fi
echo "Installing ${missing[*]} ..."
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
