#!/usr/bin/env bash
# Install from Debian what some tests need and a virtual environment cannot hold. For CI, which requires those tests;
# elsewhere they skip and say which package they want.
set -euo pipefail
packages=(faketime)
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
