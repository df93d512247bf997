"""Which latent of one training run is which latent of another."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata

from scdisent._errors import InputDataError, OptionError, ScDisentWarning, one_of
from scdisent.metrics._checks import Floats, Integers, as_codes

Similarity = Literal["spearman", "fvh_cosine", "mean"]

CONSENSUS = 0.5
"""A slot belongs to the consensus if at least this share of the runs has it."""

GREEDY_LOSS = 0.05
"""Share by which the optimal assignment may exceed the greedy one before the user is warned."""

DECIMALS = 12
"""Similarities are rounded to that many: ties must go by index, not by the order of a sum."""


@dataclass(frozen=True, repr=False, eq=False)
class Alignment:
    """Result of :func:`gas`; a slot is a latent as found by several runs."""

    permutations: Integers
    """``(n_runs, n_slots)``: the run's latent in each slot, -1 if it has none."""
    signs: Integers
    """``(n_runs, n_slots)``: 1 or -1, to multiply codes and signed loadings; 0 if absent."""
    similarity: Floats
    """``(n_runs, n_slots)``: with the latent that opened the slot (1 for itself), NaN if absent."""
    reference: int
    """The medoid run, whose latents are the first slots."""
    greedy_similarity: Floats
    """``(n_runs,)``: total of the greedy assignment, carried on below the threshold."""
    optimal_similarity: Floats
    """``(n_runs,)``: total of the best assignment of the same similarities."""
    n_latent: tuple[int, ...]
    """Latents of each run, before alignment."""

    @property
    def present(self) -> NDArray[np.bool_]:
        """``(n_runs, n_slots)``: whether the run has a latent in the slot."""
        return self.permutations >= 0

    @property
    def frequency(self) -> Floats:
        """Share of the runs that have the slot, ``(n_slots,)``."""
        return self.present.mean(axis=0)

    @property
    def consensus(self) -> NDArray[np.bool_]:
        """Slots that at least half of the runs have, ``(n_slots,)``."""
        return self.frequency >= CONSENSUS

    @property
    def mean_similarity(self) -> Floats:
        """Mean over matched runs, the opener left out, ``(n_slots,)``; NaN without a match.

        Low values say that runs are rotated against each other, which no permutation undoes.
        """
        others = self.present.sum(axis=0) - 1
        total = np.nansum(self.similarity, axis=0) - 1
        return np.divide(total, others, out=np.full(len(others), np.nan), where=others > 0)

    @property
    def slots(self) -> pd.DataFrame:
        """One row for each slot and run that has it: latent, sign, similarity."""
        slot, run = np.nonzero(self.present.T)
        return pd.DataFrame(
            {
                "slot": slot,
                "run": run,
                "latent": self.permutations[run, slot],
                "sign": self.signs[run, slot],
                "similarity": self.similarity[run, slot],
            }
        )

    def apply(self, codes: Sequence[ArrayLike]) -> list[Floats]:
        """Codes in slots, with signs: of each run ``(n_cells, n_slots)``, absent slots 0."""
        rows = [np.asarray(run, dtype=np.float64).T for run in codes]
        return [table.T for table in self._align(rows, signed=True)]

    def apply_rows(self, tables: Sequence[ArrayLike], *, signed: bool) -> Floats:
        """Tables with a row for each latent in slots: ``(n_runs, n_slots, n_features)``.

        Absent slots are rows of 0. Signed effects and loadings take ``signed=True``; variances
        and squares have no sign and are permuted only.
        """
        return np.stack(self._align([np.asarray(t, dtype=np.float64) for t in tables], signed))

    def aggregate(self, tables: Sequence[ArrayLike], *, signed: bool) -> "AlignedSummary":
        """Mean and standard deviation over all runs of aligned tables, absent slots as 0.

        The mean of boolean tables is the share of runs that selected each link.
        """
        aligned = self.apply_rows(tables, signed=signed)
        several = len(aligned) > 1
        sd = aligned.std(axis=0, ddof=1) if several else np.full(aligned.shape[1:], np.nan)
        return AlignedSummary(
            mean=aligned.mean(axis=0),
            sd=sd,
            frequency=self.frequency,
            consensus=self.consensus,
            similarity=self.mean_similarity,
        )

    def _align(self, tables: list[Floats], signed: bool) -> list[Floats]:
        sizes = tuple(len(table) for table in tables)
        if sizes != self.n_latent:
            msg = (
                f"Expected one array for each of the {len(self.n_latent)} aligned runs, with "
                f"{list(self.n_latent)} latents, but found {list(sizes)}. Pass the runs of gas() "
                "in the same order."
            )
            raise InputDataError(msg)
        signs = self.signs if signed else self.present
        runs = zip(tables, self.permutations, signs, strict=True)
        # absent slots point at the last latent (-1), and their sign 0 makes it a row of zeros, but
        # keeps NaN: a feature that could not be normalised is unknown in every slot
        return [table[latents] * sign[:, None] for table, latents, sign in runs]

    def __repr__(self) -> str:
        n_runs, n_slots = self.permutations.shape
        found = self.mean_similarity[self.consensus]
        found = found[~np.isnan(found)]
        matched = f"{found.mean():.2f} (lowest {found.min():.2f})" if found.size else "none"
        return (
            f"Alignment(n_runs={n_runs}, n_slots={n_slots}, consensus={int(self.consensus.sum())}, "
            f"reference={self.reference}, matched similarity of consensus: {matched})"
        )


