"""The numbers of torch's CUDA generator, for crates/rng: writes cuda_rng.safetensors.

There is no card: cuRAND's own device code (curand_kernel.h of the CUDA toolkit) is compiled for the processor, and runs
thread by thread in the order of torch's kernel (ATen/native/cuda/DistributionTemplates.h). Sine and cosine are then
those of the C library; a card computes them in hardware, at lower precision.

Each stream of steps has a card (multiprocessors x threads on each), small enough that few numbers show the order of
many, and a seed: one tensor per step, named `multiprocessors,threads/seed/step/operation/arguments`. Of uniform values
and integers, which are exact, it is the SHA-256 of their bytes.

It needs g++ for x86-64 with FMA, and the headers of cuRAND: in $CUDA_HOME/include, or of the wheels nvidia-curand,
nvidia-cuda-runtime and nvidia-cuda-cccl. Without them it says so and leaves the file.
"""

import argparse
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
from safetensors.numpy import save

CARDS = [(1, 512), (2, 1536), (132, 2048)]
SEEDS = [0, 2**32 + 5, 2**64 - 1]
SIZES = [1, 255, 257, 513, 2049]

PROGRAM = r"""
#include <curand_kernel.h>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

typedef unsigned long long u64;
static u64 seed, offset, most_blocks;

// torch's launch: as many blocks of 256 as there is work for or as fit on the card; every thread draws until the
// numbers of all threads cover the tensor
template <int K, class T, class Draw> void run(long long n, Draw draw) {
    u64 blocks = std::min<u64>((n + 255) / 256, most_blocks), threads = 256 * blocks;
    long long covered = ((n - 1) / (threads * K) + 1) * threads * K;
    std::vector<T> out(n);
    for (u64 thread = 0; thread < threads; thread++) {
        curandStatePhilox4_32_10_t state;
        curand_init(seed, thread, offset, &state);
        for (long long at = thread; at < covered; at += threads * K) {
            T drawn[K];
            draw(&state, drawn);
            for (int k = 0; k < K; k++)
                if (at + (long long)threads * k < n) out[at + threads * k] = drawn[k];
        }
    }
    offset += ((n - 1) / (threads * K) + 1) * 4;
    fwrite(out.data(), sizeof(T), n, stdout);
}

int main(int, char** args) {
    most_blocks = (u64)atoi(args[1]) * (atoi(args[2]) / 256);
    seed = strtoull(args[3], 0, 10);
    char operation[16];
    long long n;
    double a, b;
    while (scanf("%15s %lld %lf %lf", operation, &n, &a, &b) == 4) {
        if (!strcmp(operation, "normal")) {
            run<4, float>(n, [=](curandStatePhilox4_32_10_t* state, float* drawn) {
                float4 v = curand_normal4(state);
                float mean = a, std = b, all[4] = {v.x, v.y, v.z, v.w};
                for (int k = 0; k < 4; k++) drawn[k] = all[k] * std + mean;
            });
        } else if (!strcmp(operation, "rand")) {
            run<4, float>(n, [](curandStatePhilox4_32_10_t* state, float* drawn) {
                float4 v = curand_uniform4(state);
                float all[4] = {v.x, v.y, v.z, v.w};
                for (int k = 0; k < 4; k++) drawn[k] = all[k] == 1 ? 0 : all[k];
            });
        } else {
            long long low = a;
            u64 range = (u64)b;
            if (range < 1ull << 28) {
                run<4, long long>(n, [=](curandStatePhilox4_32_10_t* state, long long* drawn) {
                    uint4 v = curand4(state);
                    unsigned all[4] = {v.x, v.y, v.z, v.w};
                    for (int k = 0; k < 4; k++) drawn[k] = low + (long long)(all[k] % range);
                });
            } else {
                run<2, long long>(n, [=](curandStatePhilox4_32_10_t* state, long long* drawn) {
                    uint4 v = curand4(state);
                    drawn[0] = low + (long long)(((u64)v.x << 32 | v.y) % range);
                    drawn[1] = low + (long long)(((u64)v.z << 32 | v.w) % range);
                });
            }
        }
    }
}
"""


def headers():
    """The folders of the headers, or None."""
    home = os.environ.get("CUDA_HOME")
    roots = [pathlib.Path(home)] if home else []
    roots += [pathlib.Path(path) / "nvidia/cu13" for path in sys.path]
    for root in roots:
        if (root / "include/curand_kernel.h").is_file():
            return [root / "include", root / "include/cccl"]
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mnist")  # all scripts get it
    parser.parse_args()
    include = headers()
    if include is None:
        print("skipped: there are no headers of cuRAND; set CUDA_HOME to a CUDA toolkit")
        return
    golden = {}
    with tempfile.TemporaryDirectory() as scratch:
        program = pathlib.Path(scratch) / "draw"
        source = program.with_suffix(".cpp")
        source.write_text(PROGRAM)
        # nvcc makes one multiply-add of a product and a sum; so does g++ with these
        flags = ["-O1", "-mfma", "-ffp-contract=fast", *(f"-I{folder}" for folder in include)]
        subprocess.run(["g++", *flags, source, "-o", program], check=True)
        for card in CARDS:
            for seed in SEEDS:
                steps = [("normal", n, 0.0, 1.0) for n in SIZES]
                steps += [("rand", n, 0, 0) for n in [*SIZES, 100_000]]
                steps += [("normal", 600, 5.0, 0.7), ("randint", 3000, 0, 1000), ("randint", 3000, -3, 2**40)]
                asked = "".join(f"{name} {n} {a} {b}\n" for name, n, a, b in steps)
                command = [program, *map(str, card), str(seed)]
                drawn = subprocess.run(command, input=asked.encode(), stdout=subprocess.PIPE, check=True).stdout
                for i, (name, n, a, b) in enumerate(steps):
                    kind = np.dtype(np.int64 if name == "randint" else np.float32)
                    values, drawn = np.frombuffer(drawn[: n * kind.itemsize], kind), drawn[n * kind.itemsize :]
                    place = f"{card[0]},{card[1]}/{seed}/{i:03}/{name}/{n},{a},{b}"
                    digest = np.frombuffer(hashlib.sha256(values.tobytes()).digest(), np.uint8)
                    golden[place] = values if name == "normal" else digest
                assert not drawn
    file = pathlib.Path(__file__).with_suffix(".safetensors")
    file.write_bytes(save(golden, {"torch": torch.__version__}))


if __name__ == "__main__":
    main()
