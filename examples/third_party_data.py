"""Data of a third party: a hospital lets a researcher run one workload on a record that the researcher cannot read, and
an insurer gets a result that only the insurer can open.

The three would be on three machines. Each of them checks the worker for itself.
"""

import asyncio
import os

from avalon_sdk import AvalonClient, OutputKey, OwnedInput, seal_owned_input

URL = os.environ.get("AVALON_URL", "http://127.0.0.1:1947")
WORKLOAD = "echo-result"


async def hospital() -> bytes:
    """Seal a record to the worker, for one workload. It goes to the researcher over a confidential way."""
    async with AvalonClient(URL) as client:
        worker = await client.find_worker()
        return seal_owned_input(worker, WORKLOAD, b"a patient's record").to_bytes()


async def researcher(record: bytes, outputs_key: OutputKey) -> None:
    """Order the work: own items and the hospital's beside each other."""
    async with AvalonClient(URL) as client:
        worker = await client.find_worker()
        # In life the insurer makes the key and hands over only what seal_to() returns.
        for_insurer = outputs_key.seal_to(worker, WORKLOAD)
        items = ["my question", OwnedInput.from_bytes(record)]
        handle = await worker.submit(WORKLOAD, items, outputs={1: for_insurer})
        outcome = await handle.result()
        print("the researcher reads:", outcome.texts())
        # The insurer needs the order and the result as they travelled; nothing in them is secret.
        opened = outputs_key.open_outputs(handle.request, outcome.raw, worker)
        print("the insurer reads:", opened[1].decode())


async def main() -> None:
    await researcher(await hospital(), OutputKey.generate())


if __name__ == "__main__":
    asyncio.run(main())
