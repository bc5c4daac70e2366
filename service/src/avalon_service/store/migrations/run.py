"""Running the migrations on an open connection, in one transaction."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool


def config() -> Config:
    """Alembic's configuration; the scripts ship with the package, so there is no file of settings."""
    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    settings.set_main_option("path_separator", "os")
    return settings


def upgrade(connection: sqlite3.Connection, revision: str) -> None:
    """Bring the schema to a revision, or leave it as it was."""
    engine = create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool)
    # Alembic commits after each revision, and the next one would run outside of any transaction: half of it would stay
    # after a crash, and could never be applied again.
    engine.dialect.do_commit = _left_to_us  # type: ignore[method-assign]
    settings = config()
    try:
        with engine.connect() as wrapped:
            settings.attributes["connection"] = wrapped
            connection.execute("BEGIN EXCLUSIVE")
            command.upgrade(settings, revision)
            if connection.in_transaction:
                connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _left_to_us(dbapi_connection: object) -> None:
    """In the place of a commit."""
