"""A trust policy in a file: which workers may see the data.

    python trust_policy.py [POLICY]     default: trust.toml beside this file, which admits nobody until you change it

An empty policy admits nobody. A policy for production lists the measurements of enclaves that you built yourself, or that
somebody whom you trust has published, and accepts no simulator.
"""

import asyncio
import os
import sys
from pathlib import Path

from avalon_sdk import AvalonClient, UntrustedWorker, load_policy


async def main(policy: Path) -> int:
    url = os.environ.get("AVALON_URL", "http://127.0.0.1:1947")
    async with AvalonClient(url, trust=load_policy(policy)) as client:
        try:
            outcome = await client.run("echo-result", ["hello"])
        except UntrustedWorker as exc:
            print(exc)
            for check in exc.report.checks:
                print(f"  {check.verdict:<16}{check.name}: {check.remedy or check.found}")
            return 4
        print(outcome.texts()[0], "(SIMULATED: nothing is protected)" if outcome.simulated else "")
        return 0


if __name__ == "__main__":
    given = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("trust.toml")
    sys.exit(asyncio.run(main(given)))
