"""The same client for code that is not asynchronous."""

import os

from avalon_sdk.sync import Client


def main() -> None:
    url = os.environ.get("AVALON_URL", "http://127.0.0.1:1947")
    with Client(url) as client:
        for listed in client.look_up_workers():
            print(
                f"{listed.worker_id[:16]}: {listed.status}, {'trusted' if listed.is_trusted else 'not trusted'}"
            )
        worker = client.find_worker()
        handle = worker.submit("echo-result", ["hello"])
        # The service says where the order stands; what came of it only the verified result says.
        for event in handle.events():
            print(event.state)
        print(handle.result().texts()[0])


if __name__ == "__main__":
    main()
