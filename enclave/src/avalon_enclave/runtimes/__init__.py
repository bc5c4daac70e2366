"""How workloads run: in a thread of the enclave, or in a child process that can be killed."""
