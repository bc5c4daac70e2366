"""An order that is sent by one process and waited for by another.

    python later.py send        prints the order's id
    python later.py fetch ID    waits for its result, verifies it and opens it

The journal keeps what is needed in between. It is secret: whoever has an entry can read that order's result.
"""

import asyncio
import os
import sys

from avalon_sdk import AvalonClient, OrderJournal

URL = os.environ.get("AVALON_URL", "http://127.0.0.1:1947")


async def send() -> None:
    async with AvalonClient(URL) as client:
        # The order is in the journal before it is sent: a crash at any moment loses nothing.
        handle = await client.submit("echo-result", ["for later"], journal=OrderJournal())
        print(handle.work_order_id)


async def fetch(work_order_id: str) -> None:
    journal = OrderJournal()
    entry = journal.entry(work_order_id)
    async with AvalonClient(entry.address) as client:
        # The worker is appraised again, under this client's policy: what is in the entry is not simply believed.
        outcome = await client.resume(entry.saved).result(timeout=60)
        print(outcome.texts()[0])
    journal.forget(entry.work_order_id)


if __name__ == "__main__":
    if sys.argv[1:] == ["send"]:
        asyncio.run(send())
    elif len(sys.argv) == 3 and sys.argv[1] == "fetch":
        asyncio.run(fetch(sys.argv[2]))
    else:
        sys.exit(__doc__)
