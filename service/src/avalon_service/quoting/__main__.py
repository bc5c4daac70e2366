"""``python -m avalon_service.quoting``."""

import sys

from avalon_service.quoting.main import main

sys.exit(main())
