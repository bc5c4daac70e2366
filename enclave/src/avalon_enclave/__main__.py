"""``python -m avalon_enclave``."""

from avalon_enclave.main import run

run()
