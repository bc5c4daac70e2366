"""One confidential order with the asynchronous client, and what can go wrong on its way."""

import asyncio
import os
import sys

import avalon_sdk


async def main() -> int:
    url = os.environ.get("AVALON_URL", "http://127.0.0.1:1947")
    # On this machine the client accepts the simulated worker and warns. Anywhere else it trusts nobody until it is told
    # whom: see trust_policy.py.
    async with avalon_sdk.AvalonClient(url) as client:
        try:
            outcome = await client.run("echo-result", ["hello", "world"], timeout=20)
        except avalon_sdk.UntrustedWorker as exc:
            # Nothing was sent. The report says of each check what was expected, what was found, and what to do.
            for check in exc.report.checks:
                print(f"{check.verdict}: {check.name}: {check.remedy}", file=sys.stderr)
            return 4
        except avalon_sdk.OrderFailed as exc:
            print(f"the worker could not do it: {exc}", file=sys.stderr)
            return 1
        except avalon_sdk.AvalonClientError as exc:
            print(exc, file=sys.stderr)
            return 3
    # Whatever is in the outcome was verified: this order's, by that worker, unchanged.
    for text in outcome.texts():
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
