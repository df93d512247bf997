"""Tiny worlds and models: trained in a fraction of a second."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from anndata import AnnData

import scdisent
from scdisent.datasets import simulate_conditions
from scdisent.model._expression_mixin import ExpressionMixin
from scdisent.model._setup import MODELS

SMALL = {"n_latent": 3, "n_hidden": 16}
OF_MODEL = {model: {"n_specific": 2} for model in (scdisent.CGVAE, scdisent.CGGAN)}
"""Sizes that keep both blocks of a model of two epochs filled."""
FAST = {"max_epochs": 2, "batch_size": 64, "accelerator": "cpu", "enable_progress_bar": False}
SETUP = {"condition_key": "condition", "control": "control", "labels_key": "cell_type"}
LIKELIHOODS = ("nb", "zinb", "poisson", "normal", "bernoulli")


class Steps(pl.Callback):
    """Note which parameters have had a gradient."""

    def __init__(self):
        self.moved, self.per_player = set(), {}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        parameters = optimizer.param_groups[0]["params"]
        names = {id(p): name for name, p in pl_module.module.named_parameters()}
        player = tuple(sorted(names[id(p)] for p in parameters))
        self.per_player[player] = self.per_player.get(player, 0) + 1
        for parameter in parameters:
            if parameter.grad is not None and parameter.grad.abs().sum() > 0:
                self.moved.add(names[id(parameter)])


class Kit:
    """What the tests of the models share."""

    small, fast, setup, steps = SMALL, FAST, SETUP, Steps

    @staticmethod
    def world(likelihood="nb", **changes):
        """160 cells of 30 genes in the units of a likelihood, not set up yet."""
        sizes = {"n_cells": 160, "n_genes": 30, "n_types": 2, "n_donors": 2}
        effects = {"shared_effect_genes": 6, "type_effect_genes": 2}
        adata = simulate_conditions(**{**sizes, **effects, **changes})
        if likelihood == "normal":
            adata.X = np.log1p(adata.X.toarray() / 10)
        if likelihood == "bernoulli":
            adata.X = (adata.X.toarray() > np.median(adata.X.toarray(), axis=0)).astype(np.float32)
        return adata

    @classmethod
    def ready(cls, likelihood="nb", *, setup=None, **changes):
        """The same, set up."""
        adata = cls.world(likelihood, **changes)
        scdisent.setup_anndata(adata, **{**SETUP, **(setup or {})})
        return adata

    @staticmethod
    def sizes(model):
        return {**SMALL, **OF_MODEL.get(model, {})}

    @classmethod
    def build(cls, model, adata, **changes):
        return model(adata, **{**cls.sizes(model), **changes})

    @classmethod
    def trained(cls, model, adata, *, train=None, **changes):
        built = cls.build(model, adata, **changes)
        built.train(**{**FAST, **(train or {})})
        return built

    @staticmethod
    def query(adata):
        """The same cells as an AnnData that was never set up."""
        own = [column for column in adata.obs if not column.startswith("_scvi")]
        return AnnData(adata.X.copy(), obs=adata.obs[own].copy(), var=adata.var.copy())

    @staticmethod
    def weights(model):
        return {name: value.clone() for name, value in model.module.state_dict().items()}

    @staticmethod
    def assert_equal_weights(first, second):
        assert first.keys() == second.keys()
        for name, value in first.items():
            assert torch.equal(value, second[name]), name


@pytest.fixture(scope="session")
def kit():
    return Kit


@pytest.fixture(scope="session")
def nb_model():
    """A negative binomial model of two epochs; tests only read it."""
    return Kit.trained(scdisent.DISCoVeR, Kit.ready(setup={"batch_key": "donor"}))


TWO_BLOCKS = [model for model in MODELS if issubclass(model, ExpressionMixin)]
# A generator of two epochs has learned no variance yet, and says so.
YOUNG = pytest.mark.filterwarnings("ignore:Mode collapse")


def of_each(models):
    return [pytest.param(m, marks=YOUNG, id=m.__name__) for m in models]


@pytest.fixture(params=of_each(TWO_BLOCKS))
def model_cls(request):
    return request.param


@pytest.fixture(params=of_each(m for m in TWO_BLOCKS if m is not scdisent.CGGAN))
def bounded_cls(request):
    """Models with a bound that training can be judged by."""
    return request.param


@pytest.fixture(params=LIKELIHOODS)
def likelihood(request):
    return request.param
