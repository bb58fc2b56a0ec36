"""Writes diffusers' samplings of random configurations to a folder, in the form of `tests/golden/schedulers`.

    python tests/python/random_schedules.py FOLDER NUMBER SEED

`crates/scheduler/tests/golden.rs` runs it and compares. Needs the packages of `tests/golden/schedulers.py`. If diffusers
raises or computes NaN, the case has `fails` and no numbers.

Of 1,500 cases from seed 3, all but 35 agree with diffusers within 1e-4. The others are differences that the classes'
documentation names (timesteps that an inversion shares, PNDM started in the middle, KDPM2Ancestral where diffusers
subtracts squares), and rounding: the highest noise level at the previous timestep (torch's square root), zero SNR of
cosine betas.
"""

import inspect
import json
import random
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent.parent / "golden"))
import schedulers  # noqa: E402

SPACINGS = ["linspace", "leading", "trailing"]
CONVERSIONS = ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"]
SOLVERS = ["DPMSolverMultistep", "DPMSolverMultistepInverse", "DPMSolverSinglestep", "DEISMultistep", "UniPCMultistep", "SASolver"]
K = ["LMSDiscrete", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverSDE"]
OTHERS = ["DDPM", "DDIM", "DDIMInverse", "PNDM", "EDMEuler", "EDMDPMSolverMultistep", "LCM", "TCD", "IPNDM",
          "CMStochasticIterative", "FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete"]
# each class has some of these keys; each key is set in some cases
VALUES = {
    "timestep_spacing": SPACINGS,
    "steps_offset": [0, 0, 1],
    "prediction_type": ["epsilon", "sample", "v_prediction"],
    "rescale_betas_zero_snr": [False, True],
    "clip_sample": [False, True],
    "clip_sample_range": [1.0, 0.5, 2.0],
    "thresholding": [False, False, True],
    "dynamic_thresholding_ratio": [0.995, 0.9],
    "sample_max_value": [1.0, 1.5],
    "set_alpha_to_one": [False, True],
    "skip_prk_steps": [False, True],
    "interpolation_type": ["linear", "log_linear"],
    "timestep_type": ["discrete", "continuous"],
    "final_sigmas_type": ["zero", "sigma_min"],
    "solver_order": [1, 2, 3],
    "predictor_order": [1, 2, 3],
    "corrector_order": [1, 2, 3],
    "lower_order_final": [False, True],
    "euler_at_final": [False, True],
    "predict_x0": [False, True],
    "lambda_min_clipped": [-float("inf"), -5.1],
    "sigma_min": [0.002, 0.03],
    "sigma_max": [80.0, 20.0],
    "sigma_data": [0.5, 1.0],
    "sigma_schedule": ["karras", "exponential"],
    "rho": [7.0, 3.0],
    "s_noise": [1.0, 1.01],
    "clip_denoised": [False, True],
    "shift": [1.0, 3.0],
    "shift_terminal": [0.1],
    "invert_sigmas": [False],
    "timestep_scaling": [10.0, 5.0],
}


def configuration(name, parameters, draw):
    config = {}
    t = draw.choice([1000, 1000, 1000, 999, 100, 50, 8, 7, 5, 2, 1])
    if "num_train_timesteps" in parameters and draw.random() < 0.7:
        config["num_train_timesteps"] = t
    t = config.get("num_train_timesteps", parameters["num_train_timesteps"].default)
    if "beta_start" in parameters and draw.random() < 0.6:
        config["beta_start"], config["beta_end"] = draw.choice([(0.0001, 0.02), (0.00085, 0.012), (0.001, 0.05), (0.0, 0.02)])
        schedules = ["linear", "scaled_linear", "squaredcos_cap_v2"]
        schedules += {"DDPM": ["sigmoid", "laplace"], "HeunDiscrete": ["exp"]}.get(name, [])
        config["beta_schedule"] = draw.choice(schedules)
    for key, values in VALUES.items():
        if key in parameters and draw.random() < 0.4:
            config[key] = draw.choice(values)
    known = [key for key in [*CONVERSIONS, "use_lu_lambdas", "use_flow_sigmas"] if key in parameters]
    if known and draw.random() < 0.5:
        key = draw.choice(known)
        config[key] = True
        if key == "use_flow_sigmas":
            config["prediction_type"] = "flow_prediction"
            config["flow_shift"] = draw.choice([1.0, 3.0])
    if name == "DPMSolverMultistepInverse":  # its random paths are refused, and its flows go upwards
        config.pop("use_flow_sigmas", None) and config.pop("prediction_type")
    if name in ("LCM", "TCD"):
        config["original_inference_steps"] = min(50, t)
    if "algorithm_type" in parameters and name in ("DPMSolverMultistep", "DPMSolverSinglestep", "DPMSolverMultistepInverse"):
        config["algorithm_type"] = draw.choice(["dpmsolver", "dpmsolver++", "sde-dpmsolver++"])
        config["solver_type"] = draw.choice(["midpoint", "heun"])
        if name == "DPMSolverMultistepInverse" and config["algorithm_type"].startswith("sde"):
            config["algorithm_type"] = "dpmsolver++"
    if name == "SASolver":
        config["algorithm_type"] = draw.choice(["data_prediction", "noise_prediction"])
    if name == "UniPCMultistep":
        config["solver_type"] = draw.choice(["bh1", "bh2"])
    if name == "DDPM":
        config["variance_type"] = draw.choice(["fixed_small", "fixed_small_log", "fixed_large"])
    return config, t


def case(name, scheduler, draw):
    parameters = inspect.signature(scheduler.__init__).parameters
    config, t = configuration(name, parameters, draw)
    most = max(1, min(t, 70))
    options = {"num_inference_steps": draw.choice([draw.randint(1, most), draw.randint(1, most), min(t, 100), t + draw.randint(1, 3)])}
    if options["num_inference_steps"] > 110:
        options["num_inference_steps"] = draw.randint(1, 110)
    step = {}
    taken = inspect.signature(scheduler.step).parameters
    if "eta" in taken and draw.random() < 0.5:
        step["eta"] = draw.choice([0.0, 0.5, 1.0])
    if name == "DDIM" and draw.random() < 0.3:
        step["use_clipped_model_output"] = True
    if "s_churn" in taken and name != "FlowMatchEulerDiscrete" and draw.random() < 0.3:
        step |= {"s_churn": draw.choice([1.0, 20.0]), "s_tmin": 0.1, "s_tmax": 50.0, "s_noise": 1.003}
    if name == "DPMSolverSDE":
        step["s_noise"] = 0.0
        options = {"num_inference_steps": draw.randint(1, min(t, 8))}  # its Brownian motion is slow
    if name == "LMSDiscrete" and draw.random() < 0.3:
        step["order"] = draw.choice([1, 2, 3])
    accepted = inspect.signature(scheduler.set_timesteps).parameters
    if "timesteps" in accepted and draw.random() < 0.1 and name not in ("FlowMatchEulerDiscrete", "CMStochasticIterative"):
        del options["num_inference_steps"]
        options["timesteps"] = sorted(draw.sample(range(t), min(t, draw.randint(1, 10))), reverse=True)
    elif name == "EulerDiscrete" and draw.random() < 0.1:
        del options["num_inference_steps"]
        options["sigmas"] = sorted({round(draw.uniform(0.05, 12.0), 3) for _ in range(8)}, reverse=True) + [0.0]
    if step:
        options["step"] = step
    if "num_inference_steps" in options and options["num_inference_steps"] > 4 and draw.random() < 0.15 and name != "DDIMInverse":
        options["start"] = draw.randint(1, 3)
    steps = options.get("num_inference_steps", 1)
    made = {"config": config, "options": options, "seed": draw.randint(0, 9), "model_channels": 1}
    # solvers may call the model twice at one timestep: count the steps instead of looking them up
    made["begin_index"] = name in SOLVERS and steps <= t
    if name in SOLVERS + ["EDMDPMSolverMultistep"]:
        made["double"] = True  # f32 loses the small differences between many steps
    return made


def main():
    folder, number, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    draw = random.Random(seed)
    warnings.filterwarnings("ignore")
    np.seterr(all="ignore")
    torch.set_num_threads(1)
    schedulers.diffusers.utils.logging.set_verbosity_error()
    names = SOLVERS + K + OTHERS
    for i, name in enumerate(names):
        class_name = name + "Scheduler"
        scheduler = schedulers.find(class_name)
        out, metadata = {}, {}
        for k in range(number * (i + 1) // len(names) - number * i // len(names)):
            made, key = case(name, scheduler, draw), f"{k:03}"
            numbers = {}
            try:
                if made["begin_index"] and not hasattr(scheduler, "set_begin_index"):
                    made["begin_index"] = False
                if made.get("double") and not hasattr(scheduler(), "sigmas"):
                    made["double"] = False
                schedulers.sample(class_name, made, numbers, key)
            except Exception as e:  # of any kind
                numbers, made["fails"] = {}, f"{type(e).__name__}: {e}"[:200]
            out |= numbers
            metadata[key] = json.dumps(made)
        save_file({k: v.contiguous() for k, v in out.items()}, folder / f"{class_name}.safetensors", metadata)


if __name__ == "__main__":
    main()