@dataclass(frozen=True, eq=False)
class AlignedSummary:
    """Aligned tables of several runs, by slot."""

    mean: Floats
    """``(n_slots, n_features)``."""
    sd: Floats
    """``(n_slots, n_features)``; NaN for one run."""
    frequency: Floats
    """Share of the runs that have the slot, ``(n_slots,)``."""
    consensus: NDArray[np.bool_]
    """Slots of at least half of the runs, ``(n_slots,)``."""
    similarity: Floats
    """Mean matched similarity, ``(n_slots,)``; NaN without a match."""


def gas(
    codes: Sequence[ArrayLike],
    *,
    informative: Sequence[ArrayLike] | None = None,
    similarity: Similarity = "spearman",
    threshold: float = 0.5,
    profiles: Sequence[ArrayLike] | None = None,
    directions: Sequence[ArrayLike] | None = None,
) -> Alignment:
    r"""Align the latents of several runs greedily, best pairs first, with signs.

    .. math:: s_{kl} = |\rho_{Spearman}(z^{(r)}_k, z^{(ref)}_l)| \quad\text{or}\quad
              \cos(\mathrm{FVH}^{(r)}_{k\cdot}, \mathrm{FVH}^{(ref)}_{l\cdot})

    The reference is the medoid: the run of largest mean similarity with the others, where the
    similarity of two runs is the sum over matched pairs divided by the larger number of
    informative latents. Its informative latents open the first slots. The other runs follow, most
    similar to the reference first: the largest remaining similarity is matched while it reaches
    the threshold, and latents left over open slots that later runs are compared with as well. Ties
    go to lower indices. With three or more runs (without ties) nothing depends on their order.

    Parameters
    ----------
    codes
        Of each run ``(n_cells, n_latent)``, the same cells in the same order; some thousand
        held-out cells are enough. The number of latents may differ.
    informative
        Of each run a mask ``(n_latent,)``, as of :func:`informative_latents`; other latents are
        never matched and open no slot. Default: all.
    similarity
        ``"spearman"`` of the codes, ``"fvh_cosine"`` of ``profiles``, or the ``"mean"`` of both.
        With ``"fvh_cosine"`` and ``directions``, runs need not share cells.
    threshold
        Smallest similarity of a match, in ``[0, 1]``.
    profiles
        Of each run ``(n_latent, n_features)``, not negative: values of :func:`fvh_lt`. NaN of
        features that a run could not normalise are skipped in all runs.
    directions
        Of each run ``(n_latent, n_features)``, ``signed`` of :func:`fvh_lt`: with
        ``"fvh_cosine"``, signs are those of their cosine instead of those of the correlation.

    Returns
    -------
    :class:`Alignment`.

    Raises
    ------
    InputDataError
        If runs do not share cells or features, or arrays do not match.
    OptionError
        If an option is not known or needs another.

    Warns
    -----
    ScDisentWarning
        If the best assignment (Hungarian method) has a total more than 5 % above the greedy one.

    Notes
    -----
    Name and purpose, best pairs first: Lang and Liu 2026 (arXiv 2603.11242). Similarities, the
    threshold, the medoid, slots and signs are our reconstruction. Greedy alignment can not undo
    rotations: then similarities are low, and must be shown.
    """
    one_of(similarity, get_args(Similarity), "similarity")
    runs = [as_codes(run) for run in codes]
    if not runs or not 0 <= threshold <= 1:
        msg = f"gas needs one run at least (found {len(runs)}), threshold in [0, 1] ({threshold})."
        raise OptionError(msg)
    n_latent = [run.shape[1] for run in runs]
    latents = _informative(informative, n_latent=n_latent)
    signed = _signed_similarities(
        runs, similarity=similarity, profiles=profiles, directions=directions
    )
    closeness = _closeness(signed, latents, threshold=threshold)
    reference = int(closeness.mean(axis=1).argmax())
    others = np.argsort(-closeness[reference], kind="stable")
    order = [reference, *(int(run) for run in others if run != reference)]
    alignment = _fill_slots(signed, latents, order=order, threshold=threshold)
    lost = alignment.optimal_similarity > (1 + GREEDY_LOSS) * alignment.greedy_similarity
    if lost.any():
        msg = (
            f"Greedy alignment of runs {np.flatnonzero(lost).tolist()} finds a total similarity of "
            f"{alignment.greedy_similarity[lost].round(2).tolist()}, the best assignment "
            f"{alignment.optimal_similarity[lost].round(2).tolist()}. Latents are ambiguous: look "
            "at the similarities before aggregating."
        )
        warnings.warn(msg, ScDisentWarning, stacklevel=2)
    return alignment


