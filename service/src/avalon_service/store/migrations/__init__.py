"""The schema of the SQLite store, as a chain of migrations."""
