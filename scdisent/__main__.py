"""``python -m scdisent`` is the command ``scdisent``."""

import sys

from scdisent.cli import main

if __name__ == "__main__":
    sys.exit(main())
