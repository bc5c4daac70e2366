"""Finds the workloads that are installed, and loads them.

Two workloads of one name stop the start: which of them an order means would be a matter of luck.
"""

from collections.abc import Sequence
from importlib import metadata

from avalon_core.errors import AvalonError
from avalon_enclave.errors import StartRefused
from avalon_enclave.events import type_name
from avalon_enclave.measurement import installed_workloads
from avalon_enclave.workloads.base import NAME_PATTERN, Limits, Workload

_MAX_TITLE_CHARS = 200
_MAX_HELP_CHARS = 1000


class WorkloadBroken(AvalonError):
    """The workload cannot be used. The message names the error's type or says what is wrong; no other text."""


def distinct_workloads() -> Sequence[metadata.EntryPoint]:
    """The entry points that are installed, sorted by name.

    Raises:
        StartRefused: two have one name.
    """
    found: dict[str, metadata.EntryPoint] = {}
    for entry in installed_workloads():
        if entry.name in found:
            raise StartRefused(
                f"two workloads are named {entry.name!r}: {found[entry.name].value} and {entry.value}; "
                "uninstall one of the distributions that offer them"
            )
        found[entry.name] = entry
    return [found[name] for name in sorted(found)]


def load_named(name: str) -> Workload:
    """Load the one workload of this name.

    Raises:
        WorkloadBroken
    """
    entries = [entry for entry in installed_workloads() if entry.name == name]
    if len(entries) != 1:
        raise WorkloadBroken(f"expected one workload of this name, found {len(entries)}")
    return load(entries[0])


def load(entry: metadata.EntryPoint) -> Workload:
    """Import a workload's code and make its instance.

    Raises:
        WorkloadBroken
    """
    try:
        made = entry.load()()
    except BaseException as exc:  # noqa: BLE001 a third party's code may raise anything while it is imported
        raise WorkloadBroken(type_name(exc)) from None
    if not isinstance(made, Workload):
        raise WorkloadBroken("it is not a subclass of Workload")
    fault = _fault(made, entry.name)
    if fault is not None:
        raise WorkloadBroken(fault)
    return made


def _fault(workload: Workload, name: str) -> str | None:
    if not NAME_PATTERN.match(name):
        return "its name is not up to 32 of a-z, 0-9, '.', '_' and '-'"
    if getattr(workload, "name", None) != name:
        return "its name differs from its entry point's"
    for attribute, longest in (("title", _MAX_TITLE_CHARS), ("input_help", _MAX_HELP_CHARS)):
        text = getattr(workload, attribute, None)
        if not isinstance(text, str) or len(text) > longest:
            return f"it has no {attribute} of up to {longest} characters"
    if not isinstance(getattr(workload, "limits", None), Limits):
        return "its limits are not Limits"
    return None
