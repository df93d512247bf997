"""Verbs and their options."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from scdisent import __version__
from scdisent.benchmarks import STUDIES, SUITES

VERBS, DEMO = "scdisent.cli._verbs", "scdisent.cli._demo"
MODELS = {"bfvae": "BFVAE", "cggan": "CGGAN", "cgvae": "CGVAE", "discover": "DISCoVeR"}
"""Names of the models on the command line, and their classes."""

EXAMPLES = {
    "scdisent": "scdisent demo --out demo_output",
    "demo": "scdisent demo --data simulated --epochs 70 --out demo_output",
    "train": (
        "scdisent train demo_output/demo.h5ad --condition-key condition --control control "
        "--labels-key cell_type --sample-key donor --model discover --max-epochs 20 "
        "--out trained.h5ad --model-dir model"
    ),
    "predict": (
        "scdisent predict demo_output/demo.h5ad --model-dir demo_output/model "
        "--condition stimulated --cells condition=control --out predicted.h5ad"
    ),
    "score": (
        "scdisent score demo_output/demo.h5ad --model-dir demo_output/model "
        "--out scored.h5ad --table scores.csv"
    ),
    "evaluate": (
        "scdisent evaluate demo_output/demo.h5ad --model-dir demo_output/model "
        "--condition stimulated --cells donor=donor_3 --out evaluated.h5ad"
    ),
    "report": "scdisent report demo_output/demo.h5ad -o report.html",
    "data": "scdisent data list",
    "data list": "scdisent data list",
    "data get": "scdisent data get kang2018",
    "data verify": "scdisent data verify kang2018",
    "bench": "scdisent bench smoke --jobs 2 --out benchmarks",
}
"""One runnable line for each help page; those that need cells take them from the demo."""


class Parser(argparse.ArgumentParser):
    """Bad options end with one line that says where help is."""

    def error(self, message: str) -> NoReturn:
        """Leave with code 2."""
        self.exit(2, f"{self.prog}: error: {message}. See: {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """Parser of the command ``scdisent``."""
    parser = Parser(
        prog="scdisent",
        description="What is shared between conditions, and what a condition changed.",
        epilog=f"example:\n  {EXAMPLES['scdisent']}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"scdisent {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    _demo(verbs)
    _train(verbs)
    _predict(verbs)
    _score(verbs)
    _evaluate(verbs)
    _report(verbs)
    _data(verbs)
    _bench(verbs)
    return parser


def _verb(verbs: Any, name: str, *, run: str, about: str, page: str | None = None) -> Parser:
    """Add one verb with its help page."""
    parser: Parser = verbs.add_parser(
        name,
        help=about,
        description=about,
        epilog=f"example:\n  {EXAMPLES[page or name]}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _demo(verbs: Any) -> None:
    about = "train, audit, predict and draw on built-in data, in about a minute"
    parser = _verb(verbs, "demo", run=f"{DEMO}:demo", about=about)
    parser.add_argument(
        "--data",
        default="simulated",
        metavar="NAME",
        help="'simulated' (built in) or a name of `scdisent data list`; default: %(default)s",
    )
    _add_folder(parser, "demo_output", "for model, cells and figures")
    parser.add_argument(
        "--epochs",
        type=positive,
        default=70,
        metavar="N",
        help="passes over the cells; default: %(default)s",
    )
    _add_seed(parser, "of data, training and prediction")
    parser.add_argument("--overwrite", action="store_true", help="replace the files of a demo")


def _train(verbs: Any) -> None:
    about = "train a model on an h5ad file and store the codes of its cells"
    parser = _verb(verbs, "train", run=f"{VERBS}:train", about=about)
    _add_input(parser)
    _add_texts(
        parser,
        {
            "--condition-key": "obs column of the condition; only bfvae does without",
            "--control": "level of the condition that is the reference",
            "--labels-key": "obs column of the cell type; optional",
            "--sample-key": "obs column of the donor or replicate; optional",
            "--batch-key": "obs column of the technical batch; optional",
            "--dose-key": "obs column of doses of the condition; optional",
            "--layer": "layer with the values of the likelihood; default: X",
        },
    )
    parser.add_argument(
        "--condition-table",
        type=Path,
        metavar="CSV",
        help="what is known of each condition: its name in the first column; optional",
    )
    parser.add_argument(
        "--model", choices=sorted(MODELS), default="discover", help="default: %(default)s"
    )
    parser.add_argument(
        "--likelihood",
        default="nb",
        metavar="NAME",
        help="nb, zinb or poisson for raw counts, normal for log or real values, bernoulli for "
        "zeros and ones, continuous_bernoulli for values between (mixed tables: in Python only); "
        "default: %(default)s",
    )
    parser.add_argument(
        "--preset",
        default="default",
        metavar="NAME",
        help="default (ours), paper, or another one of the model, such as vae of bfvae",
    )
    parser.add_argument("--n-latent", type=positive, metavar="N", help="latents of each block")
    parser.add_argument(
        "--max-epochs",
        type=positive,
        metavar="N",
        help="passes over the cells; default: as many as make about 1,000 steps, 20 to 400",
    )
    _add_seed(parser, "of weights, split and order")
    parser.add_argument(
        "--model-dir", type=Path, required=True, metavar="DIR", help="new folder for the model"
    )
    _add_output(parser)


def _predict(verbs: Any) -> None:
    about = "predict each cell of an h5ad file as it would be under another condition"
    parser = _verb(verbs, "predict", run=f"{VERBS}:predict", about=about)
    _add_input(parser)
    _add_model(parser)
    _add_condition(
        parser, reference="condition the cells are in; default: as their own column says"
    )
    parser.add_argument("--dose", type=float, help="dose of the condition, seen or not")
    parser.add_argument(
        "--kind",
        default="counts",
        metavar="NAME",
        help="counts: whole numbers, with noise; mean: their expectation; default: %(default)s",
    )
    _add_anchor(parser)
    parser.add_argument(
        "--n-samples",
        type=positive,
        default=1,
        metavar="N",
        help="predicted cells for each cell; default: %(default)s",
    )
    _add_seed(parser, "of the draws")
    _add_output(parser)


def _add_anchor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--anchor",
        metavar="NAME",
        help="closed form inside the prediction: auto, a name of the docs, or none (the network "
        "alone); default: that of the model, auto for discover with cell types or a condition "
        "without cells, else none",
    )


def _score(verbs: Any) -> None:
    about = "audit a trained model on an h5ad file: what leaks, what is kept"
    parser = _verb(verbs, "score", run=f"{VERBS}:score", about=about)
    _add_input(parser)
    _add_model(parser)
    parser.add_argument("--table", type=Path, metavar="CSV", help="also write the scores as CSV")
    parser.add_argument(
        "--max-cells",
        type=positive,
        default=10_000,
        metavar="N",
        help="audit a random subset of larger data; default: %(default)s",
    )
    _add_seed(parser, "of subset, attackers and shuffles")
    _add_output(parser)


def _evaluate(verbs: Any) -> None:
    about = "hold a prediction against cells that training has not seen, beside closed forms"
    parser = _verb(verbs, "evaluate", run=f"{VERBS}:evaluate", about=about)
    _add_input(parser)
    _add_model(parser)
    _add_condition(
        parser,
        reference="condition to start from; default: the control of the model",
        condition="condition to predict, with a dose as NAME@DOSE",
    )
    _add_anchor(parser)
    parser.add_argument(
        "--training",
        type=Path,
        metavar="CELLS.h5ad",
        help="cells of the training: closed forms are fitted on them; default: no change only",
    )
    parser.add_argument("--table", type=Path, metavar="CSV", help="also write the table as CSV")
    parser.add_argument(
        "--n-bootstrap",
        type=natural,
        default=0,
        metavar="N",
        help="resamples for intervals; default: 0",
    )
    _add_seed(parser, "of halves, draws and resamples")
    _add_output(parser)


def _report(verbs: Any) -> None:
    about = "write one HTML page about a trained model and its cells"
    parser = _verb(verbs, "report", run=f"{VERBS}:report", about=about)
    parser.add_argument(
        "input",
        type=Path,
        metavar="INPUT",
        help="h5ad file of train, score or demo, or a model folder; is only read",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="CELLS.h5ad",
        help="cells of the model folder; codes are added on the page where the file has none",
    )
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT.html")
    parser.add_argument("--title", metavar="TEXT", help="title of the page")
    _add_seed(parser, "of the cells drawn and of their UMAP")
    parser.add_argument("--overwrite", action="store_true", help="replace an output that exists")


def _data(verbs: Any) -> None:
    about = "list, fetch or verify the data sets that are known by name"
    data = _verb(verbs, "data", run=f"{VERBS}:data_list", about=about)
    actions = data.add_subparsers(dest="action", metavar="ACTION", required=True)
    pages = {
        "list": "all data sets, and which of them are here",
        "get": "fetch the files of a data set, unless they are here, and print their paths",
        "verify": "compare the files that are here with their known hashes",
    }
    for name, text in pages.items():
        page = _verb(actions, name, run=f"{VERBS}:data_{name}", about=text, page=f"data {name}")
        if name != "list":
            page.add_argument("name", metavar="NAME")
        page.add_argument(
            "--data-dir",
            type=Path,
            metavar="DIR",
            help="folder that is looked at first; default: the variable SCDISENT_DATA_DIR",
        )


def _bench(verbs: Any) -> None:
    about = "run a benchmark and write its tables"
    parser = _verb(verbs, "bench", run=f"{VERBS}:bench", about=about)
    parser.description = "\n\n".join(
        [
            f"{about}; the same command again goes on where it stopped",
            _listed("suites, a grid of data, methods and seeds", SUITES),
            _listed("studies, each with a page of its own (they take --out only)", STUDIES),
        ]
    )
    parser.add_argument("suite", metavar="SUITE", help="a name above, or a TOML file of your own")
    _add_folder(parser, "benchmarks", "for tables, figures and rows")
    parser.add_argument(
        "--jobs",
        type=positive,
        metavar="N",
        help="runs at a time, each on one core; default: as many as there are cores",
    )
    parser.add_argument(
        "--backend",
        choices=("joblib", "ray"),
        default="joblib",
        help="joblib: this machine; ray: the cluster that RAY_ADDRESS names, with DIR on a disk "
        "that all its machines see; default: %(default)s",
    )
    parser.add_argument(
        "--seeds", type=seed_number, nargs="+", metavar="SEED", help="default: those of the suite"
    )


def _listed(title: str, lines: Mapping[str, str]) -> str:
    width = max(map(len, lines))
    return "\n".join([f"{title}:", *(f"  {name:{width}}  {text}" for name, text in lines.items())])


def _add_folder(parser: argparse.ArgumentParser, default: str, what: str) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(default),
        metavar="DIR",
        help=f"folder {what}; default: %(default)s",
    )


def _add_input(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input", type=Path, metavar="INPUT.h5ad", help="cells by genes; is only read"
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model-dir", type=Path, required=True, metavar="DIR", help="folder that train wrote"
    )


def _add_condition(
    parser: argparse.ArgumentParser, *, reference: str, condition: str = "condition to predict"
) -> None:
    parser.add_argument("--condition", required=True, metavar="NAME", help=condition)
    parser.add_argument("--reference", metavar="NAME", help=reference)
    parser.add_argument(
        "--cells", metavar="COLUMN=LEVEL", help="only the cells with this level of an obs column"
    )


def _add_seed(parser: argparse.ArgumentParser, of: str) -> None:
    parser.add_argument(
        "--seed", type=seed_number, default=0, metavar="N", help=f"{of}; default: 0"
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=h5ad_path, required=True, metavar="OUT.h5ad", help="file that is written"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")


def _add_texts(parser: argparse.ArgumentParser, options: Mapping[str, str]) -> None:
    for name, text in options.items():
        parser.add_argument(name, metavar="NAME", help=text)


def positive(text: str) -> int:
    """Whole number of at least 1."""
    return _whole(text, at_least=1)


def natural(text: str) -> int:
    """Whole number of at least 0."""
    return _whole(text, at_least=0)


def seed_number(text: str) -> int:
    """Whole number that every generator takes as a seed."""
    number = natural(text)
    if number >= 2**32:
        msg = f"{number} is not below 2**32"
        raise argparse.ArgumentTypeError(msg)
    return number


def h5ad_path(text: str) -> Path:
    """Path of cells to be written: they are h5ad under whatever name."""
    if not text.endswith(".h5ad"):
        msg = f"{text!r} does not end with .h5ad"
        raise argparse.ArgumentTypeError(msg)
    return Path(text)


def _whole(text: str, *, at_least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = at_least - 1
    if number < at_least:
        msg = f"{text!r} is not a whole number of at least {at_least}"
        raise argparse.ArgumentTypeError(msg)
    return number
