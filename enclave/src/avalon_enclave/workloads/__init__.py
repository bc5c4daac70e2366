"""Workloads: the trusted code that work orders name. Those that ship, and how others are found.

A distribution offers a workload by an entry point in the group ``avalon.workloads``; its name is the workload's
name. What it must be is in :mod:`avalon_enclave.workloads.base`.
"""

from avalon_enclave.workloads.base import Context, Isolation, Item, ItemByItem, Limits, Workload

__all__ = ["Context", "Isolation", "Item", "ItemByItem", "Limits", "Workload"]
