"""Make the API documentation of what a requester installs, from its docstrings: HTML in build/api.

Warnings are errors: a name in a docstring that leads nowhere, an annotation that cannot be read.
"""

import os
import re
import shutil
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "build" / "api"
MODULES = (
    "avalon_sdk",
    "avalon_sdk.client",
    "avalon_sdk.orders",
    "avalon_sdk.planning",
    "avalon_sdk.events",
    "avalon_sdk.receipts",
    "avalon_sdk.owners",
    "avalon_sdk.journal",
    "avalon_sdk.saved",
    "avalon_sdk.workers",
    "avalon_sdk.trust",
    "avalon_sdk.authority",
    "avalon_sdk.directory",
    "avalon_sdk.progress",
    "avalon_sdk.deadline",
    "avalon_sdk.errors",
    "avalon_sdk.sync",
    "avalon_sdk.testing",
    "avalon_sdk.transports",
    "avalon_sdk.transports.base",
    "avalon_sdk.transports.direct",
    "avalon_core.attestation",
    "avalon_core.crypto.signing",
    "avalon_core.protocol.errors",
    "avalon_core.protocol.receipts",
)
"""The public ones. What is not here is nobody's to rely on."""

_ROLE = re.compile(r":(?:class|meth|mod|func|attr|data):`~?(?P<name>[\w.]+)`")


def main() -> int:
    """Returns the exit code."""
    warnings.simplefilter("error")
    # Asked for colours, names in the signatures would get escapes.
    os.environ["NO_COLOR"] = "1"
    import pdoc
    import pdoc.render

    import avalon_sdk

    # Its names are loaded when they are first used, and pdoc asks for none.
    for name in avalon_sdk.__all__:
        setattr(avalon_sdk, name, getattr(avalon_sdk, name))
    shutil.rmtree(TARGET, ignore_errors=True)
    pdoc.render.configure(docformat="restructuredtext", footer_text="Avalon")
    pdoc.pdoc(*MODULES, output_directory=TARGET)
    broken = list(_broken_names())
    for line in broken:
        print(line, file=sys.stderr)
    pages = sum(1 for _ in TARGET.rglob("*.html"))
    print(f"{pages} pages in {TARGET.relative_to(ROOT)}")
    return 1 if broken else 0


def _broken_names() -> list[str]:
    """Names in docstrings of the SDK that lead to no module, class or member."""
    broken = []
    for path in sorted((ROOT / "sdk" / "src").rglob("*.py")):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            broken += [
                f"{path.relative_to(ROOT)}:{number}: leads nowhere: {match['name']}"
                for match in _ROLE.finditer(line)
                if not _leads_somewhere(match["name"], path)
            ]
    return broken


def _leads_somewhere(name: str, path: Path) -> bool:
    import importlib
    import pkgutil

    own = ".".join(path.relative_to(ROOT / "sdk" / "src").with_suffix("").parts).removesuffix(".__init__")
    module = importlib.import_module(own)
    # In its own module, in any class of it, or from the root of its package.
    if _attribute(module, name) or any(
        _attribute(member, name) for member in vars(module).values() if isinstance(member, type)
    ):
        return True
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError):
        return False
    return True


def _attribute(owner: object, name: str) -> bool:
    for part in name.split("."):
        if part in getattr(owner, "__dataclass_fields__", {}):
            return True
        try:
            owner = getattr(owner, part)
        except AttributeError:
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
