"""python-hello: a greeting."""

from avalon_enclave.workloads.base import Context, Isolation, ItemByItem, Limits


class PythonHello(ItemByItem):
    """``Hello `` and the input."""

    name = "python-hello"
    title = "Hello"
    input_help = "a name"
    limits = Limits(
        max_items=1024,
        max_item_bytes=64 * 1024,
        isolation=Isolation.THREAD,  # one copy of an input of bounded size
    )

    def answer(self, data: bytes, context: Context) -> bytes:
        return b"Hello " + data
