"""Writes scheduler_grid.safetensors: digests of diffusers' timesteps and noise levels at every number of steps, for
crates/scheduler/tests/grid.rs.

Needs torch, safetensors, scipy and diffusers (0.42.1). For each row of the table below and each T, the file has the
timesteps of 1 to T steps as a hash of their f32 bits, and the noise levels as a sum (`nan` where diffusers raises).
Schedules that space the noise levels themselves cost more, so they have only some numbers of steps.
"""

import json
import warnings
from pathlib import Path

import numpy as np
import schedulers
import torch
from safetensors.torch import save_file

OUT = Path(__file__).parent / "scheduler_grid.safetensors"
EVERY = [1000, 999, 100, 50, 7, 2, 1]
SOME = [1000, 100, 7, 2]
SPACINGS = ["linspace", "leading", "trailing"]
SOLVERS = ["DPMSolverMultistep", "UniPCMultistep", "DEISMultistep", "SASolver"]
CONVERSIONS = ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"]
POWERS = np.array([pow(31, i, 2**32) for i in range(4096)], dtype=np.uint64)


def row(classes, ts=EVERY, sigmas=False, exact=True, least=1, **config):
    """A schedule that `classes` share; the first class computes it. Timesteps that are not `exact` are summed up."""
    return {"classes": classes, "ts": ts, "sigmas": sigmas, "exact": exact, "least": least, "config": config}


ROWS = [
    *[row(["DDIM", "DDPM"], timestep_spacing=spacing) for spacing in SPACINGS],
    row(["DDIM", "DDPM"], steps_offset=1),
    *[row(["DDIMInverse"], timestep_spacing=spacing) for spacing in SPACINGS[1:]],
    *[row(["PNDM"], timestep_spacing=spacing, skip_prk_steps=True) for spacing in SPACINGS],
    *[row(["PNDM"], timestep_spacing=spacing, least=4) for spacing in SPACINGS[1:]],
    *[
        row(["EulerDiscrete", "LMSDiscrete", "EulerAncestralDiscrete"], sigmas=True, timestep_spacing=spacing)
        for spacing in SPACINGS
    ],
    row(["EulerDiscrete", "LMSDiscrete", "EulerAncestralDiscrete"], timestep_spacing="leading", steps_offset=1),
    *[row(["HeunDiscrete"], ts=[100, 7, 2], timestep_spacing=spacing) for spacing in SPACINGS],
    *[row(SOLVERS, timestep_spacing=spacing) for spacing in SPACINGS],
    row(["DPMSolverMultistep"], timestep_spacing="leading", steps_offset=1, sigmas=True, ts=SOME),
    row(["DPMSolverMultistep"], sigmas=True, final_sigmas_type="sigma_min", ts=SOME),
    row(["DPMSolverMultistepInverse"], ts=SOME, timestep_spacing="trailing", sigmas=True),
    row(["DPMSolverSinglestep"], sigmas=True, ts=SOME),
    row(["UnCLIP"], ts=[1000, 100, 7], least=2),
    *[row(["LCM", "TCD"], ts=[1000, 100], original_inference_steps=steps) for steps in [50, 30]],
    *[row(["EulerDiscrete"], ts=SOME, sigmas=True, exact=False, **{key: True}) for key in CONVERSIONS],
    row(["EulerDiscrete"], ts=SOME, sigmas=True, exact=False, interpolation_type="log_linear", final_sigmas_type="sigma_min"),
    *[row(["DPMSolverMultistep"], ts=SOME, sigmas=True, **{key: True}) for key in [*CONVERSIONS, "use_lu_lambdas"]],
    row(["DPMSolverMultistep"], ts=SOME, sigmas=True, use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0),
    row(["EDMEuler"], ts=[100], sigmas=True, exact=False),
    # only its single step begins with the highest noise here, as EDMEulerScheduler documents
    row(["EDMEuler"], ts=[100], sigmas=True, exact=False, sigma_schedule="exponential", least=2),
    row(["FlowMatchEulerDiscrete"], ts=[1000, 100], sigmas=True, exact=False, shift=3.0),
]


def counts(row, t):
    """The numbers of steps, up to two more than there are timesteps; only some if the schedule is costly."""
    most = min(t, row["config"].get("original_inference_steps", t))
    every = range(row["least"], most + 1)
    if row["ts"] is EVERY or t < 100:
        return list(every)
    return [n for n in every if n <= 40 or n % 97 == 0 or n >= most - 1]


def digest(numbers):
    """`h = 31 h + bits` over the f32 bits, modulo 2^32."""
    bits = np.asarray(numbers, dtype=np.float32).view(np.uint32).astype(np.uint64)
    return int((bits * POWERS[: len(bits)][::-1] % 2**32).sum() % 2**32)


def total(numbers):
    """A weighted sum, so that the order counts."""
    numbers = np.asarray(numbers, dtype=np.float64)
    return float((numbers * (1 + np.arange(len(numbers)) % 7)).sum())


def main():
    warnings.filterwarnings("ignore")
    np.seterr(all="ignore")
    torch.set_num_threads(1)
    schedulers.diffusers.utils.logging.set_verbosity_error()
    out, table = {}, []
    for row in ROWS:
        for t in row["ts"]:
            config = row["config"] | {"num_train_timesteps": t}
            scheduler = schedulers.find(row["classes"][0] + "Scheduler")(**config)
            key, times, sigmas = f"{len(table):03}", [], []
            for n in counts(row, t):
                try:
                    scheduler.set_timesteps(n)
                    timesteps = scheduler.timesteps.to(torch.float32).numpy()
                    if row["classes"][0] == "DDIM" and timesteps[0] >= t:
                        raise IndexError("of which DDIM and DDPM have no share of the image")
                    times.append(digest(timesteps) if row["exact"] else total(timesteps))
                    sigmas.append(total(torch.as_tensor(scheduler.sigmas).numpy()) if row["sigmas"] else 0.0)
                except Exception:
                    times.append(0)
                    sigmas.append(float("nan"))
            out[f"{key}.counts"] = torch.tensor(counts(row, t), dtype=torch.int16)
            if row["exact"]:
                out[f"{key}.timesteps"] = torch.tensor(times, dtype=torch.int64).to(torch.uint32)
            else:
                out[f"{key}.sums"] = torch.tensor(times, dtype=torch.float32)
            if row["sigmas"]:
                out[f"{key}.sigmas"] = torch.tensor(sigmas, dtype=torch.float32)
            table.append({"classes": [name + "Scheduler" for name in row["classes"]], "config": config})
    metadata = {"diffusers": schedulers.diffusers.__version__, "torch": torch.__version__, "rows": json.dumps(table)}
    save_file(out, OUT, metadata)
    print(f"{len(table)} schedules, {sum(len(v) for k, v in out.items() if k.endswith('counts'))} numbers of steps")


if __name__ == "__main__":
    main()
