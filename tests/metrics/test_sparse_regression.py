import cvxpy as cp
import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import Lasso, LinearRegression, MultiTaskLasso

from scdisent._errors import InputDataError, OptionError
from scdisent.metrics import _regression_moments as moments_module
from scdisent.metrics import dbsr_ls
from scdisent.metrics._dirty_model import PENALTIES, solve, split
from scdisent.metrics._regression_moments import moments_by_fold
from scdisent.metrics._sparse_regression import _assign_folds

NORMS = ("l2", "linf")
SMALL_GRID = {"n_folds": 3, "n_lambdas": 6, "shares": (0.1, 0.4)}


def table(rng, n_cells=150, n_latent=5, n_features=20, noise=1.0):
    """Correlated codes; one latent drives all features, one a few, one a single, others none."""
    mixing = np.eye(n_latent) + 0.2 * rng.standard_normal((n_latent, n_latent))
    codes = rng.standard_normal((n_cells, n_latent)) @ mixing + 3
    effects = np.zeros((n_latent, n_features))
    effects[0], effects[1, :4], effects[2, 5] = rng.standard_normal(n_features), 1, -2
    features = codes @ effects + noise * rng.standard_normal((n_cells, n_features))
    return codes, features * rng.uniform(0.1, 10, n_features) + rng.normal(0, 5, n_features)


def counts(rng, n_cells=200, n_latent=4, n_features=30):
    """Codes and sparse log-normalised counts that depend on two of them."""
    codes = rng.standard_normal((n_cells, n_latent))
    effects = np.zeros((n_latent, n_features))
    effects[0, ::2], effects[1, :5] = 0.6, -0.8
    return codes, sparse.csr_matrix(np.log1p(rng.poisson(0.3 * np.exp(codes @ effects))))


def standardised(codes, features):
    return codes - codes.mean(axis=0), (features - features.mean(axis=0)) / features.std(axis=0)


def block_norms(rows, norm):
    return cp.sum(cp.norm(rows, 2, axis=1) if norm == "l2" else cp.max(cp.abs(rows), axis=1))


