"""Deliveries: posts that were promised with an order's acceptance.

What is pending is found by an index of its own, however many are finished. A number is never used again.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_STATEMENTS = (
    """
    CREATE TABLE deliveries (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        work_order_id TEXT NOT NULL,
        kind TEXT NOT NULL,
        uri TEXT NOT NULL,
        call_id TEXT NOT NULL,
        state TEXT NOT NULL,
        planned_at REAL NOT NULL,
        attempts INTEGER NOT NULL,
        due_at REAL,
        finished_at REAL,
        last_error TEXT NOT NULL,
        UNIQUE (work_order_id, kind)
    ) STRICT
    """,
    "CREATE INDEX deliveries_by_state ON deliveries (state, number)",
    "CREATE INDEX deliveries_by_end ON deliveries (finished_at, number) WHERE finished_at IS NOT NULL",
    """
    CREATE TABLE delivery_tallies (
        state TEXT PRIMARY KEY,
        number INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    "INSERT INTO delivery_tallies VALUES ('pending', 0), ('delivered', 0), ('dead', 0)",
)


def upgrade() -> None:
    """Apply."""
    for statement in _STATEMENTS:
        op.execute(statement)