def informative_fdr(
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    informative: ArrayLike | None = None,
    threshold: float = 0.3,
) -> float:
    r"""Share of the latents declared informative that find no true factor of their own.

    .. math:: 1 - \frac{\#\{f : f = \arg\max_{f'} |\rho_{kf'}| \ge \theta
              \text{ for some informative } k\}}{\#\{k \text{ informative}\}}

    with Spearman correlations: latents without a factor, and all but one of those with the same
    factor, are false.

    Parameters
    ----------
    codes
        ``(n_cells, n_latent)``.
    factors
        True factors of a simulation, ``(n_cells, n_factors)``.
    informative
        Mask ``(n_latent,)``, as of :func:`informative_latents`; default: all.
    threshold
        Smallest absolute correlation that counts as found.

    Returns
    -------
    In ``[0, 1]``; 0 if no latent is declared informative.

    Raises
    ------
    InputDataError
        If arrays do not match or are not finite.

    Notes
    -----
    Lang and Liu 2026 (arXiv 2603.11242) report a false discovery rate without its definition; this
    one is ours.
    """
    ranks = _standardised_ranks([as_codes(codes), as_codes(factors)])
    masks = None if informative is None else [informative, np.ones(ranks[1].shape[1])]
    declared, true = _informative(masks, n_latent=[table.shape[1] for table in ranks])
    if not declared:
        return 0.0
    size = np.abs(_products(ranks, declared, true))
    found = size.argmax(axis=1)[size.max(axis=1) >= threshold]
    return 1 - len(np.unique(found)) / len(declared)


Latents = list[tuple[int, int]]
"""Run and position of latents."""


class _Similarities:
    """Signed similarity of any two runs: its size is for matching, its sign for flipping."""

    def __init__(self, sizes: list[list[Floats]], signs: list[Floats]) -> None:
        self.sizes, self.signs = sizes, signs

    def between(self, ones: Latents, others: Latents) -> tuple[Floats, Integers]:
        """Similarity, and sign, of all pairs of latents: ``(len(ones), len(others))``."""
        each = [np.abs(_products(kind, ones, others)) for kind in self.sizes]
        size = np.clip(np.mean(each, axis=0), 0, 1).round(DECIMALS)
        return size, np.where(_products(self.signs, ones, others) < 0, -1, 1)


def _products(columns: list[Floats], ones: Latents, others: Latents) -> Floats:
    """Inner products of unit columns, ``(len(ones), len(others))``."""
    n_rows = len(columns[0])
    left, right = (
        np.reshape([columns[run][:, latent] for run, latent in latents], (len(latents), n_rows))
        for latents in (ones, others)
    )
    return left @ right.T


def _signed_similarities(
    codes: list[Floats],
    *,
    similarity: Similarity,
    profiles: Sequence[ArrayLike] | None,
    directions: Sequence[ArrayLike] | None,
) -> _Similarities:
    """Unit columns of each run whose products are the similarities and the signs."""
    n_latent = [run.shape[1] for run in codes]
    if similarity != "spearman" and profiles is None:
        msg = f"similarity={similarity!r} compares FVH rows. Pass them as profiles=."
        raise OptionError(msg)
    by_direction = similarity == "fvh_cosine" and directions is not None
    ranks = [] if by_direction else _standardised_ranks(codes)
    kinds = {
        "spearman": lambda: [ranks],
        "fvh_cosine": lambda: [_rows(profiles, "profiles", n_latent)],
        "mean": lambda: [ranks, _rows(profiles, "profiles", n_latent)],
    }
    signs = _rows(directions, "directions", n_latent) if by_direction else ranks
    return _Similarities(kinds[similarity](), signs)


