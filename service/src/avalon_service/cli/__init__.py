"""The service's commands, plugged into ``avalon`` through the entry-point group ``avalon.commands``."""
