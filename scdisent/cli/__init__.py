"""Command line: each verb reads files, calls the public functions, writes files.

Only the standard library is imported here, so that ``scdisent --help`` answers at once.
"""

from scdisent.cli._main import main
from scdisent.cli._parser import build_parser

__all__ = ["build_parser", "main"]
