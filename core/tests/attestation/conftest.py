"""What tests of several kinds of evidence share."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def dcap() -> ModuleType:
    """The module beside this file that makes quotes and collateral of Intel's kind, under a root of its own."""
    name = "avalon_tests_dcap_authority"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("dcap_authority.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def dcap_evidence(shared_vectors: Path) -> Path:
    """Real quotes and collateral."""
    return shared_vectors / "evidence"