def optimum(loss, shape, *, block, element, norm):
    """Minimum of ``loss(B + S)`` plus both penalties by a general convex solver."""
    b, s = cp.Variable(shape), cp.Variable(shape)
    penalty = block * block_norms(b, norm) + element * cp.sum(cp.abs(s))
    problem = cp.Problem(cp.Minimize(loss(b + s) + penalty))
    problem.solve(solver=cp.CLARABEL)
    return problem.value, b.value + s.value


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("block_share", [0.1, 0.4, 0.8])
def test_the_proximal_map_of_a_row_is_that_of_the_two_norms_together(rng, norm, block_share):
    row = rng.standard_normal(12) * rng.choice([0.3, 3], 12)
    kind = PENALTIES[norm]
    for element in (0.4, 1.5, 10):
        inside = np.clip(row, -element, element)[None]
        penalty = kind(block_share * kind.dual_norm(inside)[0], element)
        left = row[None] - penalty.project(row)[0]
        block, single = split(left, gram=np.eye(1), cross=row[None], penalty=penalty)
        np.testing.assert_allclose(block + single, left, atol=1e-14)
        found = ((row - left) ** 2).sum() / 2 + penalty.price(block, single)
        expected, nearest = optimum(
            lambda theta, row=row: cp.sum_squares(row[None] - theta) / 2,
            (1, 12),
            block=penalty.block,
            element=element,
            norm=norm,
        )
        assert found == pytest.approx(expected, rel=1e-7)
        np.testing.assert_allclose(left, nearest, atol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_projection_onto_the_dual_ball_is_idempotent_and_inside(rng, norm):
    for size in (3, 100, 5_000):
        row, kind = 3 * rng.standard_normal(size), PENALTIES[norm]
        penalty = kind(0.6 * kind.dual_norm(np.clip(row, -1.2, 1.2)[None])[0], 1.2)
        projected, block_size = penalty.project(row)
        assert block_size > 0
        assert np.abs(projected).max() <= 1.2
        assert penalty.dual_norm(projected[None])[0] == pytest.approx(penalty.block, rel=1e-12)
        np.testing.assert_allclose(penalty.project(projected)[0], projected, rtol=1e-12)
        assert (projected * row >= 0).all()


@pytest.mark.parametrize(
    ("norm", "block", "element"),
    [("l2", 0.2, 0.08), ("l2", 0.6, 0.2), ("l2", 1.5, 0.5),
     ("linf", 0.3, 0.08), ("linf", 1.0, 0.2), ("linf", 3.0, 0.5)],
)  # fmt: skip
def test_objective_is_that_of_a_general_convex_solver(rng, norm, block, element):
    codes, features = table(rng)
    found = dbsr_ls(codes, features, lambda_block=block, lambda_element=element, norm=norm)
    z, y = standardised(codes, features)
    expected, coef = optimum(
        lambda theta: cp.sum_squares(y - z @ theta) / (2 * len(z)),
        found.coef.shape,
        block=block,
        element=element,
        norm=norm,
    )
    assert found.converged
    assert found.objective == pytest.approx(expected, rel=1e-7)
    np.testing.assert_allclose(found.coef, coef, atol=1e-3)
    np.testing.assert_allclose(found.block + found.element, found.coef, atol=1e-14)
    own = ((y - z @ found.coef) ** 2).sum() / (2 * len(z)) + PENALTIES[norm](block, element).price(
        found.block, found.element
    )
    assert found.objective == pytest.approx(own, rel=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_residuals_meet_the_optimality_conditions(rng, norm):
    """Residual covariances lie in the dual ball and attain the penalty, row by row (Fenchel)."""
    codes, features = table(rng, n_features=200)
    block, element = (2.5, 0.35) if norm == "l2" else (20.0, 0.35)
    found = dbsr_ls(codes, features, lambda_block=block, lambda_element=element, norm=norm)
    z, y = standardised(codes, features)
    pull = z.T @ (y - z @ found.coef) / len(z)
    penalty = PENALTIES[norm](block, element)
    assert np.abs(pull).max() <= element * (1 + 1e-5)
    assert penalty.dual_norm(pull).max() <= block * (1 + 1e-5)
    assert 0 < found.latent_selected.sum() < 5
    attained = (pull * found.coef).sum()
    assert attained == pytest.approx(penalty.price(found.block, found.element), rel=1e-5)


@pytest.mark.parametrize("element", [0.7, 2.0])
def test_without_elements_it_is_the_group_lasso_of_scikit_learn(rng, element):
    codes, features = table(rng)
    found = dbsr_ls(codes, features, lambda_block=0.7, lambda_element=element)
    z, y = standardised(codes, features)
    group = MultiTaskLasso(alpha=0.7, fit_intercept=False, tol=1e-10, max_iter=10_000).fit(z, y)
    assert not found.element.any()
    assert 0 < found.latent_selected.sum() < 5
    np.testing.assert_allclose(found.coef, group.coef_.T, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_without_blocks_it_is_the_lasso_of_scikit_learn(rng, norm):
    codes, features = table(rng)
    n_features = features.shape[1]
    block = 0.2 * (np.sqrt(n_features) if norm == "l2" else n_features)
    found = dbsr_ls(codes, features, lambda_block=block, lambda_element=0.2, norm=norm)
    z, y = standardised(codes, features)
    single = Lasso(alpha=0.2, fit_intercept=False, tol=1e-10, max_iter=10_000).fit(z, y)
    assert not found.block.any()
    assert 0 < (found.coef != 0).mean() < 0.5
    np.testing.assert_allclose(found.coef, single.coef_.T, atol=1e-5)


def test_elements_of_the_largest_norm_vanish_too_at_equal_penalties(rng):
    codes, features = table(rng)
    found = dbsr_ls(codes, features, lambda_block=1.0, lambda_element=1.0, norm="linf")
    assert found.block.any()
    assert not found.element.any()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("share", [0.05, 0.4])
def test_nothing_is_selected_exactly_from_the_first_penalty_on(rng, norm, share):
    codes, features = table(rng)
    first = dbsr_ls(codes, features, norm=norm, n_folds=2, n_lambdas=2, shares=(share,)).path.iloc[
        0
    ]
    z, y = standardised(codes, features)
    pull, ratio = z.T @ y / len(z), first["lambda_block"] / first["lambda_element"]
    assert ratio == pytest.approx(np.sqrt(share * 20) if norm == "l2" else share * 20)
    largest = max(np.abs(pull).max(), PENALTIES[norm].dual_norm(pull).max() / ratio)
    assert first["lambda_element"] == pytest.approx(largest, rel=1e-12)
    for factor, none in ((1, True), (1 - 1e-6, False)):
        penalties = {name: factor * first[name] for name in ("lambda_block", "lambda_element")}
        found = dbsr_ls(codes, features, norm=norm, **penalties)
        assert (not found.coef.any()) is none
        assert (not found.latent_selected.any()) is none


def test_warm_and_cold_starts_end_in_the_same_place(rng):
    codes, features = table(rng)
    total = moments_by_fold(codes, features, folds=np.zeros(150, dtype=int), covariates=None)[0]
    gram, cross = total.means()
    penalty = PENALTIES["l2"](0.4, 0.15)
    cold, _ = solve(gram, cross, penalty=penalty)
    warm, _ = solve(gram, cross, penalty=penalty, start=rng.standard_normal(cross.shape))
    np.testing.assert_allclose(warm, cold, atol=1e-5)


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array])
def test_sparse_features_give_what_dense_ones_give(rng, form):
    codes, features = counts(rng)
    batches = np.eye(3)[rng.integers(0, 3, len(codes))]
    options = SMALL_GRID | {"covariates": batches}
    found = dbsr_ls(codes, form(features), **options)
    expected = dbsr_ls(codes, features.toarray(), **options)
    np.testing.assert_allclose(found.path, expected.path, rtol=1e-9)
    np.testing.assert_allclose(found.coef, expected.coef, atol=1e-9)
    np.testing.assert_allclose(found.r2, expected.r2, atol=1e-9)


def test_sparse_features_are_never_made_dense(rng, monkeypatch):
    codes, features = counts(rng)

    def refuse(*_args, **_kwargs):
        pytest.fail("features were made dense")

    monkeypatch.setattr(sparse.csr_matrix, "toarray", refuse)
    monkeypatch.setattr(sparse.csr_matrix, "todense", refuse)
    assert dbsr_ls(codes, features, **SMALL_GRID).latent_selected[:2].all()


@pytest.mark.parametrize("as_sparse", [True, False])
def test_moments_of_folds_are_those_of_explicit_residuals(rng, monkeypatch, as_sparse):
    codes, features = counts(rng, n_cells=90)
    dense, folds = features.toarray(), rng.integers(0, 3, 90)
    batches = np.c_[np.eye(3)[rng.integers(0, 3, 90)], rng.standard_normal(90)]
    monkeypatch.setattr(moments_module, "CHUNK_VALUES", 200)  # several chunks for each fold
    given = features if as_sparse else dense
    found = moments_by_fold(codes, given, folds=folds, covariates=batches)
    line = LinearRegression()
    z = codes - line.fit(batches, codes).predict(batches)
    y = dense - line.fit(batches, dense).predict(batches)
    y = y / y.std(axis=0)
    coef = rng.standard_normal((4, 30))
    for fold, part in enumerate(found):
        z_part, y_part = z[folds == fold], y[folds == fold]
        assert part.n_cells == len(z_part)
        np.testing.assert_allclose(part.gram, z_part.T @ z_part, atol=1e-10)
        np.testing.assert_allclose(part.cross, z_part.T @ y_part, atol=1e-10)
        np.testing.assert_allclose(part.square, (y_part**2).sum(axis=0), atol=1e-10)
        left = ((y_part - z_part @ coef) ** 2).sum(axis=0)
        np.testing.assert_allclose(part.residual_squares(coef), left, atol=1e-9)


@pytest.mark.parametrize("debias", [True, False])
def test_cross_validation_is_that_of_an_explicit_loop(rng, debias):
    codes, features = table(rng)
    found = dbsr_ls(codes, features, debias=debias, **SMALL_GRID)
    folds = _assign_folds(150, groups=None, n_folds=3, seed=0)
    z, y = standardised(codes, features)

    def errors(row):
        for fold in range(3):
            z_in, y_in = z[folds != fold], y[folds != fold]
            penalty = PENALTIES["l2"](row["lambda_block"], row["lambda_element"])
            coef, _ = solve(z_in.T @ z_in / len(z_in), z_in.T @ y_in / len(z_in), penalty=penalty)
            for j in np.flatnonzero(coef.any(axis=0)) if debias else ():
                on = coef[:, j] != 0
                coef[on, j] = np.linalg.lstsq(z_in[:, on], y_in[:, j])[0]
            z_out, y_out = z[folds == fold], y[folds == fold]
            yield ((y_out - z_out @ coef) ** 2).sum() / (y_out**2).sum()

    best = np.array([*errors(found.path.loc[found.path["error"].idxmin()])])
    for _, row in found.path.iloc[[0, 2, 3, 8, 10]].iterrows():
        expected = np.array([*errors(row)])
        assert row["error"] == pytest.approx(expected.mean(), rel=1e-5)
        spread = (expected - best).std(ddof=1) / np.sqrt(3)
        assert row["standard_error"] == pytest.approx(spread, rel=1e-3, abs=1e-6)


def test_the_fewest_latents_within_one_standard_error_are_taken(rng):
    codes, features = table(rng)
    found = dbsr_ls(codes, features, n_lambdas=40, shares=(0.1, 0.4))
    path = found.path
    good = path[path["error"] <= path["error"].min() + path["standard_error"]]
    assert 1 < len(good) < len(path)
    (chosen,) = good[good["lambda_element"] == found.lambda_element].itertuples()
    assert chosen.lambda_block == found.lambda_block
    assert chosen.n_latent == good["n_latent"].min()
    assert chosen.error == good["error"][good["n_latent"] == chosen.n_latent].min()
    again = dbsr_ls(
        codes, features, lambda_block=found.lambda_block, lambda_element=found.lambda_element
    )
    np.testing.assert_allclose(again.coef, found.coef, rtol=1e-10)
    assert again.path.empty


def test_units_of_features_and_zero_of_codes_do_not_matter(rng):
    codes, features = table(rng)
    penalties = {"lambda_block": 0.5, "lambda_element": 0.15}
    found = dbsr_ls(codes, features, **penalties)
    scale, shift = rng.uniform(1e-3, 1e3, 20), rng.uniform(-1e4, 1e4, 20)
    moved = dbsr_ls(codes + 100, features * scale + shift, **penalties)
    np.testing.assert_allclose(moved.coef, found.coef, atol=1e-6)
    np.testing.assert_allclose(moved.r2, found.r2, atol=1e-6)
    far = dbsr_ls(codes, features / features.std(axis=0) + 1e7, **penalties)  # variance 1e-14 of it
    np.testing.assert_allclose(far.coef, found.coef, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_order_and_sign_of_latents_and_features_are_carried_through(rng, norm):
    codes, features = table(rng)
    penalties = {"lambda_block": 0.6, "lambda_element": 0.15, "norm": norm}
    found = dbsr_ls(codes, features, **penalties)
    rows, columns = rng.permutation(5), rng.permutation(20)
    sign = np.array([1, -1, 1, -1, -1])
    moved = dbsr_ls((codes * sign)[:, rows], -features[:, columns], **penalties)
    expected = -(found.coef * sign[:, None])[rows][:, columns]
    np.testing.assert_allclose(moved.coef, expected, atol=1e-5)


def test_covariates_are_regressed_out_of_both_sides(rng):
    codes, features = table(rng, n_cells=240)
    batches = np.eye(4)[rng.integers(0, 4, 240)]  # with the intercept one column too many
    shifted = codes + batches @ rng.normal(0, 3, (4, 5))
    moved = features + batches @ rng.normal(0, 30, (4, 20))
    line = LinearRegression()
    z = shifted - line.fit(batches, shifted).predict(batches)
    y = moved - line.fit(batches, moved).predict(batches)
    found = dbsr_ls(shifted, moved, covariates=batches, **SMALL_GRID)
    expected = dbsr_ls(z, y, **SMALL_GRID)
    np.testing.assert_allclose(found.path, expected.path, rtol=1e-8)
    np.testing.assert_allclose(found.coef, expected.coef, atol=1e-8)
    np.testing.assert_allclose(found.debiased, expected.debiased, atol=1e-8)
    clean = dbsr_ls(codes, features, covariates=batches, **SMALL_GRID)
    np.testing.assert_allclose(found.coef, clean.coef, atol=1e-8)


def test_debiased_effects_are_least_squares_on_the_support(rng):
    codes, features = table(rng)
    found = dbsr_ls(codes, features, lambda_block=1.0, lambda_element=0.25)
    z, y = standardised(codes, features)
    assert len(np.unique(found.coef != 0, axis=1).T) > 2
    for j in range(y.shape[1]):
        on = found.coef[:, j] != 0
        assert not found.debiased[~on, j].any()
        if on.any():
            line = LinearRegression().fit(z[:, on], y[:, j])
            np.testing.assert_allclose(found.debiased[on, j], line.coef_, atol=1e-9)
    np.testing.assert_array_equal(found.link_selected, np.abs(found.debiased) >= 0.1)
    shrunken = dbsr_ls(codes, features, lambda_block=1.0, lambda_element=0.25, debias=False)
    np.testing.assert_array_equal(shrunken.debiased, found.coef)


def test_explained_variance_is_that_of_the_residuals_and_never_negative(rng):
    codes, features = table(rng)
    found = dbsr_ls(codes, features, lambda_block=0.5, lambda_element=0.15)
    z, y = standardised(codes, features)
    np.testing.assert_allclose(found.r2, 1 - (y - z @ found.debiased).var(axis=0), atol=1e-10)
    for norm in NORMS:
        options = {"norm": norm, "debias": False}
        path = [
            dbsr_ls(codes, features, lambda_block=3 * e, lambda_element=e, **options)
            for e in (0.4, 0.2, 0.1, 0.01)
        ]
        means = [each.r2.mean() for each in path]
        assert (np.diff(means) > 0).all()
        assert min(each.r2.min() for each in path) >= -1e-12


def test_constant_features_are_reported_and_change_nothing_else(rng):
    codes, features = counts(rng)
    batches = np.eye(2)[np.arange(200) % 2]
    silent = np.c_[np.zeros(200), np.full(200, 0.1), batches[:, 0]]
    options = {"lambda_block": 0.5, "lambda_element": 0.1, "covariates": batches}
    expected = dbsr_ls(codes, features, **options)
    for form in (sparse.csr_matrix, np.asarray):
        found = dbsr_ls(codes, form(np.c_[features.toarray(), silent]), **options)
        np.testing.assert_array_equal(np.flatnonzero(found.constant), [30, 31, 32])
        assert not found.coef[:, 30:].any()
        assert not found.link_selected[:, 30:].any()
        assert np.isnan(found.r2[30:]).all()
        np.testing.assert_allclose(found.coef[:, :30], expected.coef, atol=1e-9)


def test_a_collapsed_latent_is_neither_divided_nor_selected(rng):
    codes, features = table(rng)
    collapsed = np.c_[codes, np.full(150, 2.0), 1e-8 * features[:, 0]]
    found = dbsr_ls(collapsed, features, **SMALL_GRID)
    assert not found.latent_selected[5:].any()
    np.testing.assert_allclose(found.coef[:5], dbsr_ls(codes, features, **SMALL_GRID).coef)


def test_a_duplicated_latent_does_not_change_the_fit(rng):
    codes, features = table(rng)
    penalties = {"lambda_block": 0.5, "lambda_element": 0.15}
    found = dbsr_ls(codes, features, **penalties)
    twice = dbsr_ls(np.c_[codes, codes[:, 0]], features, **penalties)
    assert twice.objective == pytest.approx(found.objective, rel=1e-6)


def test_folds_hold_whole_groups(rng):
    groups = np.array(list("abcdefg"))[rng.integers(0, 7, 500)]
    folds = _assign_folds(500, groups=groups, n_folds=5, seed=0)
    assert set(folds) == set(range(5))
    assert all(len(set(folds[groups == name])) == 1 for name in "abcdefg")
    few = _assign_folds(500, groups=groups == "a", n_folds=5, seed=0)
    assert set(few) == {0, 1}
    loose = _assign_folds(500, groups=None, n_folds=5, seed=1)
    assert set(np.bincount(loose)) == {100}
    assert (loose != _assign_folds(500, groups=None, n_folds=5, seed=2)).any()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_effects_that_differ_between_donors_do_not_pass_across_donors(seed):
    """Each donor has effects of its own: what was learnt of some says nothing of another."""
    rng = np.random.default_rng(seed)
    donor, codes = np.repeat(np.arange(6), 100), rng.standard_normal((600, 3))
    effects = rng.standard_normal((6, 3, 30))
    features = np.einsum("ik,ikj->ij", codes, effects[donor]) + rng.standard_normal((600, 30))
    loose = dbsr_ls(codes, features, **SMALL_GRID)
    strict = dbsr_ls(codes, features, groups=donor, **(SMALL_GRID | {"n_folds": 6}))
    assert loose.latent_selected.all()
    assert not strict.latent_selected.any()


def planted(seed, n_cells=2_000, n_features=150):
    """Four latents of many features, one of a single feature, five of none."""
    rng = np.random.default_rng(seed)
    shape = (10, n_features)
    effects = rng.uniform(0.3, 0.8, shape) * rng.choice([-1, 1], shape)
    effects = np.where(rng.random(shape) < 0.3, effects, 0)
    effects[4:] = 0
    effects[4, 7] = 1.5
    codes = rng.standard_normal((n_cells, 10))
    return codes, codes @ effects + rng.standard_normal((n_cells, n_features)), effects


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_planted_latents_and_links_are_found(seed, norm):
    codes, features, effects = planted(seed)
    found = dbsr_ls(codes, features, norm=norm, n_lambdas=20)
    truth, called = effects != 0, found.link_selected
    np.testing.assert_array_equal(found.latent_selected, truth.any(axis=1))
    assert (called & ~truth).sum() / called.sum() < 0.01
    assert called[truth].mean() > 0.98
    debiased = found.debiased * features.std(axis=0)
    np.testing.assert_allclose(debiased[called & truth], effects[called & truth], atol=0.12)


def test_the_support_of_a_block_is_no_list_of_links_but_its_debiased_effects_are():
    codes, features, effects = planted(0)
    found = dbsr_ls(codes, features, lambda_block=1.0, lambda_element=0.4)
    truth = effects != 0
    np.testing.assert_array_equal(found.latent_selected, truth.any(axis=1))
    assert (found.coef != 0)[:4].all()
    np.testing.assert_array_equal(found.link_selected[:4], truth[:4])


def test_shrunken_errors_let_noise_select_latents_and_debiased_ones_do_not():
    codes, features, _ = planted(1, n_features=60)
    wide = np.c_[codes, np.random.default_rng(9).standard_normal((2_000, 10))]
    shrunken = dbsr_ls(wide, features, debias=False, n_lambdas=20, shares=(0.4,))
    debiased = dbsr_ls(wide, features, n_lambdas=20, shares=(0.4,))
    assert shrunken.latent_selected[5:].sum() > 5
    assert not debiased.latent_selected[5:].any()


def test_noise_selects_nothing(rng):
    for _ in range(3):
        codes, features = rng.standard_normal((400, 6)), rng.standard_normal((400, 50))
        found = dbsr_ls(codes, features, **SMALL_GRID)
        assert not found.latent_selected.any()
        assert not found.link_selected.any()
        assert found.r2.max() == 0


def test_bad_input_is_refused(rng):
    codes, features = table(rng)
    both = {"lambda_block": 1.0, "lambda_element": 1.0}
    with pytest.raises(InputDataError, match=r"\(149, 20\)"):
        dbsr_ls(codes, features[1:])
    with pytest.raises(OptionError, match="both, or neither"):
        dbsr_ls(codes, features, lambda_block=1.0)
    with pytest.raises(OptionError, match="positive"):
        dbsr_ls(codes, features, lambda_block=1.0, lambda_element=0.0)
    with pytest.raises(OptionError, match="'l2', 'linf'"):
        dbsr_ls(codes, features, norm="l1", **both)
    with pytest.raises(OptionError, match="1 groups"):
        dbsr_ls(codes, features, groups=np.zeros(150))
    with pytest.raises(OptionError, match="n_folds=1"):
        dbsr_ls(codes, features, n_folds=1)
    with pytest.raises(OptionError, match="shares"):
        dbsr_ls(codes, features, shares=(0.0,))
    with pytest.raises(InputDataError, match="covariates"):
        dbsr_ls(codes, features, covariates=np.zeros(150), **both)
    with pytest.raises(InputDataError, match="No feature varies"):
        dbsr_ls(codes, np.ones((150, 3)), **both)
    with pytest.raises(InputDataError, match="Codes do not vary"):
        dbsr_ls(np.ones((150, 2)), features)
    for value in (np.nan, np.inf):
        broken = features.copy()
        broken[3, [2, 5]] = value
        for form in (np.asarray, sparse.csr_matrix):
            with pytest.raises(InputDataError, match="2 features hold NaN"):
                dbsr_ls(codes, form(broken), **both)
