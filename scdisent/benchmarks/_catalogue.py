"""Names of the benchmarks with one line each; standard library only, for the help page."""

import tomllib
from pathlib import Path

FOLDER = Path(__file__).parent / "suites"
STUDIES = {
    "identifiability": "are planted latents and programmes found?",
    "interferon": "do the blocks of DISCoVeR hold the interferon genes?",
    "invariance": "what leaks from the invariant block, and what is kept beside it?",
    "kang_cg": "CG-VAE and CG-GAN on blood cells: leakage, programmes, generated controls",
    "prediction_speed": "time and memory of predictions",
    "response": "predicted against observed responses, beside closed forms and the ceiling",
    "score_speed": "time and memory of the scores of latents",
    "separation": "what each latent knows and drives, and whether runs agree",
    "speed": "time and memory of training beside scVI",
    "toy": "how close the toy x = z + w comes to the best likelihood",
    "two_colors": "digits in two colours: translation to seen and unseen pairs",
}
"""Benchmarks with a page of their own, written in Python: ``_<name>.py``."""


def suite_titles() -> dict[str, str]:
    """Title of each suite in the package, the smallest first."""
    paths = sorted(FOLDER.glob("*.toml"), key=lambda path: (path.stem != "smoke", path.stem))
    return {path.stem: tomllib.loads(path.read_text("utf-8"))["title"] for path in paths}
