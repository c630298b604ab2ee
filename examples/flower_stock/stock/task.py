"""The task: logistic regression on synthetic patients, in numpy."""

import numpy as np

FEATURES = 5


def make_initial() -> dict[str, np.ndarray]:
    """Return the model before training, float32."""
    return {"weight": np.zeros(FEATURES, np.float32), "bias": np.zeros(1, np.float32)}


def load_data(partition: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of one hospital, [N, 5], and their labels, [N]."""
    rng = np.random.default_rng(partition)
    x = rng.normal(size=(100 + 20 * partition, FEATURES))
    return x, (x @ np.arange(1, FEATURES + 1) + rng.normal(size=len(x)) > 0).astype(float)


def predict(model: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Return the probabilities, [N]."""
    return 1 / (1 + np.exp(-(x @ model["weight"] + model["bias"])))


def fit(model: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray, steps: int = 20) -> dict[str, np.ndarray]:
    """Return the model after some steps of gradient descent."""
    weight, bias = model["weight"].astype(float), model["bias"].astype(float)
    for _ in range(steps):
        error = predict({"weight": weight, "bias": bias}, x) - y
        weight, bias = weight - 0.5 * error @ x / len(x), bias - 0.5 * error.mean()
    return {"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)}


def compute_loss(model: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> float:
    """Return the mean cross-entropy."""
    p = np.clip(predict(model, x), 1e-6, 1 - 1e-6)
    return float(-(y * np.log(p) + (1 - y) * np.log(1 - p)).mean())


def compute_accuracy(model: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> float:
    """Return the share of right predictions."""
    return float(((predict(model, x) > 0.5) == y).mean())
