"""One page about a trained model and its cells, from what is stored; nothing is computed anew."""

from scdisent.report._write import write

__all__ = ["write"]
