"""Training curves."""

from scdisent import pl
from scdisent.pl._history import history_curves
from scdisent.report._html import figure, missing, read
from scdisent.report._source import EMBED, Source


def training_curves(source: Source) -> str:
    """A panel for each term of the loss."""
    frame = source.history
    if frame is None or not len(frame):
        if source.model is not None:
            return missing("This model has no training curves.")
        return missing("No training curves are stored.", EMBED)
    terms = list(dict.fromkeys(term for term, _ in history_curves(frame)))
    names = ", ".join(terms)
    n_epochs = len(frame)
    return read(
        "Bad signs: curves that still fall steeply at the end (train longer), a validation curve "
        "that turns up (overfitting), jumps (an unstable game), a kl term at zero (an empty block)."
    ) + figure(
        lambda: pl.history(frame, show=False),
        alt=f"Curves over {n_epochs} epochs of {names}.",
        caption=f"Terms of the loss over {n_epochs} epochs.",
    )
