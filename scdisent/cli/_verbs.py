"""What each verb does: read files, call the public functions, write files."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import scdisent
from scdisent import ScDisentError
from scdisent._names import same_set
from scdisent.cli._files import (
    FileError,
    read_cells,
    read_table,
    refuse_outputs,
    refuse_results,
    write_cells,
    write_table,
)
from scdisent.cli._parser import MODELS
from scdisent.data import conditions_of

KEYS = ("condition_key", "control", "labels_key", "sample_key", "batch_key", "dose_key", "layer")
SHOWN = ["pearson_delta", "pearson_delta_top", "energy_distance", "r2_variance_top"]
"""Metrics of a response that are printed; the table has all."""


def train(args: Namespace) -> None:
    """Fit a model, store codes and history in a copy of the file, save the model."""
    sources = (args.input, args.condition_table)
    refuse_outputs(args.out, args.model_dir, sources=sources, overwrite=args.overwrite)
    adata = read_cells(args.input)
    refuse_results(adata, args.input)
    table = None if args.condition_table is None else read_table(args.condition_table)
    setup = {key: getattr(args, key) for key in KEYS}
    scdisent.setup_anndata(adata, condition_table=table, **setup)
    options = {"likelihood": args.likelihood, "preset": args.preset, "seed": args.seed}
    if args.n_latent is not None:
        options["n_latent"] = args.n_latent
    model = getattr(scdisent, MODELS[args.model])(adata, **options)
    model.train(args.max_epochs, seed=args.seed)
    scdisent.tl.embed(adata, model)
    model.save(args.model_dir, overwrite=args.overwrite)
    write_cells(adata, args.out)
    _say_where(args.out, args.model_dir)


def predict(args: Namespace) -> None:
    """Predict cells under another condition."""
    refuse_outputs(args.out, sources=(args.input, args.model_dir), overwrite=args.overwrite)
    model = loaded(args.model_dir, "predict")
    cells = chosen_cells(read_cells(args.input), args.cells)
    names = ("condition", "reference", "dose", "kind", "n_samples", "seed")
    options = {name: getattr(args, name) for name in names}
    predicted = model.predict(cells, **options, **anchor_of(args))
    write_cells(predicted, args.out)
    _say_where(args.out)


def anchor_of(args: Namespace) -> dict[str, Any]:
    """Closed form inside a prediction, where one was named."""
    if args.anchor is None:
        return {}
    return {"anchor": None if args.anchor == "none" else args.anchor}


def score(args: Namespace) -> None:
    """Audit a model on cells; codes and tables go into a copy of the file."""
    sources = (args.input, args.model_dir)
    refuse_outputs(args.out, args.table, sources=sources, overwrite=args.overwrite)
    model = loaded(args.model_dir, "get_latent_representation")
    adata = read_cells(args.input)
    refuse_results(adata, args.input)
    scdisent.tl.embed(adata, model)
    table = scdisent.tl.score(adata, model, max_cells=args.max_cells, seed=args.seed)
    write_cells(adata, args.out)
    if args.table is not None:
        write_table(table, args.table)
    print(table.to_string(index=False, float_format="{:.3f}".format, na_rep=""))
    if "statement" in adata.uns["scdisent"]:
        print(adata.uns["scdisent"]["statement"])
    _say_where(args.out, args.table)


def evaluate(args: Namespace) -> None:
    """Hold a prediction against observed cells, beside closed forms; the table goes into a copy."""
    sources = (args.input, args.model_dir, args.training)
    refuse_outputs(args.out, args.table, sources=sources, overwrite=args.overwrite)
    model = loaded(args.model_dir, "predict")
    adata = read_cells(args.input)
    refuse_results(adata, args.input)
    reference = args.reference or model.control
    cells = chosen_cells(adata, args.cells)
    control, observed = (of_condition(cells, model, name) for name in (reference, args.condition))
    options = {"condition": args.condition, "reference": reference, **anchor_of(args)}
    for own in (control, observed):  # may be of another model, and this one names its layer
        own.uns.pop("scdisent", None)
    table = scdisent.tl.evaluate_response(
        observed,
        model.predict(control, seed=args.seed, **options),
        control,
        baselines=None if args.training is None else closed_forms(model, args.training),
        layer=model.registry_["setup_args"]["layer"],
        is_counts=model.module.expects == "counts",
        n_bootstrap=args.n_bootstrap,
        seed=args.seed,
    )
    adata.uns["scdisent"] = {**adata.uns.get("scdisent", {}), "response": table}
    write_cells(adata, args.out)
    if args.table is not None:
        write_table(table, args.table)
    wide = table.pivot(index=["kind", "method"], columns="metric", values="value")
    print(wide[SHOWN].to_string(float_format="{:.3f}".format, na_rep=""))
    _say_where(args.out, args.table)


def report(args: Namespace) -> None:
    """Write a page about the results in a file, or about a model folder and its cells."""
    refuse_outputs(args.out, sources=(args.input, args.data), overwrite=args.overwrite)
    model, cells = None, args.input
    if args.input.is_dir():
        if args.data is None:
            msg = f"{args.input} is a folder. Pass the cells of its model with --data CELLS.h5ad."
            raise FileError(msg)
        model, cells = scdisent.load(args.input), args.data
    elif args.data is not None:
        msg = f"--data goes with a model folder, but {args.input} is none."
        raise FileError(msg)
    adata = read_cells(cells)
    refuse_results(adata, cells)
    if model is not None and model.representations and "embed" not in adata.uns.get("scdisent", {}):
        scdisent.tl.embed(adata, model)
    scdisent.report.write(adata, model, out=args.out, title=args.title, seed=args.seed)
    _say_where(args.out)


def data_list(args: Namespace) -> None:
    """Print the table of the data sets."""
    table = scdisent.datasets.list(data_dir=args.data_dir)
    print(table.to_string(max_colwidth=60))


def data_get(args: Namespace) -> None:
    """Fetch a data set and print the paths of its files."""
    for path in scdisent.datasets.get(args.name, data_dir=args.data_dir):
        print(path)


def data_verify(args: Namespace) -> None:
    """Compare files with the card; anything but a match is an error."""
    table = scdisent.datasets.verify(args.name, data_dir=args.data_dir)
    print(table.to_string())
    wrong = table.index[table["status"] != "ok"]
    if len(wrong):
        msg = f"{len(wrong)} of {len(table)} files of {args.name!r} are not verified: see the table"
        raise FileError(msg)


def bench(args: Namespace) -> None:
    """Run a suite or a study."""
    scdisent.benchmarks.run(
        args.suite, out=args.out, n_jobs=args.jobs, backend=args.backend, seeds=args.seeds
    )


def loaded(folder: Path, needed: str) -> Any:
    """Model of a folder, if it can do what is asked."""
    model = scdisent.load(folder)
    if not hasattr(model, needed):
        msg = f"{folder} holds a {type(model).__name__}, which has no {needed}."
        raise ScDisentError(msg)
    return model


def chosen_cells(adata: Any, rule: str | None) -> Any:
    """Cells with one level of a column, ``COLUMN=LEVEL``; None: all."""
    if rule is None:
        return adata
    column, _, level = rule.partition("=")
    if column not in adata.obs:
        msg = f"--cells {rule}: obs has no column {column!r}. Found: {sorted(adata.obs.columns)}."
        raise ScDisentError(msg)
    values = adata.obs[column].astype(str)
    if not (values == level).any():
        msg = (
            f"--cells {rule}: no cell has it. Levels of {column!r}: {sorted(values.unique())[:20]}."
        )
        raise ScDisentError(msg)
    return adata[(values == level).to_numpy()]


def of_condition(cells: Any, model: Any, name: str | None) -> Any:
    """Cells under a condition as the model names it."""
    levels = conditions_of(cells.obs, model.registry_).astype(str)
    table = model.condition_table
    separator = "+" if table is None else table.separator
    name = same_set(str(name), levels.unique(), control=model.control, separator=separator)
    if name not in set(levels):
        msg = f"no cell has the condition {name!r}. Found: {sorted(levels.unique())[:20]}."
        raise ScDisentError(msg)
    return cells[(levels == name).to_numpy()].copy()


def closed_forms(model: Any, training: Path) -> Any:
    """Baselines fitted on the cells that a model was trained on."""
    cells = read_cells(training)
    scdisent.setup_anndata(cells, **model.registry_["setup_args"])
    counts = model.module.expects == "counts"
    shift = scdisent.ShiftModel(cells, likelihood="nb" if counts else "normal")
    shift.train()
    return shift


def _say_where(*paths: Path | None) -> None:
    for path in filter(None, paths):
        print(f"wrote {path}")
