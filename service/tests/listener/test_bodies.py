"""Room for large bodies: never more than there is, in the order of asking, and given back whatever happens."""

from __future__ import annotations

import asyncio

from avalon_service.listener.bodies import BodyRoom, Lease, accepted, hold


async def taking(room: BodyRoom, size: int) -> asyncio.Task[Lease]:
    task = asyncio.ensure_future(room.take(size))
    for _ in range(3):
        await asyncio.sleep(0)
    return task


async def test_room_is_given_out_in_the_order_of_asking() -> None:
    room = BodyRoom(10)
    first = await room.take(6)
    large, small = await taking(room, 8), await taking(room, 1)
    assert not large.done()
    assert not small.done()  # or small ones would keep a large one waiting for ever
    first.release()
    second = await large
    assert (await small).release() is None
    second.release()
    (await room.take(10)).release()


async def test_who_gives_up_waiting_keeps_nobody_waiting() -> None:
    room = BodyRoom(10)
    first = await room.take(6)
    large, small = await taking(room, 8), await taking(room, 4)
    large.cancel()
    (await small).release()
    first.release()
    (await room.take(10)).release()


async def test_who_is_cancelled_at_the_moment_of_getting_room_gives_it_back() -> None:
    room = BodyRoom(10)
    first = await room.take(6)
    large = await taking(room, 8)
    first.release()
    large.cancel()
    await asyncio.gather(large, return_exceptions=True)
    (await asyncio.wait_for(room.take(10), 5)).release()


async def test_a_body_larger_than_all_of_it_has_it_alone() -> None:
    room = BodyRoom(10)
    lease = await room.take(99)
    other = await taking(room, 1)
    assert not other.done()
    lease.release()
    (await other).release()


async def test_room_is_free_when_the_order_is_accepted_and_once_only() -> None:
    room = BodyRoom(10)
    lease = await room.take(10)
    hold(lease)
    accepted()
    second = await room.take(10)
    lease.release()  # at the end of the call
    third = await taking(room, 10)
    assert not third.done()
    second.release()
    (await third).release()
    hold(None)
    accepted()
