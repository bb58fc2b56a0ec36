"""torch's CPU random numbers, for crates/rng: writes rng.safetensors.

Each seed is one stream of steps: one tensor per step, named `seed/step/operation/arguments`, drawn in the order of the
names. Long results are kept as the SHA-256 of their bytes (32 of type u8), with their first values under the same name
and `/head`.
"""

import argparse
import hashlib
import pathlib

import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader

SEEDS = [0, 1, 42, 2**32 + 5, -1]
SIZES = [1, 15, 16, 17, 31, 32, 100, 1000]
LARGE = [100_000, 100_003]  # a multiple of 16, and one that is not
SHORT = 100  # values kept as they are
# Ranges of few floats, where draws round to the upper bound.
EDGES = [
    (1.0, 1.0000001),
    (16777216.0, 16777217.0),
    (16777216.0, 16777218.0),
    (-1.0000001, -1.0),
    (-1.0, -0.9999999),
    (0.0, 1e-45),
    (-1e-40, 1e-40),
    (3.0, 3.0000005),
    (0.1, 0.10000001),
    (-3e38, 0.0),
]


def strided_randn(n):
    return torch.empty(n, 2)[:, 0].normal_().contiguous()


def dataloader(n):
    return torch.cat(list(DataLoader(range(n), batch_size=128, shuffle=True)))


OPERATIONS = {
    "rand": torch.rand,
    "rand_f64": lambda n: torch.rand(n, dtype=torch.float64),
    "uniform": lambda n, a, b: torch.empty(n).uniform_(a, b),
    "randn": torch.randn,
    "randn_f64": lambda n: torch.randn(n, dtype=torch.float64),
    "randn_strided": strided_randn,
    "normal": lambda n, mean, std: torch.empty(n).normal_(mean, std),
    "randint": lambda n, low, high: torch.randint(low, high, (n,)),
    "random": lambda: torch.empty((), dtype=torch.int64).random_().reshape(1),
    "randperm": torch.randperm,
    "bernoulli": lambda n, p: torch.empty(n).bernoulli_(p).to(torch.uint8),
    "bernoulli_tensor": lambda n: torch.bernoulli(torch.arange(n, dtype=torch.float32) / n).to(torch.uint8),
    "dataloader": dataloader,
    "state": torch.get_rng_state,
    "resume": torch.get_rng_state,  # the reader continues from these bytes, so all are kept
}


def program():
    """The draws of each seed's stream, in order."""
    yield "state",
    for n in [5, *SIZES, *LARGE]:  # 5: leaves a cached normal, which the draws in between must not use
        yield "randn", n
        yield "rand", n
        yield "randn_strided", n
        yield "rand_f64", n
        yield "randn_f64", n
        yield "uniform", n, -0.123, 0.456
        yield "normal", n, 0.3, 1.7
    for bounds in [(0.1, 0.7), (-1e-3, 1e3), (2.0, 2.0), (-0.2, 0.2)]:
        yield "uniform", 1000, *bounds
    yield "randn", 1  # from here on a normal is cached
    yield "state",
    for high in [2, 1000, 2**28 - 1, 2**28, 2**28 + 1, 2**32 - 1, 2**32, 2**40 + 7]:
        yield "randint", 1000, 0, high
    yield "randint", 1000, -(2**28), -5
    yield "randint", 1000, -(2**63), 2**63 - 1
    yield "random",
    for p in [0.0, 0.5, 0.123456789, 1.0]:
        yield "bernoulli", 1000, p
    yield "bernoulli_tensor", 1000
    for n in [0, *SIZES, *LARGE]:
        yield "randperm", n
    yield "resume",
    yield "randn", 2  # the cached one, then a fresh one
    for n in [1, 128, 300, 18_435]:
        yield "dataloader", n
    for n in [620, 1, 1, 1, 1]:  # across the end of a block of 624, state by state
        yield "rand", n
        yield "state",
    yield "rand", 3
    yield "resume",
    yield "randn", 100_000
    for bounds in EDGES:
        yield "uniform", 1000, *bounds
    for mean, std in [(5.0, 0.0), (0.0, 1e38), (0.0, 3e38), (3e38, 1e38), (1e30, 1e-30), (0.0, 1e-42), (0.0, 1e300)]:
        yield "normal", 5, mean, std
        yield "normal", 67, mean, std
    for low, high in [(0, 1), (-5, 2**28 - 5), (-(2**62), 2**62)]:
        yield "randint", 1000, low, high
    for p in [1e-300, 1 - 1e-16]:
        yield "bernoulli", 1000, p
    yield "randperm", 2


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", help="not used: every script here takes it")
    parser.parse_args()

    tensors = {}
    for seed in SEEDS:
        torch.manual_seed(seed)
        for step, (operation, *arguments) in enumerate(program()):
            name = f"{seed % 2**64}/{step:03}/{operation}/{','.join(map(str, arguments))}"
            values = OPERATIONS[operation](*arguments)
            if len(values) > SHORT and operation != "resume":
                digest = hashlib.sha256(values.numpy().tobytes()).digest()
                tensors[name + "/head"] = values[:16].clone()
                values = torch.frombuffer(bytearray(digest), dtype=torch.uint8)
            tensors[name] = values
    save_file(tensors, pathlib.Path(__file__).parent / "rng.safetensors", {"torch": torch.__version__})


if __name__ == "__main__":
    main()
