"""From cells and a model to a page."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from anndata import AnnData

from scdisent import __version__
from scdisent._whole import whole_file
from scdisent.report._audit import all_scores, leakage_audit
from scdisent.report._embedding import embeddings, payload
from scdisent.report._html import missing, text
from scdisent.report._latents import latents
from scdisent.report._response import response
from scdisent.report._setup import model_and_data
from scdisent.report._source import Source
from scdisent.report._training import training_curves

SECTIONS: Mapping[str, tuple[str, Callable[[Source], str]]] = {
    "data": ("Model and data", model_and_data),
    "training": ("Training curves", training_curves),
    "embeddings": ("Embeddings", embeddings),
    "leakage": ("Leakage", leakage_audit),
    "latents": ("What the latents drive", latents),
    "response": ("Predicted response", response),
    "scores": ("All scores", all_scores),
}
OF_CODES = ("embeddings", "leakage", "latents", "scores")
"""Sections that a closed form cannot have."""


def write(
    adata: AnnData,
    model: Any = None,
    *,
    out: str | Path,
    title: str | None = None,
    seed: int = 0,
) -> Path:
    """Write one self-contained HTML page about a trained model and its cells.

    The page shows what the tools stored and says which call makes what is missing; it computes
    nothing but, where no coordinates are stored, the UMAP of the codes. It loads nothing from
    anywhere and can be read, sorted and printed offline.

    Parameters
    ----------
    adata
        After ``tl.embed`` and, for most of the page, ``tl.score``. ``uns["scdisent"]["response"]``
        may hold a table of ``tl.evaluate_response``, ``uns["scdisent"]["response_check"]`` one of
        ``tl.check_response``. It is not changed.
    model
        The model that the results are of; None: all is taken from ``adata``. With it the page has
        its ``response_check_`` too.
    out
        File to write, whole or not at all; an older one is replaced.
    title
        Of the page. Default: class of the model and number of cells.
    seed
        Of the draw of at most 5,000 points, and of the UMAP.

    Returns
    -------
    Path of the file.

    Raises
    ------
    InputDataError
        If nothing is stored and no model given, or the results are of another model.
    """
    source = Source(adata, model, seed)
    page = render(source, title=title, date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
    path = Path(out)
    with whole_file(path) as part:
        part.write_text(page, encoding="utf-8", newline="\n")
    return path


def render(source: Source, *, title: str | None, date: str) -> str:
    """The page as text."""
    cells = f"{source.adata.n_obs:,} cells, {source.adata.n_vars:,} genes or features."
    chosen = f"{source.facts['model']} on {source.adata.n_obs:,} cells" if title is None else title
    bodies = {
        name: missing("This model has no latent codes.")
        if name in OF_CODES and not source.representations
        else make(source)
        for name, (_, make) in SECTIONS.items()
    }
    return Template(_file("page.html")).substitute(
        title=text(chosen),
        subtitle=text(cells),
        date=f"<time>{text(date)}</time>",
        version=text(__version__),
        style=_file("page.css"),
        script=_file("page.js"),
        cells=payload(source),
        contents="\n".join(
            f'<li><a href="#{name}">{text(head)}</a></li>' for name, (head, _) in SECTIONS.items()
        ),
        sections="\n".join(
            f'<section id="{name}" aria-labelledby="{name}-head">\n'
            f'<h2 id="{name}-head">{text(head)}</h2>\n{bodies[name]}\n</section>'
            for name, (head, _) in SECTIONS.items()
        ),
    )


def _file(name: str) -> str:
    return files("scdisent.report").joinpath(name).read_text(encoding="utf-8")
