"""python-fib: Fibonacci numbers."""

import re

from avalon_enclave.workloads.base import Context, Isolation, ItemByItem, Limits

MAX_POSITION = 20_000
"""F(20,000) has 4,180 digits; Python refuses to write out integers of more than 4,300."""

_POSITION = re.compile(r"\s*\+?([0-9]{1,18})\s*\Z", re.ASCII)


def fibonacci(position: int) -> int:
    """F(0) = 0, F(1) = F(2) = 1. By doubling: some 2 log2(position) multiplications."""
    now, following = 0, 1
    for bit in f"{position:b}":
        now, following = now * (2 * following - now), now * now + following * following
        if bit == "1":
            now, following = following, now + following
    return now


class PythonFib(ItemByItem):
    """``Fibonacci number at position n = F``."""

    name = "python-fib"
    title = "Fibonacci number"
    input_help = f"a whole number from 0 to {MAX_POSITION}"
    limits = Limits(
        max_items=256,
        max_item_bytes=64,
        isolation=Isolation.THREAD,  # the position is capped: tens of microseconds an item
    )

    def answer(self, data: bytes, context: Context) -> bytes:
        matched = _POSITION.match(data.decode("utf-8", "replace"))
        position = int(matched[1]) if matched else -1
        if not 0 <= position <= MAX_POSITION:
            return f"Error: expected a whole number from 0 to {MAX_POSITION}".encode()
        return f"Fibonacci number at position {position} = {fibonacci(position)}".encode()
