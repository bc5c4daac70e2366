"""Orders to a pool, and how a WPE asks for their secrets."""

import hashlib

from avalon_core.channel.pool import OpenOrder
from avalon_core.crypto.dialects import WorkerPublicKeys
from avalon_core.crypto.orders import Item, OrderDraft, seal_order
from avalon_core.protocol.ids import HexStr, RequesterId, WorkOrderId, worker_id_of, workload_id_of
from avalon_core.protocol.orders import FORMAT_HPKE, header_of

NONCE = HexStr("00ff")


def sealed(pool, order_id="ab01", *, suite=FORMAT_HPKE, epoch=None):
    """An order to the pool's current keys, or those of an epoch."""
    keys = (epoch or pool.current).keys
    draft = OrderDraft(
        work_order_id=WorkOrderId(order_id),
        worker_id=worker_id_of(pool.manifest.worker_name),
        workload_id=workload_id_of("echo-result"),
        requester_id=RequesterId("cafe"),
        requester_nonce=NONCE,
        inputs=[Item(index=0, data=b"a secret of the requester")],
    )
    return seal_order(
        draft, WorkerPublicKeys(rsa=keys.rsa.public_key, hpke=keys.hpke.public_key), suite=suite
    )


def opening(order, *, token=1, fingerprint=None):
    request = order.request
    print_ = fingerprint or hashlib.sha256(header_of(request)).digest()[:16]
    return lambda number: OpenOrder(number, token, header_of(request), print_)


def ask(world, wpe, request):
    """Ask and wait: the answer."""
    answers = []
    world.nodes[wpe].ask(request, answers.append)
    world.run()
    assert len(answers) == 1
    return answers[0]
