"""Do the blocks of DISCoVeR hold what they should? Interferon genes on stimulated blood cells."""

from pathlib import Path

import pandas as pd

from scdisent import pl, tl
from scdisent.benchmarks._data import kang_2000_genes
from scdisent.benchmarks._report import environment
from scdisent.model import DISCoVeR, setup_anndata

INTERFERON = ("ISG15", "IFI6", "IFIT1", "IFIT2", "IFIT3", "MX1")
SEEDS = (0, 1, 2)
TOOLS = {"fvh_lt": "scdisent_fvh_lt", "dbsr_ls": "scdisent_dbsr_ls_coef"}


def interferon(out: str | Path, *, seeds: tuple[int, ...] = SEEDS) -> pd.DataFrame:
    """Rank the genes of each block by both tools; write ``interferon.csv``, ``.md`` and figures."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    table = pd.concat([run_seed(seed, out) for seed in seeds], ignore_index=True)
    table.to_csv(out / "interferon.csv", index=False)
    (out / "interferon.md").write_text(_page(table))
    return table


def run_seed(seed: int, out: Path) -> pd.DataFrame:
    """Ranks of the interferon genes in each block for one fit; draws the first."""
    adata = kang_2000_genes(keep=INTERFERON)
    keys = {"condition_key": "condition", "control": "control", "labels_key": "cell_type"}
    setup_anndata(adata, **keys, sample_key="donor")
    model = DISCoVeR(adata, seed=seed)
    model.train(seed=seed, enable_progress_bar=False)
    tl.score(adata, model, metrics=["fvh_lt", "dbsr_ls", "lsdi"], seed=seed)
    if seed == SEEDS[0]:
        pl.fvh_lt(adata, show=False, save=out / "interferon_fvh_lt.png")
        pl.dbsr_ls(adata, show=False, save=out / "interferon_dbsr_ls.png")
    ranks = pd.concat({tool: _ranks(adata, key) for tool, key in TOOLS.items()}, names=["tool"])
    return ranks.reset_index().assign(seed=seed)


def _ranks(adata, key: str) -> pd.DataFrame:
    """Rank of each gene in each block by its share there, 1 is the largest."""
    latents = adata.uns["scdisent"]["latents"]
    strength = adata.varm[key]
    if key == TOOLS["dbsr_ls"]:  # share of the gene's variance
        strength = strength**2 * latents["code_variance"]
    by_block = strength.T.groupby(latents["block"]).sum().T
    ranks = by_block.rank(ascending=False, method="min").loc[list(INTERFERON)]
    return ranks.rename_axis("gene").rename_axis(columns=None).reset_index()


def _page(table: pd.DataFrame) -> str:
    parts = [HEAD.format(environment=environment(1))]
    for tool, rows in table.groupby("tool", sort=False):
        wide = rows.groupby("gene", sort=False)[["specific", "invariant"]].median()
        lines = [f"## {tool}", "", "| gene | rank in specific | rank in invariant |"]
        lines += ["| --- | ---: | ---: |"]
        lines += [f"| {g} | {r.specific:.0f} | {r.invariant:.0f} |" for g, r in wide.iterrows()]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


HEAD = """# Interferon genes in the blocks of DISCoVeR

Kang 2018 (6k subset, 2,000 most variable genes and those of the table): blood cells with and
without interferon beta. Default preset. A gene's strength in a block is its FVH-LT, or the share of
its variance by DBSR-LS, summed over the block's latents; rank 1 is the strongest of all genes,
median over {seeds} seeds. Made by `scdisent bench interferon`, {environment}

![FVH-LT of both blocks](interferon_fvh_lt.png)

![DBSR-LS of both blocks](interferon_dbsr_ls.png)

""".replace("{seeds}", str(len(SEEDS)))
