"""Make docs/settings.md from the settings' own source, or check (--check) that it is what this script would make."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from avalon_service.setting_docs import SettingDoc, describe

PATH = Path(__file__).parents[1] / "docs" / "settings.md"

_HEAD = """\
# Settings of the service

Made by `scripts/make_settings_doc.py` from `service/src/avalon_service/settings.py`; do not edit it here.

A setting comes from, the later one winning: its default, a TOML file (`avalon up --config FILE`), the environment
(`AVALON_` and the name in capitals), the command line. `avalon config show` prints every value and where it came from. An
unknown name in the file, or a value of the wrong kind, is an error that names it.

| setting | expected | default | |
|---|---|---|---|
"""


def page(docs: tuple[SettingDoc, ...]) -> str:
    return _HEAD + "".join(
        f"| `{doc.name}` | {_cell(doc.expected)} | {_default(doc.default)} | {_cell(doc.text)} |\n"
        for doc in docs
    )


def _default(value: Any) -> str:
    if value is None:
        return "as the profile says"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{json.dumps(value)}`"
    return f"`{value}`" if value != "" else "empty"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the file differs")
    check = parser.parse_args().check
    docs = describe()
    silent = [doc.name for doc in docs if not doc.text]
    if silent:
        print(f"settings without a docstring under the field: {', '.join(silent)}", file=sys.stderr)
        return 1
    made = page(docs)
    if not check:
        PATH.write_text(made, encoding="utf-8")
        return 0
    if not PATH.is_file() or PATH.read_text(encoding="utf-8") != made:
        print(
            f"docs/{PATH.name} is not what the settings say; run scripts/make_settings_doc.py",
            file=sys.stderr,
        )
        return 1
    print(f"docs/{PATH.name} says what the settings say.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
