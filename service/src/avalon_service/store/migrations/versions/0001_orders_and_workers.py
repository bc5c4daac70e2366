"""Orders and workers.

Facts are appended and hardly ever changed: what was accepted (`orders`), what came of it (`outcomes`). `pending` holds
one small row for each order that is not final, so that opening a store reads those and nothing else. `identities`
outlives both: it is where an id is found to be taken, and once its order is purged it is the order's tombstone.
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_STATEMENTS = (
    """
    CREATE TABLE store (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        epoch INTEGER NOT NULL
    ) STRICT
    """,
    "INSERT INTO store (only, epoch) VALUES (1, 0)",
    """
    CREATE TABLE identities (
        work_order_id TEXT PRIMARY KEY,
        digest BLOB NOT NULL,
        sequence INTEGER NOT NULL,
        purged_at REAL
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX tombstones ON identities (purged_at) WHERE purged_at IS NOT NULL",
    """
    CREATE TABLE orders (
        sequence INTEGER PRIMARY KEY,
        work_order_id TEXT NOT NULL,
        worker_id TEXT NOT NULL,
        requester_id TEXT NOT NULL,
        accepted_at REAL NOT NULL,
        deadline REAL,
        request BLOB NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE pending (
        sequence INTEGER PRIMARY KEY,
        attempts INTEGER NOT NULL DEFAULT 0,
        crashes INTEGER NOT NULL DEFAULT 0
    ) STRICT
    """,
    """
    CREATE TABLE outcomes (
        sequence INTEGER PRIMARY KEY,
        state TEXT NOT NULL,
        finished_at REAL NOT NULL,
        attempts INTEGER NOT NULL,
        crashes INTEGER NOT NULL,
        code INTEGER,
        message TEXT,
        result BLOB
    ) STRICT
    """,
    "CREATE INDEX outcomes_by_time ON outcomes (finished_at)",
    """
    CREATE TABLE tallies (
        state TEXT PRIMARY KEY,
        number INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    "INSERT INTO tallies VALUES ('completed', 0), ('failed', 0), ('cancelled', 0), ('expired', 0)",
    """
    CREATE TABLE workers (
        number INTEGER PRIMARY KEY,
        worker_id TEXT NOT NULL UNIQUE,
        worker_type INTEGER NOT NULL,
        organization_id TEXT NOT NULL,
        application_type_ids TEXT NOT NULL,
        details BLOB NOT NULL,
        status INTEGER NOT NULL
    ) STRICT
    """,
)


def upgrade() -> None:
    """Apply."""
    for statement in _STATEMENTS:
        op.execute(statement)
