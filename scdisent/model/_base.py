"""What all models share: setup, training, reading cells."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import NDArray
from scvi.data import AnnDataManager
from scvi.model.base import BaseModelClass
from scvi.train import TrainRunner

from scdisent._constants import KEYS
from scdisent._errors import NotTrainedError, OptionError, SetupError, TrainingDivergedError
from scdisent.conditions import ConditionTable, as_table
from scdisent.data import (
    CellLoader,
    CellTable,
    DiskDataModule,
    DiskLoader,
    ResidentDataModule,
    check_likelihood,
    expression_of,
    first_rows,
    inspect_expression,
    layer_name,
    query_loader,
    registered_columns,
)
from scdisent.data import _registry as reg
from scdisent.model._common import (
    at_least,
    cuda_devices,
    default_epochs,
    heirs,
    need_cells,
    resolve_seed,
    subset,
)
from scdisent.model._files import load_folder, save_folder
from scdisent.model._manager import build_manager, plain, plain_table
from scdisent.model._probe import make_probe
from scdisent.module import DisentModule
from scdisent.train import BestEpoch, DivergenceGuard, PlayersPlan

GETTER_BATCH_SIZE = 1024


class DisentModel(BaseModelClass):
    """Base of the user classes.

    A family gives ``_module_cls``, its latent blocks and its training defaults.
    """

    _module_cls: ClassVar[type[DisentModule]]
    _training_plan_cls = PlayersPlan
    _train_runner_cls = TrainRunner

    is_trained_: bool
    module: Any  # a DisentModule; families differ in what else they can do
    likelihood: str
    response_check_: dict[str, Any] | None = None
    """What ``tl.check_response`` found."""
    settled = 0.5
    """Share of training after which epochs can be compared: schedules have ended."""

    # ------------------------------------------------------------------ setup

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        *,
        condition_key: str | None,
        control: str | None = None,
        layer: str | None = None,
        labels_key: str | None = None,
        batch_key: str | None = None,
        sample_key: str | None = None,
        dose_key: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: list[str] | None = None,
        continuous_covariate_keys: list[str] | None = None,
        condition_table: ConditionTable | pd.DataFrame | Mapping[str, Any] | None = None,
        source_registry: dict[str, Any] | None = None,
    ) -> None:
        """Register an AnnData; ``adata.X`` and the user's columns stay as they are.

        Parameters
        ----------
        adata
            Cells by genes. Only scvi-tools' own ``_scvi_*`` columns and keys are added.
        condition_key
            Column of what the invariant block must not know: treatment, disease, species. None:
            cells without conditions, for models of one block.
        control
            Level of ``condition_key`` that serves as reference.
        layer
            Layer with the values the likelihood is for; None: ``X``.
        labels_key
            Cell type. Never needed to train; used to compare conditions within a type and to
            score.
        batch_key
            Technical batch. Enters decoders only.
        sample_key
            Donor or replicate; splits and intervals are made over it.
        dose_key
            Dose of the condition, a number for each cell: conditions then are ``"level@dose"``,
            and models whose codes are computed predict other doses (``predict(dose=)``).
        size_factor_key
            Positive expected total count of each cell, used as library; factors around 1, as of
            scran, have to be multiplied by a typical total. None: the observed total count.
        categorical_covariate_keys, continuous_covariate_keys
            Further technical covariates, treated as ``batch_key``.
        condition_table
            What is known of each condition, for models that predict unseen ones: a
            :class:`scdisent.ConditionTable`, or a DataFrame indexed by condition. It may have rows
            of conditions without cells.
        source_registry
            Registry of another setup whose levels are to be kept.

        Raises
        ------
        SetupError, InputDataError
            See the messages; nothing is written in that case.
        """
        condition_table = plain_table(condition_table)
        setup_method_args = cls._get_setup_method_args(**locals())
        setup_method_args["setup_args"].pop("source_registry")
        given = setup_method_args["setup_args"]
        setup_method_args["setup_args"] = {name: plain(value) for name, value in given.items()}
        manager = build_manager(adata, setup_method_args, source_registry=source_registry)
        register(manager)

    @classmethod
    def _get_most_recent_anndata_manager(
        cls, adata: AnnData, required: bool = False
    ) -> AnnDataManager | None:
        try:
            return super()._get_most_recent_anndata_manager(adata, required=required)
        except ValueError as error:
            msg = (
                "this AnnData is not set up (a copy or a subset of one that is does not count). "
                f"Run: scdisent.setup_anndata(adata, condition_key=...). scvi-tools says: {error}"
            )
            raise SetupError(msg) from error

    @property
    def conditions(self) -> list[str]:
        """Conditions of training, in the order of their codes."""
        return [str(level) for level in reg.levels(self.registry_, KEYS.CONDITION)]

    @property
    def representations(self) -> tuple[str, ...]:
        """Names of the latent blocks."""
        return tuple(self.module.n_latents)

    @property
    def control(self) -> str | None:
        """Reference condition named at setup."""
        control = reg.setup_argument(self.registry_, "control")
        return None if control is None else str(control)

    @property
    def condition_table(self) -> ConditionTable | None:
        """What setup was told of the conditions."""
        return as_table(reg.setup_argument(self.registry_, "condition_table"))

    def condition_code(self, condition: str, *, argument: str = "condition") -> int:
        """Code of a condition; an unknown one lists those of training.

        Parameters
        ----------
        condition
            Name of a level.
        argument
            How the message calls it.
        """
        if str(condition) not in self.conditions:
            few = "; load_query_data needs few" if hasattr(self, "load_query_data") else ""
            msg = (
                f"{argument}={condition!r} was not in training, and {type(self).__name__} has no "
                f"encoder for new conditions. Known: {self.conditions}. Train with cells of "
                f"it{few}."
            )
            raise OptionError(msg)
        return self.conditions.index(str(condition))

    # --------------------------------------------------------------- training

    def _sizes(self) -> dict[str, Any]:
        """Sizes that the module needs, from the registry."""
        stats = self.summary_stats
        mappings = reg.joint_levels(self.registry_)
        return {
            "n_input": stats.n_vars,
            "n_labels": stats.n_labels,
            "n_batch": stats.n_batch,
            "n_cats_per_cov": [len(values) for values in mappings.values()],
            "n_continuous_cov": stats.get("n_extra_continuous_covs", 0),
        }

    def _check_data(self) -> None:
        """Hold the registered values against the likelihood, once."""
        if self.adata is not None:
            layer = reg.setup_argument(self.registry_, "layer")
            x = expression_of(self.adata, layer)
            if self.adata.isbacked:
                x = first_rows(x)
            self._check_report(inspect_expression(x, where=layer_name(layer)))

    def _check_report(self, report: Any) -> None:
        check_likelihood(report, likelihood=self.likelihood, expects=self.module.expects)

    def train(
        self,
        max_epochs: int | None = None,
        *,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float | None = None,
        validation_size: float | None = None,
        batch_size: int = 512,
        early_stopping: bool = False,
        datamodule: pl.LightningDataModule | None = None,
        plan_kwargs: dict[str, Any] | None = None,
        keep_best: bool = True,
        leakage_ceiling: float = 0.55,
        seed: int | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Fit the model.

        Parameters
        ----------
        max_epochs
            None: as many as give about 1,000 steps, between 20 and 400.
        accelerator, devices
            As in Lightning.
        train_size, validation_size
            Shares of the cells, kept within each condition; default 0.9 and the rest.
        batch_size
            Cells in a minibatch. Not used with ``datamodule``.
        early_stopping
            Stop when the validation bound no longer improves.
        datamodule
            Any Lightning datamodule that yields scvi-tools' minibatches, for cells on disk.
        plan_kwargs
            Arguments of :class:`scdisent.train.PlayersPlan` over the preset's.
        keep_best
            Keep the epoch with the best validation bound among those below ``leakage_ceiling``.
            Only for cells in memory.
        leakage_ceiling
            Largest area under the ROC curve of the probe that watches training.
        seed
            Seed of order, noise and split; None: ``scvi.settings.seed``, or 0. The caller's random
            state is left as it was.
        **trainer_kwargs
            Passed to scvi-tools' trainer (``strategy``, ``precision``, ``callbacks``, ...).

        Raises
        ------
        TrainingDivergedError
            If the loss stopped being a number. The last good weights are restored.
        """
        self._before_training()
        at_least(2, batch_size=batch_size)  # networks normalise over a batch
        seed, self.response_check_ = resolve_seed(seed), None
        if datamodule is None:
            datamodule = self._make_datamodule(
                batch_size=batch_size,
                train_size=train_size,
                validation_size=validation_size,
                seed=seed,
            )
        if early_stopping and getattr(datamodule, "n_val", None) == 0:
            msg = (
                "early_stopping=True needs validation cells, and these shares leave none. Lower "
                f"train_size ({train_size}) or raise validation_size ({validation_size})."
            )
            raise OptionError(msg)
        if max_epochs is None:
            max_epochs = default_epochs(datamodule, batch_size)
        at_least(1, max_epochs=max_epochs)
        plan_kwargs = {**self._plan_defaults(), **(plan_kwargs or {})}
        if self.module.is_adapting:  # decay would move weights that have no gradient
            plan_kwargs["weight_decay"], keep_best = 0.0, False
        plan = self._training_plan_cls(self.module, **plan_kwargs)
        guard = DivergenceGuard()
        callbacks = list(trainer_kwargs.pop("callbacks", None) or [])
        if keep_best and isinstance(datamodule, ResidentDataModule) and datamodule.n_val:
            probe = make_probe(self, datamodule)
            first = int(self.settled * max_epochs)
            callbacks.append(BestEpoch(probe, first_epoch=first, ceiling=leakage_ceiling))
            trainer_kwargs.setdefault("check_val_every_n_epoch", max(1, max_epochs // 50))
        with torch.random.fork_rng(devices=cuda_devices()):
            torch.manual_seed(seed)
            runner = self._train_runner_cls(
                self,
                training_plan=plan,
                data_splitter=datamodule,
                max_epochs=max_epochs,
                accelerator=accelerator,
                devices=devices,
                early_stopping=early_stopping,
                callbacks=[*callbacks, guard],
                **trainer_kwargs,
            )
            was_trained = self.is_trained_
            self.module.train()  # Lightning keeps the mode, and a trained model is in eval mode
            try:
                runner()
            except BaseException:  # a model trained before goes on being usable
                self.module.finish()
                self.module.progress = 1.0
                self.module.eval()
                raise
        if guard.diverged_at is not None and guard.good_epoch is None:
            self.is_trained_ = was_trained
        self._after_training(datamodule, guard)

    def _before_training(self) -> None:
        """Refuse what must not be trained."""

    def _plan_defaults(self) -> dict[str, Any]:
        """Arguments of the plan that belong to the model's preset."""
        return {}

    def _make_datamodule(self, *, batch_size: int, **split: Any) -> pl.LightningDataModule:
        if self.adata is None:
            msg = "the model has no AnnData: pass datamodule=, or build the model with adata."
            raise SetupError(msg)
        manager = self.adata_manager
        if self.adata.isbacked:
            x = expression_of(self.adata, reg.setup_argument(self.registry_, "layer"))
            columns = registered_columns(manager)
            return DiskDataModule(x, columns, batch_size=batch_size, **split)
        return ResidentDataModule(CellTable.from_manager(manager), batch_size=batch_size, **split)

    def _after_training(self, datamodule: pl.LightningDataModule, guard: DivergenceGuard) -> None:
        if guard.diverged_at is not None:
            learning_rate = self.trainer.lightning_module.lr
            epoch = guard.good_epoch
            kept = "those before training" if epoch is None else f"those of epoch {epoch}"
            msg = (
                f"the loss stopped being a finite number in epoch {guard.diverged_at}; the "
                f"weights are now {kept}. Lower plan_kwargs={{'lr': ...}} (now {learning_rate}), "
                "set plan_kwargs={'gradient_clip': 10}, or look for extreme values in the data."
            )
            raise TrainingDivergedError(msg)

    # ---------------------------------------------------------- reading cells

    def _need_training(self) -> None:
        if not self.is_trained_:
            msg = f"this {type(self).__name__} is not trained yet. Call model.train() first."
            raise NotTrainedError(msg)

    def _source(self, adata: AnnData | None) -> AnnData:
        """AnnData that a getter reads: the one given, else the model's own."""
        source = self.adata if adata is None else adata
        if source is None:
            msg = "the model was loaded without an AnnData: pass adata=."
            raise SetupError(msg)
        return source

    def _loader(
        self,
        adata: AnnData | None,
        *,
        fields: Collection[str],
        indices: Sequence[int] | NDArray[np.generic] | None = None,
        batch_size: int | None = None,
    ) -> CellLoader | DiskLoader:
        """Loader over cells in their order; reads only the fields that are needed."""
        self._need_training()
        return query_loader(
            need_cells(subset(self._source(adata), indices)),
            self.registry_,
            check=self._check_report,
            fields=fields,
            batch_size=batch_size or GETTER_BATCH_SIZE,
            device=self.module.device,
        )

    # ------------------------------------------------------------------ files

    def save(self, dir_path: str | Path, *, overwrite: bool = False) -> None:
        """Write the model to a folder: weights as safetensors, everything else as JSON.

        The data are not saved, but codes of up to 1,000 training cells a condition and the mean
        expression of each cell type, which predictions need. A manifest holds the hash of every
        file.

        Parameters
        ----------
        dir_path
            Folder to write.
        overwrite
            Replace a model that is there already.
        """
        save_folder(self, Path(dir_path), overwrite=overwrite)

    @classmethod
    def load(
        cls, dir_path: str | Path, adata: AnnData | None = None, *, device: str = "cpu"
    ) -> "DisentModel":
        """Read a model folder; nothing in it is executed or unpickled.

        Parameters
        ----------
        dir_path
            Folder written by :meth:`save`.
        adata
            Cells to attach; None: every getter then needs ``adata=``.
        device
            Where the weights go.

        Raises
        ------
        ModelFileError
            If a file is missing, cut, altered, of another class or of a newer format.
        """
        return load_folder((cls,), Path(dir_path), adata=adata, device=device)

    def _arguments(self) -> dict[str, Any]:
        """What the model was built with, beside its cells."""
        stored = self.init_params_
        return {**stored["non_kwargs"], **stored["kwargs"].get("options", {})}

    def _extra_tensors(self) -> dict[str, torch.Tensor]:
        """Tensors beside the weights that belong to the fitted model."""
        return {}

    def _set_extra_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Counterpart of :meth:`_extra_tensors`."""


def register(manager: AnnDataManager) -> None:
    """Serve every class of models, users' own too: all read the same fields."""
    for model in heirs(DisentModel):
        model.register_manager(manager)
