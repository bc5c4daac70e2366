"""Vendors of TEEs, SIMULATED: whole imitations of their public key infrastructures, made from a seed.

What comes from here has the very bytes of real evidence and goes through the ordinary verification. It ends in a root
of the simulator's own, which no production policy accepts: no hardware stands behind it, and it protects nothing.

Everything is pure and deterministic: equal seed, request and time give equal bytes.
"""
