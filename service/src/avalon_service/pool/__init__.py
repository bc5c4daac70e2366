"""The host's side of a pool: keeps KMEs and WPEs running, joins them, hands orders to WPEs, publishes the record.

None of it is trusted: it carries frames that it cannot read, keeps seals that it cannot open, and what it does wrong costs
availability.
"""
