"""The messages of the protocol as frozen records, decoded and validated in one pass.

Source: EEA Off-Chain Trusted Compute Specification v1.1, as spoken by the clients of the original Avalon. Where
the two differ from each other or from JSON-RPC 2.0, the module that is concerned says what was decided and why.
"""
