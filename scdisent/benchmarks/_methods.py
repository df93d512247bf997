"""Methods that benchmarks compare; each is fitted on the cells of one world."""

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA

from scdisent import model as models
from scdisent.benchmarks._hcsvae import HCSVAE
from scdisent.benchmarks._separation import KL_CUT, MIN_SHARE
from scdisent.benchmarks._world import Fit, Latents, Method, World
from scdisent.effects import TARGET_SUM
from scdisent.tl import decoded_features

N_LATENT, N_DECODED = 10, 30

Options = Mapping[str, Any]


class _Clock:
    """Wall and CPU seconds of a block."""

    def __enter__(self) -> "_Clock":
        self.start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *exception: object) -> None:
        self.spent: dict[str, Any] = {
            "seconds": time.perf_counter() - self.start[0],
            "cpu_seconds": time.process_time() - self.start[1],
        }


def fit_model(
    model_class: Any, world: World, seed: int, *, options: Options, train: Options
) -> Fit:
    """Fit a model of this package; ``options`` go to its constructor, ``train`` to ``train``."""
    cells, adata = world.adata, world.training_cells()
    model_class.setup_anndata(adata, **{"condition_key": None, **world.setup})
    with _Clock() as clock:
        model = model_class(
            adata, seed=seed, **{"likelihood": world.likelihood, "n_latent": N_LATENT, **options}
        )
        model.train(seed=seed, enable_progress_bar=False, **train)
    blocks = {
        block: model.get_latent_representation(cells, representation=block)
        for block in model.representations
    }
    given: dict[str, Any] = {
        "errors": model.get_reconstruction_error(cells, seed=seed),
        "reconstructed": _reconstructed(model, cells, world),
        **clock.spent,
    }
    if "latent" in blocks:
        return Fit(blocks["latent"], **given, **_of_one_block(model, cells, given, seed=seed))
    if len(blocks) == 2:
        codes = model.get_latent_representation(cells, representation="full")
        given["swap"] = partial(_swapped, model, world, codes, seed)
    if "invariant" in blocks:
        given["decoded"] = decoded_features(cells, model, seed=seed)
    return Fit(blocks.get("invariant"), specific=blocks.get("specific"), **given)


def _reconstructed(model: Any, cells: Any, world: World) -> Any:
    profile = model.get_normalized_expression(cells, library_size=TARGET_SUM, return_numpy=True)
    return np.log1p(profile) if world.is_counts else profile


def _of_one_block(model: Any, cells: Any, given: Options, *, seed: int) -> dict[str, Any]:
    """What BFVAE has more: all that it decodes comes from the codes."""
    mean, variance = model.get_latent_representation(cells, return_dist=True)
    kl = 0.5 * (mean**2 + variance - 1 - np.log(variance))
    profile = given["reconstructed"]
    n_components = min(N_DECODED, *profile.shape)
    return {
        "decoded": PCA(n_components, random_state=seed).fit_transform(profile),
        "latents": Latents(mean, model.decode, kl.mean(axis=0) > KL_CUT),
    }


def _swapped(model: Any, world: World, codes: Any, seed: int, own: Any, partner: Any) -> Any:
    """Cells with the specific codes of others."""
    n_invariant = model.module.n_latents["invariant"]
    mixed = np.hstack([codes[own, :n_invariant], codes[partner, n_invariant:]])
    return drawn(model, mixed, world.values[own].sum(axis=1), seed=seed)


@torch.inference_mode()
def drawn(model: Any, codes: Any, library: Any, *, seed: int) -> Any:
    """Cells of given codes: counts are drawn, other values are means, ``(n_cells, n_genes)``."""
    module = model.module
    raw = module.decode_codes(torch.from_numpy(codes), module.first_levels(len(codes)))
    head = next(iter(module.likelihoods.values()))
    px = head.distribution(raw, torch.from_numpy(library))
    if module.expects != "counts":
        return px.mean.numpy()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return px.sample().numpy()


def fit_conditional_vae(world: World, seed: int, *, options: Options, train: Options) -> Fit:
    """Fit a VAE whose encoder and decoder are told the condition; what it decodes holds it."""
    setup: dict[str, Any] = {**world.setup, "condition_key": None, "control": None}
    setup["categorical_covariate_keys"] = [world.setup["condition_key"]]
    told = replace(world, setup=setup)
    options = {"preset": "vae", "encode_covariates": True, **options}
    fit = fit_model(models.BFVAE, told, seed, options=options, train=train)
    return replace(fit, decoded=None, latents=None)


