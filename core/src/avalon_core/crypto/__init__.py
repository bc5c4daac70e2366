"""The cryptography of work orders, from maintained primitives (pyca/cryptography and libsecp256k1).

:mod:`~avalon_core.crypto.orders` is the way in: seal an order, open it, seal its result, open that. The dialects
beneath it differ in which bytes are hashed and how messages are laid out, and in nothing else.
"""
