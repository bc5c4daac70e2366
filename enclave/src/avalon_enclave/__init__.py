"""Everything that runs inside a TEE: roles, processor, key store, platforms, runtimes and workloads."""