def fit_scvi(world: World, seed: int, *, options: Options, train: Options) -> Fit:
    """Fit scVI with its own defaults; ``options``: ``n_latent``, ``batch`` (condition as batch)."""
    from scvi.model import SCVI

    adata = world.training_cells()
    batch_key = world.setup["condition_key"] if options.get("batch") else None
    with _seeded(seed):
        with _Clock() as clock:
            SCVI.setup_anndata(adata, batch_key=batch_key)
            n_latent = options.get("n_latent", N_LATENT)
            model = SCVI(adata, n_latent=n_latent, gene_likelihood="nb")
            train_briefly(model, adata.n_obs, train)
        cells = world.adata.copy()
        codes = model.get_latent_representation(cells)
        errors = model.get_reconstruction_error(cells)
        profile = model.get_normalized_expression(cells, library_size=TARGET_SUM, return_numpy=True)
    return Fit(
        codes,
        **clock.spent,
        errors={"nll_latent": float(errors["reconstruction_loss"])},
        reconstructed=np.log1p(profile),
    )


def fit_contrastive_vi(world: World, seed: int, *, options: Options, train: Options) -> Fit:
    """Fit contrastiveVI with the control as background; salient codes as the specific block."""
    from scvi.external import ContrastiveVI

    adata = world.training_cells()
    condition = adata.obs[world.setup["condition_key"]].astype(str)
    is_control = (condition == world.setup["control"]).to_numpy()
    n_latent = options.get("n_latent", N_LATENT)
    with _seeded(seed):
        with _Clock() as clock:
            ContrastiveVI.setup_anndata(adata)
            model = ContrastiveVI(adata, n_background_latent=n_latent, n_salient_latent=n_latent)
            background, target = (
                np.flatnonzero(mask).tolist() for mask in (is_control, ~is_control)
            )
            given = {"background_indices": background, "target_indices": target}
            train_briefly(model, adata.n_obs, {**given, **train})
        cells = world.adata.copy()
        codes = {
            kind: model.get_latent_representation(cells, representation_kind=kind)
            for kind in ("background", "salient")
        }
    return Fit(codes["background"], **clock.spent, specific=codes["salient"])


def fit_components(world: World, seed: int, *, options: Options, train: Options) -> Fit:
    """Principal components of log-normalised counts, or of values as they are."""
    x = world.features(world.training_cells().X)
    with _Clock() as clock:
        n_components = min(options.get("n_latent", N_LATENT), *x.shape)
        pca = PCA(n_components, random_state=seed).fit(x)
        codes = pca.transform(world.features())
    scale = np.maximum(codes.std(axis=0), 1e-12)
    informative = pca.explained_variance_ratio_ > MIN_SHARE
    return Fit(
        codes,
        **clock.spent,
        reconstructed=pca.inverse_transform(codes),
        latents=Latents(codes / scale, lambda z: pca.inverse_transform(z * scale), informative),
    )


def train_briefly(model: Any, n_cells: int, train: Options) -> None:
    """Train a model of scvi-tools, by default with about 3,000 steps at its batch size of 128.

    Its own default, 400 epochs where cells are few, is six times as long on 6,000 cells.
    """
    n_epochs = int(np.clip(round(3_000 * 128 / n_cells), 20, 400))
    model.train(**{"max_epochs": n_epochs, "enable_progress_bar": False, **train})


class _seeded:
    """Seed scvi-tools' globals for a while and put the caller's back."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __enter__(self) -> None:
        from scvi import settings

        self.before = settings.seed, np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
        self.caught = warnings.catch_warnings()
        self.caught.__enter__()
        warnings.simplefilter("ignore")
        settings.seed = self.seed

    def __exit__(self, *exception: object) -> None:
        from scvi import settings

        seed, numpy_state, torch_state = self.before
        settings._seed = seed
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(torch_state)
        self.caught.__exit__(None, None, None)


@dataclass(frozen=True)
class Maker:
    """What ``make`` of a method names in a suite."""

    fit: Callable[..., Fit]
    """``(world, seed, *, options, train)``."""
    options: tuple[str, ...] | None = None
    """Names of its options; None: the constructor of a model of this package knows them."""
    trains: bool = True


OWN = (models.DISCoVeR, models.CGVAE, models.CGGAN, models.BFVAE, HCSVAE)
MAKERS = {
    **{each.__name__: Maker(partial(fit_model, each)) for each in OWN},
    "CVAE": Maker(fit_conditional_vae),
    "scVI": Maker(fit_scvi, ("n_latent", "batch")),
    "contrastiveVI": Maker(fit_contrastive_vi, ("n_latent",)),
    "PCA": Maker(fit_components, ("n_latent",), trains=False),
}
"""What suites may name; a further method is one line here."""


def _method(make: str, **options: Any) -> Method:
    return partial(MAKERS[make].fit, options=options, train={})


METHODS: dict[str, Method] = {
    "DISCoVeR default": _method("DISCoVeR"),
    "DISCoVeR paper preset": _method("DISCoVeR", preset="paper"),
    "DISCoVeR, no adversary": _method("DISCoVeR", weights={"adversary": 0, "mmd": 0}),
    "scVI": _method("scVI"),
    "scVI, batch = condition": _method("scVI", batch=True),
    "contrastiveVI": _method("contrastiveVI"),
    "PCA": _method("PCA"),
}
"""What the study of invariance compares."""
