"""Writes eval.safetensors: the figures of crates/eval by numpy and scipy, in f64, for crates/eval/tests/figures.rs.

Needs torch, safetensors, numpy and scipy. The features are not saved: the test draws them again from the same seed.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from scipy import linalg
from scipy.spatial.distance import cdist

# name, images of either set, features; the last covariances are singular
CASES = [("full", 700, 500, 48), ("wide", 300, 260, 96), ("singular", 60, 80, 96)]
SUBSETS, SIZE = 7, 100
out = {}


def features(n, d, shift):
    """Correlated features that are not Gaussian, of whole multiples of 2^-12, exact in f32."""
    x = torch.randn(n, d)
    x[:, 1:] += 0.5 * x[:, :-1]
    x = torch.round((x * x.sign().clamp(min=-0.2) + shift) * 4096) / 4096
    return x.float()


def frechet(a, b):
    """As pytorch-fid's calculate_frechet_distance, but by the eigenvalues of the product, which are real."""
    means = a.mean(0) - b.mean(0)
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    roots = np.sqrt(np.clip(linalg.eigvals(ca @ cb).real, 0, None)).sum()
    return means @ means + np.trace(ca) + np.trace(cb) - 2 * roots


def frechet_sqrtm(a, b):
    """pytorch-fid's formula to the letter, without its 1e-6 on the diagonal."""
    means = a.mean(0) - b.mean(0)
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(ca @ cb)
    return means @ means + np.trace(ca) + np.trace(cb) - 2 * np.trace(root.real)


def discrepancy(a, b):
    """Unbiased, as torch-fidelity's polynomial_mmd with mmd_est='unbiased'."""
    kernel = lambda x, y: (x @ y.T / x.shape[1] + 1) ** 3
    kaa, kbb, kab, m = kernel(a, a), kernel(b, b), kernel(a, b), len(a)
    return ((kaa.sum() - np.trace(kaa)) + (kbb.sum() - np.trace(kbb))) / (m * (m - 1)) - 2 * kab.sum() / m**2


def precision_recall(real, fake, k=3):
    """Kynkäänniemi et al. 2019, algorithm 1."""
    radius = lambda x: np.sort(cdist(x, x), axis=1)[:, k]  # the nearest is the point itself
    distance = cdist(fake, real)
    precision = (distance <= radius(real)[None, :]).any(1).mean()
    recall = (distance.T <= radius(fake)[None, :]).any(1).mean()
    return precision, recall


for name, n, m, d in CASES:
    torch.manual_seed(11)
    a, b = features(n, d, 0.0).double().numpy(), features(m, d, 0.3).double().numpy()
    distances = [frechet(a, b)]
    if name == "full":
        distances.append(frechet_sqrtm(a, b))
        assert abs(distances[0] - distances[1]) < 1e-6 * distances[0], distances
    torch.manual_seed(5)
    size = min(SIZE, len(a) // 2, len(b) // 2)
    mmds = []
    for _ in range(SUBSETS):
        chosen_a, chosen_b = torch.randperm(len(a))[:size].numpy(), torch.randperm(len(b))[:size].numpy()
        mmds.append(discrepancy(a[chosen_a], b[chosen_b]))
    between = cdist(b, a)
    nearest = np.argsort(between, axis=1, kind="stable")[:, :3]
    tensor = lambda x: torch.tensor(np.asarray(x, dtype=np.float64))
    out[f"{name}.frechet"] = tensor([distances[0], frechet(a, a)])
    out[f"{name}.kid"] = tensor([np.mean(mmds), np.std(mmds)])
    out[f"{name}.precision_recall"] = tensor(precision_recall(a, b))
    out[f"{name}.nearest"] = torch.tensor(nearest[:20].astype(np.int64))
    out[f"{name}.nearest_distance"] = tensor(np.take_along_axis(between, nearest, 1)[:20])

metadata = {"torch": torch.__version__, "numpy": np.__version__}
save_file(out, Path(__file__).with_suffix(".safetensors"), metadata=metadata)
