"""The framed channel between a host and its enclave: the only way in and out of the trusted zone.

Frames are a length and a message; messages are msgpack arrays of the types in
:mod:`avalon_core.channel.messages`. The host sees ciphertext and public records on it, never a key or plaintext.
"""
