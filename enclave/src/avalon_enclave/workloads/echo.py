"""echo-result: every input comes back, marked."""

from avalon_enclave.workloads.base import (
    MAX_ITEM_BYTES,
    MAX_OUTPUT_BYTES,
    Context,
    Isolation,
    ItemByItem,
    Limits,
)


class EchoResult(ItemByItem):
    """``RESULT: `` and the input, whatever its bytes are."""

    name = "echo-result"
    title = "Echo"
    input_help = "any text or bytes"
    limits = Limits(
        max_items=1024,
        max_item_bytes=MAX_ITEM_BYTES,
        max_output_bytes=MAX_OUTPUT_BYTES,
        seconds=10.0,
        isolation=Isolation.THREAD,  # one copy of an input of bounded size
    )

    def answer(self, data: bytes, context: Context) -> bytes:
        return b"RESULT: " + data
