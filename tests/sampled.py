"""The population limit by brute force: the definitions, over a dense sample of features.

Points z are a scrambled Sobol sequence and its mirror image, so the error is some 1e-4 in accuracy
instead of the 1e-3 of as many independent draws. Everything else that is random (y, y′, verdicts,
the order of ties) is enumerated, with its probability as a weight.
"""

import itertools
from functools import cache, partial

import jax
import numpy as np
from scipy.special import expit
from scipy.stats import multivariate_normal, norm, qmc
from sklearn.linear_model import LogisticRegression

from synthjax.mixture.covariance import COVARIANCES, rotation
from synthjax.mixture.population import Population, population
from synthjax.mixture.theory import place

KINDS = dict(
    features="teacher",
    covariance="isotropic",
    initial="angle",
    generator="linear",
    verifier="linear",
    selection="prune",
    regime="replace",
    learner="ridge",
)
VALUES = dict(
    signal=1.2,
    covariance_decay=1.3,
    n=1000,
    n_real=600,
    k=3,
    theta_gen=0.9,
    p=0.3,
    p_plus=0.15,
    p_minus=0.4,
    temperature=0.4,
    phi=0.8,
    psi=0.3,
    phi_plus=0.9,
    phi_minus=0.6,
    psi_plus=0.2,
    psi_minus=0.45,
    theta_ver=0.7,
    error_correlation=0.3,
    keep=0.4,
    real_fraction=0.25,
    l2=0.05,
)


@cache
def jitted(**settings):
    return jax.jit(partial(population, **settings))


def limit(generations=2, d=3, **changes):
    """`population` at KINDS and VALUES but for `changes`, stacked over the array values.

    Point by point, so that a combination of kinds compiles once for all tests.
    """
    kinds = {name: changes.pop(name, value) for name, value in KINDS.items()}
    names, values = zip(*(VALUES | changes).items(), strict=True)
    values = np.broadcast_arrays(*values)
    call = jitted(**kinds, generations=generations, d=d)
    integers = ("n", "n_real", "k")
    results = [
        call(
            **{
                name: np.int32(value) if name in integers else np.float32(value)
                for name, value in zip(names, point, strict=True)
            }
        )
        for point in zip(*(value.ravel() for value in values), strict=True)
    ]
    accuracy, p_star = (
        np.reshape(x, (*values[0].shape[: values[0].ndim], -1)) for x in zip(*results, strict=True)
    )
    return Population(accuracy, p_star)


def unit(x):
    return x / np.linalg.norm(x)


def exact_agreement(angle, features, signal):
    """P(sign(w·x) = sign(w*·x)) from scipy's bivariate normal orthants."""
    if features == "teacher":
        return 1 - angle / np.pi
    mean, cosine = signal * np.array([1, np.cos(angle)]), np.cos(angle)
    cov = [[1, cosine], [cosine, 1]]
    return sum(
        multivariate_normal.cdf(
            side * mean, np.zeros(2), cov, allow_singular=True, abseps=1e-9, releps=0
        )
        for side in (1, -1)
    )


def sobol_normals(log_points, d=3, seed=0):
    """2^log_points standard normal vectors in R^d and their negatives."""
    uniform = qmc.Sobol(d, seed=seed).random_base2(log_points)
    z = norm.ppf(np.clip(uniform, 1e-12, 1 - 1e-12))
    return np.concatenate([z, -z])


def brute_force(log_points, *, generations=2, d=3, **changes):
    """Accuracy and p* of every generation."""
    kinds = {name: changes.pop(name, value) for name, value in KINDS.items()}
    values = VALUES | changes
    axes = rotation(d) if kinds["covariance"] == "dense" else None
    root = COVARIANCES[kinds["covariance"]].call(values["covariance_decay"], d, axes).root
    root = np.eye(d) if root is None else np.asarray(root, float)
    root = np.diag(root) if root.ndim == 1 else root
    g, v = (
        np.pad(np.asarray(u, float), (0, d - 3))
        for u in place(values["theta_gen"], values["theta_ver"], values["error_correlation"])[1:]
    )
    z = sobol_normals(log_points, d)
    if kinds["features"] == "teacher":
        y = np.sign(z[:, 0])
    else:
        y = np.repeat([1.0, -1.0], len(z))
        z = np.concatenate([z, z])
        z[:, 0] += values["signal"] * y
    x = z @ root
    real = x, y, np.full(len(y), 1 / len(y))

    def accuracy(w):
        angle = np.arccos(np.clip(unit(root @ w)[0], -1, 1))
        return exact_agreement(angle, kinds["features"], values["signal"])

    flips = kinds["generator"].startswith("flip")
    pools = kinds["regime"] in ("accumulate", "subsample")
    past = []
    if flips:
        w = None
        wrong = {"flip": ["p", "p"], "flip_by_class": ["p_plus", "p_minus"]}[kinds["generator"]]
        records = [(1 - np.mean([values[name] for name in wrong]), np.nan)]
    else:
        w = np.linalg.solve(root, g)
        if kinds["initial"] == "real":
            w = fitted([real], kinds["learner"], values["l2"])
            past = [(*real[:2], real[2] * values["n_real"] / values["n"])] * pools
        records = [(accuracy(w), np.nan)]
    for t in range(1, generations + 1):
        if flips and t == 1:
            mislabelled = np.where(y > 0, values[wrong[0]], values[wrong[1]])
            plus = np.where(y > 0, 1 - mislabelled, mislabelled)
        elif kinds["generator"] == "logistic":
            plus = expit(x @ w / values["temperature"])
        else:
            plus = 1.0 * (x @ w > 0)
        score = {"margin": z @ v, "linear": np.sign(z @ v)}.get(kinds["verifier"])
        if kinds["verifier"] == "self":
            score = x @ w
        select = pruned if kinds["selection"] == "prune" else best_of_k
        kept, right = select(kinds["verifier"], values, y, plus, score)
        kept /= len(y)
        labels = np.array([[1.0], [-1.0]])
        with np.errstate(invalid="ignore"):  # nothing wrong: ψ is unknown
            phi = kept[labels == y].sum() / right.mean()
            psi = kept[labels != y].sum() / (1 - right).mean()
        new = np.concatenate([x, x]), np.repeat(labels[:, 0], len(y)), kept.ravel()
        sources = [new]
        if kinds["regime"] == "mix":
            f = values["real_fraction"]
            sources = [(*real[:2], f * real[2]), (*new[:2], (1 - f) * new[2])]
        elif pools:
            sources = past = [*past, new]
        w = fitted(sources, kinds["learner"], values["l2"])
        records.append((accuracy(w), phi / (phi + psi)))
    return np.transpose(records)


