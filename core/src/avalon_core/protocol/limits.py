"""Caps on everything that comes from outside, each with its reason.

They bound memory and time before any cryptography is done. The listener's own caps (body size, waits) are
settings of the service; these are the ones that the wire itself implies.
"""

MAX_ID_HEX_DIGITS = 64
"""Ids are up to 32 bytes (specification 1.1); a leading ``0x`` does not count."""

MAX_ITEMS = 1024
"""Data items in one direction of a work order: each costs a key derivation and an allocation in the enclave."""

MAX_ITEM_INDEX = 2**31 - 1
"""Indices travel as 32-bit integers into key derivation."""

MAX_DATA_CHARS = 24 * 1024 * 1024
"""Base64 text of one item: 16 MiB of ciphertext is 22.4 million characters, with room for layout."""

MAX_WRAPPED_KEY_CHARS = 8192
"""Hex of an encrypted key. The largest known is 2,400 (HPKE), RSA-3072 wrapped twice is 824."""

MAX_OWN_KEYS = 64
"""Items' own keys in one order, in both directions: each costs the enclave a private-key operation (RSA: about 1 ms)."""

MAX_PEM_CHARS = 4096
"""A public key in PEM: RSA-3072 needs 625; RSA-16384 would need 2,900."""

MAX_SIGNATURE_CHARS = 128
"""Base64 of an ECDSA secp256k1 signature in DER: at most 72 bytes, 96 characters."""

MAX_NONCE_CHARS = 256
"""Hex of the requester's nonce. Clients send 16 to 32 bytes."""

MAX_URI_CHARS = 2048
"""The common limit of URIs in practice."""

MAX_TIMEOUT_MSECS = 2**31 - 1
"""responseTimeoutMSecs is a 32-bit integer in every existing client."""

MAX_RECEIPT_CODE = 2**31 - 1
"""Receipt statuses and update types, an application's own included, are 32-bit integers in existing clients."""

MAX_UPDATE_DATA_CHARS = 16 * 1024
"""Text of one update of a receipt. A hash has 44 characters; anybody may add updates, and all of them are kept."""

MAX_FRAME_BYTES = 40 * 1024 * 1024
"""One frame of the channel between host and enclave: one order of the largest size with its envelope."""

MAX_BATCH_CALLS = 100
"""Calls in one JSON-RPC batch: a batch must not be a way around per-request limits."""
