"""Receipts and their updates.

Nothing refers to `orders`: a receipt outlives its order. The indices of `receipts` hold what look-ups filter and count
by, so that a look-up reads no rows but those that it returns. Numbers are never used again, even after a purge of the
last receipts: a look-up that is under way goes on after a number.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_STATEMENTS = (
    """
    CREATE TABLE receipts (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        work_order_id TEXT NOT NULL UNIQUE,
        worker_service_id TEXT NOT NULL,
        worker_id TEXT NOT NULL,
        requester_id TEXT NOT NULL,
        create_status INTEGER NOT NULL,
        request_hash TEXT NOT NULL,
        nonce TEXT NOT NULL,
        signature TEXT NOT NULL,
        signature_rules TEXT NOT NULL,
        verification_key TEXT NOT NULL,
        status INTEGER NOT NULL,
        update_count INTEGER NOT NULL DEFAULT 0,
        created_at REAL NOT NULL,
        updated_at REAL NOT NULL,
        awaits INTEGER NOT NULL DEFAULT 1
    ) STRICT
    """,
    "CREATE INDEX receipts_by_requester ON receipts (requester_id, number, status)",
    "CREATE INDEX receipts_by_service ON receipts (worker_service_id, number, status)",
    "CREATE INDEX receipts_by_worker ON receipts (worker_id, number)",
    "CREATE INDEX receipts_by_status ON receipts (status, number, worker_id, worker_service_id)",
    "CREATE INDEX receipts_by_age ON receipts (updated_at)",
    "CREATE INDEX receipts_awaiting ON receipts (worker_id, number) WHERE awaits",
    """
    CREATE TABLE receipt_updates (
        receipt INTEGER NOT NULL,
        position INTEGER NOT NULL,
        updater_id TEXT NOT NULL,
        digest BLOB NOT NULL,
        update_type INTEGER NOT NULL,
        at REAL NOT NULL,
        signature TEXT NOT NULL,
        signature_rules TEXT NOT NULL,
        verification_key TEXT NOT NULL,
        update_data TEXT NOT NULL,
        PRIMARY KEY (receipt, position)
    ) STRICT, WITHOUT ROWID
    """,
)


def upgrade() -> None:
    """Apply."""
    for statement in _STATEMENTS:
        op.execute(statement)