def rates(verifier, values):
    """P(a verdict is 1) as [right], [class]: φ₊, φ₋ and ψ₊, ψ₋."""
    names = ("phi_plus", "phi_minus", "psi_plus", "psi_minus")
    if verifier == "noisy":
        names = ("phi", "phi", "psi", "psi")
    return {"none": [1, 1, 1, 1], "oracle": [1, 1, 0, 0]}.get(
        verifier, [values[name] for name in names]
    )


def verdict_chance(verifier, values, y, label):
    phi_plus, phi_minus, psi_plus, psi_minus = rates(verifier, values)
    return np.where(
        y == label, np.where(y > 0, phi_plus, phi_minus), np.where(y > 0, psi_plus, psi_minus)
    )


def pruned(verifier, values, y, plus, score):
    """P(labelled so, and kept) [label 1 or −1, example], and P(right)."""
    chance = np.stack([plus, 1 - plus])
    if verifier in ("margin", "self"):
        scores = np.stack([score, -score])
        order = np.argsort(-scores.ravel())
        top = np.cumsum(chance.ravel()[order]) <= values["keep"] * len(y)
        keep = np.zeros(chance.size)
        keep[order[top]] = 1
        keep = keep.reshape(chance.shape)
    elif verifier == "linear":
        keep = np.stack([score > 0, score < 0])
    else:
        keep = np.stack([verdict_chance(verifier, values, y, label) for label in (1, -1)])
    return chance * keep, np.where(y > 0, plus, 1 - plus)


def best_of_k(verifier, values, y, plus, score):
    """The same for k draws, of which the best is kept: every pattern of labels and verdicts."""
    k = values["k"]
    kept = np.zeros((2, len(y)))
    for labels in itertools.product([1, -1], repeat=k):
        chance = np.prod([plus if label > 0 else 1 - plus for label in labels], axis=0)
        for verdicts in itertools.product([1, 0], repeat=k):
            weight = chance
            if score is not None:  # no chance in it
                if not all(verdicts):
                    continue
                scores = np.stack([label * score for label in labels])
            else:
                scores = np.tile(np.array(verdicts)[:, None], len(y))
                for label, verdict in zip(labels, verdicts, strict=True):
                    accepts = verdict_chance(verifier, values, y, label)
                    weight = weight * (accepts if verdict else 1 - accepts)
            best = scores == scores.max(0)
            for row, label in enumerate((1, -1)):
                share = (best & (np.array(labels)[:, None] == label)).sum(0) / best.sum(0)
                kept[row] += weight * share
    return kept, np.where(y > 0, plus, 1 - plus)


def fitted(sources, learner, l2):
    """The minimiser over (features, labels, weights) of all sources together."""
    x, labels, weights = (np.concatenate(part) for part in zip(*sources, strict=True))
    x, labels, weights = (part[weights > 0] for part in (x, labels, weights))
    weights = weights / weights.sum()
    if learner == "ridge":
        second = (x * weights[:, None]).T @ x
        return np.linalg.solve(second + l2 * np.eye(x.shape[1]), (weights * labels) @ x)
    # scikit-learn minimises C·Σ weight·loss + ‖w‖²/2.
    model = LogisticRegression(C=1 / l2, fit_intercept=False, solver="newton-cholesky", tol=1e-9)
    return model.fit(x, labels, sample_weight=weights).coef_[0]


def assert_same(found, wanted, tolerance=2e-5):
    """Equal pytrees; floats to `tolerance` of the larger of 1 and the value."""
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)
