"""Cells with all results that a page shows, made by the metrics themselves; and a page reader."""

from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from scdisent import report, tl
from scdisent.metrics import leakage

N_CELLS, N_GENES, N_LATENT = 160, 30, 3
BLOCKS = ("invariant", "specific")
EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """What is on a page: tables by caption, texts by section, addresses, scripts."""

    def __init__(self, html):
        super().__init__()
        self.tables, self.heads, self.exact = {}, {}, {}
        self.sections, self.addresses, self.scripts, self.images = {}, [], [], []
        self.titles, self.ids, self.attributes = [], [], []
        self._open, self._caption, self._row, self._section = [], None, None, None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.attributes.append((tag, attrs))
        self.ids += [attrs["id"]] if "id" in attrs else []
        keys = ("src", "href", "xlink:href", "srcset", "action", "data", "poster", "background")
        self.addresses += [attrs[key] for key in keys if key in attrs]
        if tag == "section":
            self._section = attrs["id"]
            self.sections[self._section] = ""
        if tag == "img":
            self.images.append(attrs)
        if tag == "script":
            self.scripts.append("")
        if tag == "caption":
            self._caption = ""
        if tag == "tr":
            self._row = []
        if tag in ("td", "th"):
            self._row.append(["", attrs])
        if tag not in ("meta", "link", "img", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag
        if tag == "tr":
            texts = [text for text, _ in self._row]
            if "thead" in self._open:
                self.heads[self._caption] = texts
                self.tables[self._caption], self.exact[self._caption] = [], []
            else:
                values = [attrs.get("data-value") for _, attrs in self._row]
                self.tables[self._caption].append(texts)
                self.exact[self._caption].append([float(v) if v else None for v in values])

    def handle_data(self, data):
        inside = self._open[-1] if self._open else ""
        if inside == "script":
            self.scripts[-1] += data
        elif inside == "caption":
            self._caption += data
        elif inside == "title":
            self.titles.append(data)
        elif {"td", "th"} & set(self._open):
            self._row[-1][0] += data
        if self._section and "section" in self._open:
            self.sections[self._section] += data

    def column(self, caption, head):
        """Exact numbers of one column."""
        place = self.heads[caption].index(head)
        return [row[place] for row in self.exact[caption]]

    def texts(self, caption, head):
        """What a column shows."""
        place = self.heads[caption].index(head)
        return [row[place] for row in self.tables[caption]]


def audit_table(codes, condition, cell_type):
    """Leakage as ``tl.score`` stores it, and its statement."""
    frames, statement = [], ""
    for name, values in codes.items():
        quick = {"attackers": ("logistic",), "n_permutations": 40, "n_bootstrap": 40}
        found = leakage(values, condition, within=cell_type, min_cells=20, **quick)
        frames.append(found.to_frame().assign(representation=name, target="condition"))
        statement = str(found.equivalent()) if name == "invariant" else statement
    return pd.concat(frames, ignore_index=True), statement


def embedded(cell_types=("B", "T")):
    """Cells as ``tl.embed`` leaves them, with coordinates."""
    rng = np.random.default_rng(0)
    condition, cell_type = np.arange(N_CELLS) % 2, np.arange(N_CELLS) // 2 % len(cell_types)
    obs = pd.DataFrame(
        {
            "condition": pd.Categorical(np.array(["control", "stimulated"])[condition]),
            "cell_type": pd.Categorical(np.array(cell_types)[cell_type]),
            "donor": np.array(["d1", "d2", "d3", 'd"4&'])[rng.integers(0, 4, N_CELLS)],
        },
        index=[f"cell{i}" for i in range(N_CELLS)],
    )
    var = pd.DataFrame(index=[f"gene{i}" for i in range(N_GENES)])
    adata = AnnData(rng.poisson(2, (N_CELLS, N_GENES)).astype(np.float32), obs=obs, var=var)
    shift = {"invariant": 4 * cell_type, "specific": 6 * condition}
    for block in BLOCKS:
        codes = rng.normal(size=(N_CELLS, N_LATENT)) + shift[block][:, None]
        adata.obsm[f"X_scdisent_{block}"] = codes
        adata.obsm[f"X_umap_scdisent_{block}"] = codes[:, :2] + 0.0
    epochs = pd.Index(range(5), name="epoch")
    curves = {"nll_joint_train": [9.0, 5, 4, 3, 2.5], "nll_joint_validation": [9.5, 6, 5, 4, 4]}
    adata.uns["scdisent"] = {
        "embed": {
            "model": "DISCoVeR", "version": "0.1.0", "preset": "paper", "likelihood": "nb",
            "layer": "counts", "representations": np.array(BLOCKS), "condition_key": "condition",
            "labels_key": "cell_type", "sample_key": "donor", "batch_key": "",
            "control": "control",
        },
        "history": pd.DataFrame(curves, index=epochs),
    }  # fmt: skip
    return adata


def scored(cell_types=("B", "T")):
    """The same with all that the tools store."""
    adata = embedded(cell_types)
    rng, results = np.random.default_rng(1), adata.uns["scdisent"]
    condition, types = adata.obs["condition"].astype(str), adata.obs["cell_type"].astype(str)
    codes = {block: adata.obsm[f"X_scdisent_{block}"] for block in BLOCKS}
    audit, statement = audit_table(codes, condition.to_numpy(), types.to_numpy())
    pooled = audit[audit["scope"] == "pooled"]
    names = [f"{block}_{number}" for block in BLOCKS for number in range(N_LATENT)]
    fvh = pd.DataFrame(rng.uniform(0, 0.9, (N_GENES, 6)), index=adata.var_names, columns=names)
    adata.varm["scdisent_fvh_lt"] = fvh
    links = fvh.where(fvh > 0.5, 0.0) * rng.choice([-1.0, 1.0], fvh.shape)
    adata.varm["scdisent_dbsr_ls"] = adata.varm["scdisent_dbsr_ls_coef"] = links
    latents = pd.DataFrame(
        {
            "block": [name[:-2] for name in names],
            "kl": rng.uniform(0.5, 3, 6),
            "informative": True,
            "code_variance": rng.uniform(0.5, 2, 6),
            "n_links": (links != 0).sum().to_numpy(),
        },
        index=pd.Index(names, name="latent"),
    )
    results |= {
        "leakage": audit,
        "statement": statement,
        "scores": pd.DataFrame(
            {
                "metric": "leakage",
                "representation": pooled["representation"].to_numpy(),
                "target": "condition",
                "value": pooled["auroc"].to_numpy(),
                "lower": pooled["lower"].to_numpy(),
                "upper": pooled["upper"].to_numpy(),
                "null_95": [np.nan, 0.56],
            }
        ),
        "latents": latents,
        "fvh_lt": {"norm": "decoded", "scale": "centred log"},
        "dbsr_ls": {"is_counts": True},
    }
    tl.lsdi(adata)
    stimulated = adata[condition.to_numpy() == "stimulated"]
    control = adata[condition.to_numpy() == "control"]
    results["response"] = tl.evaluate_response(stimulated, control.copy(), control, n_bootstrap=3)
    return adata


@pytest.fixture
def embedded_cells():
    return embedded()


@pytest.fixture
def scored_cells():
    return scored()


@pytest.fixture
def evil_cells():
    """One cell type is called as a script."""
    return scored(("B", EVIL))


@pytest.fixture(scope="session")
def read_page():
    return Page


@pytest.fixture(scope="session")
def example(tmp_path_factory):
    """Cells and the file of their page, to read only."""
    adata = scored()
    return adata, report.write(adata, out=tmp_path_factory.mktemp("report") / "page.html")
