import os
import stat

import pytest

from avalon_sdk import BadRequest, JournalEntry, JournalUnusable, OrderJournal
from avalon_sdk.journal import default_directory


def entry(number: int, **changed: object) -> JournalEntry:
    return JournalEntry(
        **{
            "work_order_id": f"{number:064x}",
            "address": "http://x",
            "workload": "w",
            "worker_id": "00",
            "sealed_at": float(number),
            "saved": b"secret\nbytes",
        }
        | changed
    )


@pytest.fixture
def journal(tmp_path) -> OrderJournal:
    return OrderJournal(tmp_path / "a" / "orders")


def test_what_is_kept_is_there_newest_first_and_private(journal):
    for number in (2, 3, 1):
        journal.keep(entry(number))
    assert [int(found.work_order_id, 16) for found in journal.entries()] == [3, 2, 1]
    assert all(found.saved == b"" for found in journal.entries())
    assert journal.entry(f"{2:064x}") == entry(2)
    assert stat.S_IMODE(journal.directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in journal.directory.iterdir()} == {0o600}
    assert b"secret" not in repr(journal.entry(f"{2:064x}")).encode()


def test_an_entry_is_replaced_and_forgotten(journal):
    journal.keep(entry(1))
    journal.keep(entry(1, state="completed"))
    assert [found.state for found in journal.entries()] == ["completed"]
    journal.forget(f"{1:064x}")
    journal.forget(f"{1:064x}")
    assert journal.entries() == []


def test_the_beginning_of_an_id_will_do_where_it_says_which(journal):
    journal.keep(entry(1, work_order_id="ab" * 32))
    journal.keep(entry(2, work_order_id="ac" * 32))
    assert journal.entry("ab").work_order_id == "ab" * 32
    with pytest.raises(BadRequest, match="beginning of 2"):
        journal.entry("a")
    with pytest.raises(JournalUnusable, match="has no order ff"):
        journal.entry("ff")


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "xyz", "ab/cd", "00" * 33])
def test_an_id_names_no_path(journal, name):
    with pytest.raises(BadRequest, match="expected hex"):
        journal.entry(name)
    with pytest.raises(BadRequest, match="expected hex"):
        journal.keep(entry(1, work_order_id=name))


def test_a_journal_that_others_can_reach_is_refused(journal):
    journal.keep(entry(1))
    journal.directory.chmod(0o750)
    for use in (journal.entries, lambda: journal.entry("00"), lambda: journal.keep(entry(2))):
        with pytest.raises(JournalUnusable, match="chmod 700"):
            use()


def test_what_is_not_an_entry_is_left_out_and_a_link_is_not_followed(journal, tmp_path):
    journal.keep(entry(1))
    (journal.directory / f"{'cd' * 32}.order").write_bytes(b"not json\n")
    (tmp_path / "elsewhere").write_bytes((journal.directory / f"{1:064x}.order").read_bytes())
    (journal.directory / f"{'ef' * 32}.order").symlink_to(tmp_path / "elsewhere")
    (journal.directory / f"{'aa' * 32}.order").write_bytes((tmp_path / "elsewhere").read_bytes())
    os.mkfifo(journal.directory / f"{'bb' * 32}.order")
    assert len(journal.entries()) == 1
    with pytest.raises(JournalUnusable):
        journal.entry("ef" * 32)


def test_a_file_in_the_way_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalUnusable, match="cannot be written"):
        OrderJournal(tmp_path / "file" / "orders").keep(entry(1))
    with pytest.raises(JournalUnusable, match="not a directory"):
        OrderJournal(tmp_path / "file").entries()


def test_where_it_is_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("AVALON_ORDERS_DIR", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_directory() == tmp_path / "avalon" / "orders"
    monkeypatch.setenv("AVALON_ORDERS_DIR", str(tmp_path / "x"))
    assert OrderJournal().directory == tmp_path / "x"


async def test_an_order_is_in_the_journal_before_it_is_sent(service, journal):
    seen = []
    service.on_call = lambda call: seen.append((call.method, len(journal.entries())))
    async with service.client() as client:
        handle = await client.submit("echo-result", ["a"], journal=journal)
        assert ("WorkOrderSubmit", 1) in seen
        kept = journal.entry(handle.work_order_id)
        assert (await client.resume(kept.saved).result()).texts() == ["RESULT: a"]


async def test_an_order_that_was_sealed_anew_replaces_the_one_before(service, journal):
    async with service.client() as client:
        await client.run("echo-result", ["a"])
        service.rotate_keys()
        handle = await client.submit("echo-result", ["b"], journal=journal)
    assert [found.work_order_id for found in journal.entries()] == [handle.work_order_id]
