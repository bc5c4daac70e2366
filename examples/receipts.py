"""A receipt: the requester's signed word that it ordered something, the worker's that it answered, and the requester's
that it accepts the answer. All three can be shown to others long after the order was purged.
"""

import asyncio
import os

from avalon_sdk import AvalonClient, ReceiptStatus, SigningKey


async def main() -> None:
    url = os.environ.get("AVALON_URL", "http://127.0.0.1:1947")
    key = SigningKey.generate()  # in life one that is kept: SigningKey.from_pem(...)
    async with AvalonClient(url) as client:
        # Signed with the same key, the order itself shows whose receipt is the right one.
        handle = await client.submit("echo-result", ["hello"], signer=key)
        await client.create_receipt(handle, key)
        outcome = await handle.result()
        print(outcome.texts()[0])

        # Every signature is verified, and that the worker's word names the very result that is at hand.
        receipt = await client.retrieve_receipt(handle)
        word = receipt.worker_says
        if word is None or word.agrees_with != "result":
            raise SystemExit("the worker has not vouched for its answer yet")
        await client.update_receipt(handle, key, ReceiptStatus.COMPLETED)

        receipt = await client.retrieve_receipt(handle)
        print(f"the receipt is {receipt.status_name}:")
        for update in receipt.updates:
            print(f"  {update.type_name} by the {update.by}")


if __name__ == "__main__":
    asyncio.run(main())
