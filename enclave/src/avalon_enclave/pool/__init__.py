"""A pool from the inside: key management enclaves (KMEs), which hold the keys, and work order processing enclaves
(WPEs), which are handed exactly what one order needs.

What decides is pure and takes the time as an argument, so that thousands of schedules can be simulated; what runs in
threads and speaks to the host stands in :mod:`avalon_enclave.roles`.
"""
