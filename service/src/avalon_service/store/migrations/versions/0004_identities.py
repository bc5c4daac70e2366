"""Ids are taken without touching a random page: narrow keys, written in bulk, the newest in a table of arrivals.

`identities` holds 16 bytes of SHA-256 of each id instead of the id, and no digest: `orders` has that for new orders; of
older ones it is computed from the request where it is wanted. An id without an order is that of a purged one;
`tombstones` says when it was purged, in that order.
"""

from __future__ import annotations

import hashlib
import sqlite3
from typing import Any

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_STATEMENTS = (
    "ALTER TABLE orders ADD COLUMN digest BLOB",
    "ALTER TABLE identities RENAME TO identities_by_name",
    """
    CREATE TABLE identities (
        identity BLOB PRIMARY KEY,
        sequence INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE arrivals (
        sequence INTEGER PRIMARY KEY,
        identity BLOB NOT NULL
    ) STRICT
    """,
    "DROP INDEX tombstones",
    """
    CREATE TABLE tombstones (
        purged_at REAL NOT NULL,
        identity BLOB NOT NULL,
        PRIMARY KEY (purged_at, identity)
    ) STRICT, WITHOUT ROWID
    """,
    "INSERT INTO identities SELECT identity_of(work_order_id), sequence FROM identities_by_name ORDER BY 1",
    """
    INSERT INTO tombstones SELECT purged_at, identity_of(work_order_id) FROM identities_by_name
    WHERE purged_at IS NOT NULL ORDER BY 1, 2
    """,
    "DROP TABLE identities_by_name",
)


def upgrade() -> None:
    """Apply."""
    connection: Any = op.get_bind().connection.driver_connection
    assert isinstance(connection, sqlite3.Connection)
    # As it was when this was written, whatever becomes of the function in the service.
    connection.create_function(
        "identity_of", 1, lambda name: hashlib.sha256(name.encode()).digest()[:16], deterministic=True
    )
    for statement in _STATEMENTS:
        op.execute(statement)
