"""A batch of orders: so many at a time, a line of progress, and a list of what did not work.

One client does for all of them: it appraises the worker once and keeps its connections.
"""

import asyncio
import os
import sys

import avalon_sdk

ORDERS = int(os.environ.get("ORDERS", "50"))
AT_A_TIME = 8
"""More would only wait in the service's queue, and a service refuses what is too much (Busy, which the client retries)."""


async def main() -> int:
    url = os.environ.get("AVALON_URL", "http://127.0.0.1:1947")
    slots = asyncio.Semaphore(AT_A_TIME)
    done, failed = 0, []

    async with avalon_sdk.AvalonClient(url) as client:
        worker = await client.find_worker()

        async def one(number: int) -> None:
            nonlocal done
            async with slots:
                try:
                    outcome = await worker.run("echo-result", [f"patient {number}"], timeout=60)
                    assert outcome.texts() == [f"RESULT: patient {number}"]
                except avalon_sdk.AvalonClientError as exc:
                    failed.append((number, str(exc)))
            done += 1
            print(f"\r{done} of {ORDERS}", end="", file=sys.stderr)

        async with asyncio.TaskGroup() as group:
            for number in range(ORDERS):
                group.create_task(one(number))

    print(file=sys.stderr)
    print(f"{done - len(failed)} done, {len(failed)} failed")
    for number, why in failed:
        print(f"{number}: {why}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
