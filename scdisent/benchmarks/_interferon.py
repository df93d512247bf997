"""Do the blocks of DISCoVeR hold what they should? Interferon genes on stimulated blood cells."""

from pathlib import Path

import pandas as pd
from anndata import AnnData

from scdisent import pl, tl
from scdisent.benchmarks._data import kang_2000_genes
from scdisent.benchmarks._report import environment
from scdisent.model import DISCoVeR, setup_anndata

INTERFERON = ("ISG15", "IFI6", "IFIT1", "IFIT2", "IFIT3", "MX1")
SEEDS = (0, 1, 2)
SIGNAL = "fvh_lt x signal"
TOOLS = {"fvh_lt": "fvh_lt", SIGNAL: "fvh_lt", "dbsr_ls": "dbsr_ls_coef"}
N_GENES = (2_000, 20_000)
"""Most variable genes; the latter are all there are."""


def interferon(out: str | Path, *, seeds: tuple[int, ...] = SEEDS) -> pd.DataFrame:
    """Rank the genes of each block by both tools; write ``interferon.csv``, ``.md`` and figures."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    runs = [run_seed(seed, out, n_genes=n_genes) for n_genes in N_GENES for seed in seeds]
    table = pd.concat(runs, ignore_index=True)
    table.to_csv(out / "interferon.csv", index=False)
    (out / "interferon.md").write_text(_page(table))
    return table


def run_seed(seed: int, out: Path, *, n_genes: int) -> pd.DataFrame:
    """Ranks of the interferon genes in each block for one fit; draws the first."""
    adata = kang_2000_genes(n_genes=n_genes, keep=INTERFERON)
    keys = {"condition_key": "condition", "control": "control", "labels_key": "cell_type"}
    setup_anndata(adata, **keys, sample_key="donor")
    model = DISCoVeR(adata, seed=seed)
    model.train(seed=seed, enable_progress_bar=False)
    tl.score(adata, model, metrics=["fvh_lt", "dbsr_ls", "lsdi"], seed=seed)
    if seed == SEEDS[0] and n_genes == N_GENES[0]:
        pl.fvh_lt(adata, show=False, save=out / "interferon_fvh_lt.png")
        pl.dbsr_ls(adata, show=False, save=out / "interferon_dbsr_ls.png")
    ranks = pd.concat({tool: _ranks(adata, tool) for tool in TOOLS}, names=["tool"])
    return ranks.reset_index().assign(seed=seed, n_genes=adata.n_vars)


def _ranks(adata: AnnData, tool: str) -> pd.DataFrame:
    """Rank of each gene in each block by its share there, 1 is the largest."""
    results = adata.uns["scdisent"]
    strength = adata.varm[f"scdisent_{TOOLS[tool]}"]
    if tool == "dbsr_ls":  # share of the gene's variance
        strength = strength**2 * results["latents"]["code_variance"]
    by_block = strength.T.groupby(results["latents"]["block"]).sum().T
    if tool == SIGNAL:
        by_block = by_block.mul(results["fvh_lt"]["signal"]["signal"], axis=0)
    ranks = by_block.rank(ascending=False, method="min").loc[list(INTERFERON)]
    return ranks.rename_axis("gene").rename_axis(columns=None).reset_index()


def _page(table: pd.DataFrame) -> str:
    parts = [HEAD.format(environment=environment(1))]
    for (n_genes, tool), rows in table.groupby(["n_genes", "tool"], sort=False):
        wide = rows.groupby("gene", sort=False)[["specific", "invariant"]].median()
        lines = [f"## {n_genes:,} genes, {NAMES[tool]}", ""]
        lines += ["| gene | rank in specific | rank in invariant |", "| --- | ---: | ---: |"]
        lines += [f"| {g} | {r.specific:.0f} | {r.invariant:.0f} |" for g, r in wide.iterrows()]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


NAMES = {"fvh_lt": "FVH-LT", SIGNAL: "FVH-LT times signal", "dbsr_ls": "DBSR-LS"}
HEAD = """# Interferon genes in the blocks of DISCoVeR

Kang 2018 (6k subset; the 2,000 most variable genes and those of the table, then all genes in ten
cells): blood cells with and without interferon beta. Default preset. A gene's strength in a block
is its FVH-LT, or the share of its variance by DBSR-LS, summed over the block's latents; rank 1 is
the strongest of all genes, median over {seeds} seeds. By FVH-LT times signal (the share of the
variance that is not counting) plots and reports choose the genes that they name. Made by
`scdisent bench interferon`, {environment}

![FVH-LT of both blocks](interferon_fvh_lt.png)

![DBSR-LS of both blocks](interferon_dbsr_ls.png)

""".replace("{seeds}", str(len(SEEDS)))
