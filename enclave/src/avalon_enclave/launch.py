"""Holds what the host configures against what it said at launch, which was measured."""

from collections.abc import Mapping

from avalon_core.channel.launch import measured_settings
from avalon_core.channel.messages import Configure
from avalon_enclave.errors import StartRefused


def check_launch(measured: Mapping[str, str], configure: Configure) -> None:
    """Return only where the configuration is the one that was measured.

    Args:
        measured: the settings of the command line (``--measured NAME=VALUE``).
        configure: what the host sent.

    Raises:
        StartRefused: names the settings that differ.
    """
    told = measured_settings(configure)
    differing = sorted(name for name in told.keys() | measured.keys() if told.get(name) != measured.get(name))
    if differing:
        raise StartRefused(
            f"the host configures otherwise than this enclave was launched and measured: {', '.join(differing)}; "
            "give each with --measured NAME=VALUE, and nothing else"
        )
