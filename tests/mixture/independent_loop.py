"""The Gaussian-mixture task as a plain loop in float64: NumPy, scikit-learn, nothing of synthjax.

The definitions are read again and done the long way: a covariance matrix and normals that have it,
directions placed in it, accuracy by a sampled test set, training sets as long as what is in them.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge

N, D, T, TESTS = 400, 20, 3, 1000
SIGNAL = 1.3
MEASURED = ("accuracy", "test_accuracy", "overlap", "norm", "p_hat", "phi_hat", "psi_hat", "kept")


def trajectories(way, count, seed):
    """MEASURED by name, [trajectory, generation], of the setting `way` (names as in a spec).

    scikit-learn fits every fourth trajectory: a call of it costs more than all the rest.
    """
    rng, world = np.random.default_rng(seed), World(way)
    rows = [one_trajectory(rng, way, world, scikit=i % 4 == 0) for i in range(count)]
    return dict(zip(MEASURED, np.moveaxis(np.array(rows), 2, 0), strict=True))


def sign(z):
    return np.where(z >= 0, 1.0, -1.0)


def orthonormal(columns):
    """Gram and Schmidt: what QR does, with a positive diagonal of R."""
    axes = np.zeros_like(columns)
    for j, column in enumerate(columns.T):
        for _ in range(2):  # the second time for rounding
            column = column - axes @ (axes.T @ column)
        axes[:, j] = column / np.linalg.norm(column)
    return axes


class World:
    """Σ and what is placed in it."""

    def __init__(self, way):
        axes, eigenvalues = np.eye(D), np.ones(D)
        if way["covariance"] == "dense":
            axes = orthonormal(np.random.default_rng(D).standard_normal((D, D)))
        if way["covariance"] != "isotropic":
            eigenvalues = np.arange(1.0, D + 1) ** -way["covariance_decay"]
            eigenvalues /= eigenvalues.mean()
        self.features = way["features"]
        self.sigma = axes @ np.diag(eigenvalues) @ axes.T
        self.factor = np.linalg.cholesky(self.sigma)
        self.mean = SIGNAL * (axes @ np.diag(eigenvalues**0.5) @ axes.T)[0]
        self.basis = axes @ np.diag(eigenvalues**-0.5) @ axes.T  # columns are Σ-orthonormal
        self.truth = self.direction(1.0)

    def direction(self, *coordinates):
        return self.basis[:, : len(coordinates)] @ coordinates

    def draw(self, rng, n):
        x = rng.standard_normal((n, D)) @ self.factor.T
        if self.features == "teacher":
            return x, sign(x @ self.truth)
        y = rng.choice([-1.0, 1.0], n)
        return x + y[:, None] * self.mean, y


def learn(way, x, labels, scikit):
    """The minimiser, by scikit-learn or, ten times as fast at this size, by Newton's method."""
    m, l2 = len(labels), way["l2"]
    if scikit and way["learner"] == "ridge":
        return Ridge(alpha=l2 * m, fit_intercept=False, solver="cholesky").fit(x, labels).coef_
    if scikit:
        model = LogisticRegression(
            C=1 / (l2 * m), fit_intercept=False, solver="newton-cholesky", tol=1e-8
        )
        return model.fit(x, labels).coef_[0]
    if way["learner"] == "ridge":
        return np.linalg.solve(x.T @ x / m + l2 * np.eye(D), x.T @ labels / m)
    w = np.zeros(D)
    for _ in range(20):
        doubt = 1 / (1 + np.exp(labels * (x @ w)))
        gradient = l2 * w - (labels * doubt) @ x / m
        if np.linalg.norm(gradient) < 1e-8:
            return w
        hessian = (x.T * (doubt * (1 - doubt))) @ x / m + l2 * np.eye(D)
        w = w - np.linalg.solve(hessian, gradient)
    raise AssertionError("Newton's method did not converge")


def guess(rng, way, x, y, w):
    if way["generator"] == "logistic":
        return np.where(rng.random(len(y)) < 1 / (1 + np.exp(-x @ w / way["temperature"])), 1, -1)
    if w is not None:
        return sign(x @ w)
    if way["generator"] == "flip":
        return np.where(rng.random(len(y)) < way["p"], -y, y)
    return np.where(rng.random(len(y)) < np.where(y > 0, way["p_plus"], way["p_minus"]), -y, y)