def _standardised_ranks(codes: list[Floats]) -> list[Floats]:
    """Ranks of cells with mean 0 and norm 1 (constant latents 0), ``(n_cells, n_latent)``."""
    if len({len(run) for run in codes}) > 1:
        msg = (
            f"Runs must be codes of the same cells, but have {[len(run) for run in codes]} cells. "
            "Encode one set of cells with all runs."
        )
        raise InputDataError(msg)
    return [_unit(ranks - ranks.mean(axis=0)) for ranks in (rankdata(c, axis=0) for c in codes)]


def _rows(tables: Sequence[ArrayLike] | None, name: str, n_latent: list[int]) -> list[Floats]:
    """Rows of tables as unit columns ``(n_features, n_latent)``, without features of NaN."""
    arrays = [np.asarray(table, dtype=np.float64) for table in tables or ()]
    expected = [(n, arrays[0].shape[-1] if arrays else 0) for n in n_latent]
    if [array.shape for array in arrays] != expected:
        msg = (
            f"{name} must be (n_latent, n_features) of each run, with latents {n_latent} and the "
            f"same features, but have shapes {[array.shape for array in arrays]}."
        )
        raise InputDataError(msg)
    known = np.all([~np.isnan(array).any(axis=0) for array in arrays], axis=0)
    return [_unit(array[:, known].T) for array in arrays]


def _unit(columns: Floats) -> Floats:
    """Columns of norm 1; columns of zeros stay."""
    norm = np.linalg.norm(columns, axis=0)
    return np.divide(columns, norm, out=np.zeros_like(columns), where=norm > 0)


def _informative(informative: Sequence[ArrayLike] | None, *, n_latent: list[int]) -> list[Latents]:
    """Informative latents of each run."""
    given = [np.ones(n) for n in n_latent] if informative is None else informative
    masks = [np.asarray(mask, dtype=bool) for mask in given]
    if [mask.shape for mask in masks] != [(n,) for n in n_latent]:
        msg = (
            f"informative must be one mask for each run, of {n_latent} latents, but has shapes "
            f"{[mask.shape for mask in masks]}."
        )
        raise InputDataError(msg)
    return [[(run, int(k)) for k in np.flatnonzero(mask)] for run, mask in enumerate(masks)]


def _closeness(signed: _Similarities, latents: list[Latents], *, threshold: float) -> Floats:
    """Matched similarity of any two runs per latent of the larger one, ``(n_runs, n_runs)``."""
    closeness = np.eye(len(latents))
    for run in range(len(latents)):
        for other in range(run):
            table, _ = signed.between(latents[run], latents[other])
            total = sum(table[pair] for pair in _greedy(table, threshold))
            closeness[run, other] = total / max(*table.shape, 1)
            closeness[other, run] = closeness[run, other]
    return closeness.round(DECIMALS)


def _greedy(similarity: Floats, threshold: float) -> list[tuple[int, int]]:
    """Pairs (row, column), the most similar first, each row and column once."""
    left, pairs = similarity.copy(), []
    while left.size and left.max() >= threshold:
        row, column = np.unravel_index(left.argmax(), left.shape)  # the first of equal ones
        pairs.append((int(row), int(column)))
        left[row], left[:, column] = -1, -1
    return pairs


def _fill_slots(
    signed: _Similarities, latents: list[Latents], *, order: list[int], threshold: float
) -> Alignment:
    """Match each run in turn with the latents that opened slots; those left over open new ones."""
    openers: Latents = []
    rows = []  # run, slot, latent, sign, similarity
    totals = np.zeros((2, len(latents)))
    for run in order:
        size, sign = signed.between(latents[run], openers)
        pairs = dict(_greedy(size, threshold))
        totals[0, run] = sum(size[pair] for pair in _greedy(size, 0.0))
        totals[1, run] = size[linear_sum_assignment(-size)].sum()
        for row, latent in enumerate(latents[run]):
            if row in pairs:
                slot = pairs[row]
                rows.append((run, slot, latent[1], sign[row, slot], size[row, slot]))
            else:
                rows.append((run, len(openers), latent[1], 1, 1.0))
                openers.append(latent)
    totals[:, order[0]] = len(latents[order[0]])  # with itself
    table = np.full((3, len(latents), len(openers)), np.nan)
    table[0], table[1] = -1, 0
    for run, slot, *found in rows:
        table[:, run, slot] = found
    return Alignment(
        permutations=table[0].astype(np.intp),
        signs=table[1].astype(np.intp),
        similarity=table[2],
        reference=order[0],
        greedy_similarity=totals[0],
        optimal_similarity=totals[1],
        n_latent=tuple(each.shape[1] for each in signed.signs),
    )
