#!/usr/bin/env bash
# Make .venv and install Avalon in it: `scripts/setup.sh run` what the service needs, `scripts/setup.sh dev` that and
# the tools. May be run again at any time, also after having been interrupted; the Makefile runs it when it is due.
set -euo pipefail
cd "$(dirname "$0")/.."

kind=${1:-dev}
case $kind in run | dev) ;; *) echo "usage: scripts/setup.sh [run|dev]; got '$kind'" >&2; exit 2 ;; esac

root=$(pwd -P)
venv=$root/.venv
python=$venv/bin/python
unfinished=$venv/.unfinished  # there exactly while somebody installs: what is found with it was interrupted
distributions=(core sdk enclave service)

# Nothing of the caller's Python may leak into ours.
unset PYTHONPATH PYTHONHOME PYTHONSTARTUP VIRTUAL_ENV PIP_TARGET PIP_PREFIX PIP_USER PIP_REQUIRE_VIRTUALENV UV_PYTHON
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore PYTHONNOUSERSITE=1

trap 'exit 130' INT
trap 'exit 143' TERM

say() { printf '%s\n' "$*"; }
die() { printf 'set-up: %s\n' "$@" >&2; exit 1; }

# Two set-ups at a time would tread on each other; the lock lies on a folder, so there is no file to clean up.
if command -v flock >/dev/null; then
    exec 9<requirements
    flock -n 9 || { say 'Waiting for another set-up of this folder…'; flock 9; }
fi

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    local candidate
    for candidate in ${AVALON_PYTHON:-} python3.11 python3 python3.12 python3.13 python3.14 /usr/bin/python3; do
        if command -v "$candidate" >/dev/null && is_new_enough "$candidate"; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    return 1
}

can_make_venv() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

install_debian() {
    [[ $(id -u) = 0 ]] && command -v apt-get >/dev/null || return 1
    say "Installing $* with apt-get…"
    local log
    log=$(mktemp)
    if { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; } \
        >"$log" 2>&1 </dev/null; then
        rm -f "$log"
    else
        tail -n 15 "$log" >&2
        rm -f "$log"
        return 1
    fi
}

choose_python() {
    base=$(find_python) || {
        install_debian python3 python3-venv || true
        base=$(find_python) || die 'no Python 3.11 or newer was found.' \
            'Install one (on Debian 12 or newer, as root: apt-get install python3 python3-venv), or name one:' \
            '    AVALON_PYTHON=/path/of/python3 make …'
    }
    can_make_venv "$base" && return
    local package
    package=$("$base" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    case $base in /usr/bin/*) install_debian "$package" || install_debian python3-venv || true ;; esac
    can_make_venv "$base" || die "$base cannot make virtual environments: its modules venv or ensurepip are missing." \
        "On Debian and Ubuntu, as root: apt-get update && apt-get install -y $package" \
        'Then run the same command again. Or name another Python: AVALON_PYTHON=/path/of/python3 make …'
}

# Whole: not interrupted, made for this very folder, and its Python and pip still run.
is_whole() {
    [[ ! -e $unfinished ]] && is_new_enough "$python" && grep -qF "$venv/bin/python" "$venv/bin/pip" 2>/dev/null \
        && "$python" -m pip --version >/dev/null 2>&1
}

make_venv() {
    if [[ -e $venv || -L $venv ]]; then
        say 'Removing a .venv that is incomplete or was made for another place…'
        rm -rf "$venv"
    fi
    choose_python
    say "Making .venv with Python $("$base" -c 'import platform; print(platform.python_version())')…"
    mkdir "$venv"
    : >"$unfinished"
    "$base" -m venv "$venv" || die "could not make .venv with $base: see above."
}

have_uv() {
    local wanted log
    wanted=$(sed -n 's/^uv==\([^ ]*\).*/\1/p' requirements/uv.txt)
    [[ $("$venv/bin/uv" --version 2>/dev/null) = "uv $wanted"* ]] && return
    say "Installing uv $wanted…"
    log=$(mktemp)
    "$python" -m pip install -qq --require-hashes -r requirements/uv.txt >"$log" 2>&1 && { rm -f "$log"; return; }
    say 'uv cannot be had (the last words about it follow); installing with pip from the same locks, which takes longer.'
    tail -n 3 "$log" | cut -c 1-200
    rm -f "$log"
    return 1
}

# install WHAT ARGUMENTS: with uv, or with pip from the same lock where uv cannot do it.
install() {
    local what=$1 log
    shift
    say "Installing $what…"
    if $uv_works; then
        log=$(mktemp)
        if "$venv/bin/uv" pip install --quiet --python "$python" "$@" >"$log" 2>&1; then
            rm -f "$log"
            return
        fi
        uv_works=false
        say 'uv could not (its last words follow); installing with pip from the same lock, which takes longer.'
        tail -n 5 "$log" | cut -c 1-200
        rm -f "$log"
    fi
    "$python" -m pip install -qq "$@" || die "could not install $what: see above."
}

# The extra `tpm` of avalon-enclave is built from source. Where it cannot be, its tests skip and say so.
can_build_tpm() {
    command -v pkg-config >/dev/null && pkg-config --exists tss2-esys tss2-fapi && command -v cc >/dev/null \
        && "$python" -c 'import os, sys, sysconfig as s; sys.exit(not os.path.exists(s.get_path("include") + "/Python.h"))'
}

install_tpm() {
    local log lock
    say 'Installing the extra tpm, which takes a minute to build…'
    log=$(mktemp)
    for lock in tpm-build tpm; do
        # Without build isolation: the build takes what is locked, and nothing else.
        if ! { $uv_works && "$venv/bin/uv" pip install --quiet --python "$python" --no-build-isolation \
                --require-hashes --requirement "requirements/$lock.txt" >"$log" 2>&1; } \
            && ! "$python" -m pip install -qq --no-build-isolation --require-hashes \
                --requirement "requirements/$lock.txt" >"$log" 2>&1; then
            say 'It cannot be built (the last words about it follow); going on without it.'
            tail -n 5 "$log" | cut -c 1-200
            break
        fi
    done
    rm -f "$log"
}

locks=(requirements/build.txt requirements/run.txt)
[[ $kind = run ]] || locks=(requirements/dev.txt)

if ! is_whole; then
    make_venv
fi
: >"$unfinished"
rm -f "$venv/.stamp-$kind"

uv_works=true
have_uv || uv_works=false

packages=$(cat "${locks[@]}" | grep -c '^[a-zA-Z0-9].*==')
install "$packages packages" --require-hashes "${locks[@]/#/--requirement=}"
install "Avalon (${distributions[*]})" --no-deps --no-build-isolation "${distributions[@]/#/--editable=./}"

[[ $kind = run ]] || ! can_build_tpm || install_tpm

"$python" -c 'import avalon_core, avalon_enclave, avalon_sdk, avalon_service' \
    || die 'Avalon was installed but cannot be imported: see above.'

rm -f "$unfinished"
touch "$venv/.stamp-run"
[[ $kind = run ]] || touch "$venv/.stamp-dev"
say "Set up in $SECONDS s."