def score(rng, way, world, x, y, guesses, w):
    verifier = way["verifier"]
    if verifier == "none":
        return np.ones(len(y))
    if verifier == "oracle":
        return guesses == y
    if verifier == "noisy":
        return rng.random(len(y)) < np.where(guesses == y, way["phi"], way["psi"])
    if verifier == "noisy_by_class":
        phi = np.where(y > 0, way["phi_plus"], way["phi_minus"])
        psi = np.where(y > 0, way["psi_plus"], way["psi_minus"])
        return rng.random(len(y)) < np.where(guesses == y, phi, psi)
    if verifier == "self":
        return guesses * (x @ w)
    b, rho = way["theta_ver"], way.get("error_correlation", 0.0)
    v = world.direction(np.cos(b), np.sin(b) * rho, np.sin(b) * np.sqrt(1 - rho**2))
    return guesses * (x @ v) if verifier == "margin" else guesses == sign(x @ v)


def select(rng, way, scores):
    """Which of the guesses [k, n] are kept."""
    if way["selection"] == "best_of_k":
        best = np.where(scores == scores.max(0), rng.random(scores.shape), -1.0).argmax(0)
        return np.arange(len(scores))[:, None] == best
    if way["verifier"] not in ("margin", "self"):
        return scores > 0
    count = max(1, round(way["keep"] * scores.size))
    kept = np.zeros(scores.shape, bool)
    kept[0, np.argsort(-scores[0])[:count]] = True
    return kept


def training_set(rng, way, new, past):
    """`new`, and the past as the regime has it; `past` takes up what is new."""
    if way["regime"] in ("replace", "mix"):
        return new
    past.append(new)
    x, labels = (np.concatenate(part) for part in zip(*past, strict=True))
    if way["regime"] == "subsample":
        chosen = rng.permutation(len(labels))[:N]
        x, labels = x[chosen], labels[chosen]
    return x, labels


def one_trajectory(rng, way, world, scikit):
    """Rows of MEASURED for generations 0 … T."""
    tests, truth = world.draw(rng, TESTS)
    best = sign(tests @ world.truth)

    def measure(w, rates=(np.nan,) * 4):
        labels, size = sign(tests @ w), np.sqrt(w @ world.sigma @ w)
        overlap = w @ world.sigma @ world.truth / size
        return [np.mean(labels == best), np.mean(labels == truth), overlap, size, *rates]

    w, past = None, []
    if way["generator"].startswith("flip"):
        wrong = way["p"] if way["generator"] == "flip" else (way["p_plus"] + way["p_minus"]) / 2
        rows = [[1 - wrong] * 2 + [np.nan] * 6]
    elif way["initial"] == "real":
        real = world.draw(rng, way["n_real"])
        w = learn(way, *real, scikit)
        rows = [measure(w)]
        if not way.get("forgets_real"):
            past.append(real)
    else:
        w = world.direction(np.cos(way["theta_gen"]), np.sin(way["theta_gen"]))
        rows = [measure(w)]
    for _ in range(T):
        x, y = world.draw(rng, N)
        real = round(way["real_fraction"] * N) if way["regime"] == "mix" else 0
        (fresh, x), (truths, y) = np.split(x, [real]), np.split(y, [real])
        k = way["k"] if way["selection"] == "best_of_k" else 1
        guesses = np.array([guess(rng, way, x, y, w) for _ in range(k)])
        scores = np.array([score(rng, way, world, x, y, one, w) for one in guesses])
        kept, right = select(rng, way, scores), guesses == y
        j, i = np.nonzero(kept)
        new = np.concatenate([fresh, x[i]]), np.concatenate([truths, guesses[j, i]])
        w = learn(way, *training_set(rng, way, new, past), scikit)
        rates = np.mean(~right), kept[right].mean(), kept[~right].mean(), kept.mean()
        rows.append(measure(w, rates))
    return rows
