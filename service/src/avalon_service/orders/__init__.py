"""Work orders on the untrusted host: what they are, how they change, and the ports that keep them.

`state` holds the rules and nothing else, `ports` what the rest of the service may ask of a store, `errors` what can go
wrong. Contents are opaque here: a request and a result are bytes that only the requester and the enclave can read.
"""
