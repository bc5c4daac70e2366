"""Make docs/openrpc.json from the wire types and the table of methods, or check (--check) that it is what they say."""

import argparse
import json
import sys
from pathlib import Path

from avalon_service.openrpc import document

PATH = Path(__file__).parents[1] / "docs" / "openrpc.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the file differs")
    check = parser.parse_args().check
    made = json.dumps(document(), indent=2, ensure_ascii=False) + "\n"
    if not check:
        PATH.write_text(made, encoding="utf-8")
        return 0
    if not PATH.is_file() or PATH.read_text(encoding="utf-8") != made:
        print(
            f"docs/{PATH.name} is not what the types say; run scripts/make_openrpc.py",
            file=sys.stderr,
        )
        return 1
    print(f"docs/{PATH.name} says what the types say.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
