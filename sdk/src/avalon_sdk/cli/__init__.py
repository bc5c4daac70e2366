"""The ``avalon`` command. Everything heavy is imported by the command that needs it."""

from avalon_sdk.cli.app import main

__all__ = ["main"]
