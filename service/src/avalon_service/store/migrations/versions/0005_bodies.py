"""Large requests and results are files beside the database: here are their names.

Whose request is in a file has an empty one in `orders`, whose result is in a file has none in `outcomes`.
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_STATEMENTS = (
    """
    CREATE TABLE bodies (
        sequence INTEGER NOT NULL,
        kind TEXT NOT NULL,
        name TEXT NOT NULL,
        size INTEGER NOT NULL,
        PRIMARY KEY (sequence, kind)
    ) STRICT, WITHOUT ROWID
    """,
)


def upgrade() -> None:
    """Apply."""
    for statement in _STATEMENTS:
        op.execute(statement)
