"""The command line of the enclave process."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from avalon_core.errors import ChannelError
from avalon_enclave.errors import EXIT_CHANNEL_BROKEN, StartRefused
from avalon_enclave.hardening import harden
from avalon_enclave.host_channel import open_channel
from avalon_enclave.measurement import setting
from avalon_enclave.platforms import PLATFORMS, PlatformOptions, open_platform
from avalon_enclave.platforms.simulated import KINDS
from avalon_enclave.roles import ROLES


def main(arguments: Sequence[str] | None = None) -> int:
    """Run an enclave to its end; returns the exit code (see :mod:`avalon_enclave.errors`)."""
    options = _parser().parse_args(arguments)
    measured = dict(options.measured)
    try:
        harden()
        platform = open_platform(
            options.platform,
            PlatformOptions(
                role=options.role,
                state_path=options.platform_state,
                config_path=options.platform_config,
                quoting_socket=options.quoting_socket,
                simulated_kind=options.simulated_kind,
                measured=measured,
            ),
        )
        channel = open_channel(options.channel, measured=measured)
        return ROLES[options.role](channel, platform)
    except StartRefused as exc:
        _complain(exc.message)
        return exc.exit_code
    except ChannelError as exc:
        _complain(f"the host broke the rules of the channel: {exc.message}")
        return EXIT_CHANNEL_BROKEN


def run() -> None:
    """Run, and end at once: a workload's thread that never comes back must not hold up the end."""
    code = main()
    sys.stderr.flush()
    os._exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="avalon_enclave",
        description="The enclave process of Avalon. It is started by its host and talks to nobody else.",
        allow_abbrev=False,
    )
    parser.add_argument("--role", required=True, choices=sorted(ROLES), help="what this enclave is")
    parser.add_argument(
        "--platform",
        required=True,
        choices=sorted(PLATFORMS),
        help="the kind of TEE it runs in; 'simulated' protects nothing",
    )
    parser.add_argument(
        "--channel",
        required=True,
        metavar="fd:N",
        help="the channel to the host: an inherited end of a Unix stream socket pair",
    )
    parser.add_argument(
        "--platform-state",
        type=Path,
        metavar="PATH",
        help="file of the simulated platform's seed, made where it does not exist; needed for sealed keys",
    )
    parser.add_argument(
        "--platform-config",
        type=Path,
        metavar="PATH",
        help="file that configures the platform, TOML: tpm needs one; see docs/attestation",
    )
    parser.add_argument(
        "--measured",
        action="append",
        default=[],
        type=setting,
        metavar="NAME=VALUE",
        help="what the host will configure that changes what the enclave does; it is measured, and a configuration "
        "that says otherwise is refused. May be given several times",
    )
    parser.add_argument(
        "--quoting-socket",
        type=Path,
        metavar="PATH",
        help="where the quoting process of the simulated platform listens; its evidence needs one",
    )
    parser.add_argument(
        "--simulated-kind",
        choices=KINDS,
        default="sgx",
        help="which TEE the simulated platform imitates (default: sgx)",
    )
    return parser


def _complain(message: str) -> None:
    sys.stderr.write(f"avalon enclave: {message}\n")
