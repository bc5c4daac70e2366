"""Hosts start enclaves as processes, supervise them, and carry orders to them. They see ciphertext only."""
