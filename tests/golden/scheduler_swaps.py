"""Writes scheduler_swaps.json.gz: how diffusers reads a scheduler's configuration into another class, for
crates/scheduler/tests/swaps.rs.

Needs torch and diffusers (0.42.1). A chain begins with some keys set, in a file (`from_config` of the parsed text) or
in memory (the constructor). It continues with one to four more classes, each built by `from_config` of the previous
one, in memory or from its saved text, and ends early if diffusers refuses to build one. For every class of a chain the
file holds the result of `to_json_string`, and the first, the last and the sum of the timesteps for a few step counts.

  defaults   class -> its keys and defaults
  lists      the lists of numbers that chains refer to by their index, {"list": 0}
  chains     {"from": "file" or "memory", "class": X, "given": {...}, "then": [["memory" or "disk", Y], ...],
             "saved": [...], "timesteps": [...]}. An entry of "saved" holds the keys that differ from the class's
             default or that the class does not have. An entry of "timesteps" is null if diffusers cannot sample, else
             a list [steps, count, first, last, sum]. The last of "then" has no "saved" if diffusers refuses it.
"""

import gzip
import inspect
import json
import random
import warnings
from pathlib import Path

import diffusers
import torch
from diffusers.schedulers.deprecated import scheduling_karras_ve, scheduling_sde_vp

HERE = Path(__file__).parent
SWAPS = 2200
STEPS = [4, 10, 25]

warnings.filterwarnings("ignore")
diffusers.logging.set_verbosity(50)

CLASSES = sorted(path.stem for path in (HERE / "schedulers").glob("*.safetensors"))

BETAS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1] * 3
FLAG = [True, False]
# the values of each key, whichever class has it; a name that only another class knows is to be renamed or refused
VALUES = {
    "num_train_timesteps": [1000, 1000, 1000, 500, 200, 100],
    "beta_start": [0.0001, 0.0001, 0.00085, 0.0015, 0.01],
    "beta_end": [0.02, 0.02, 0.012, 0.0195, 0.03],
    "beta_schedule": ["linear", "linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "exp"],
    "prediction_type": ["epsilon", "epsilon", "v_prediction", "sample"],
    "variance_type": ["fixed_small", "fixed_small_log", "fixed_large", "learned_range", "learned", None],
    "timestep_spacing": ["linspace", "leading", "trailing"],
    "steps_offset": [0, 1],
    "clip_sample_range": [1.0, 1.5, 2, 3.0],
    "dynamic_thresholding_ratio": [0.995, 0.9, None],
    "sample_max_value": [1.0, 1.5, 2, None],
    "solver_order": [1, 2, 3],
    "predictor_order": [1, 2, 3],
    "corrector_order": [1, 2, 3],
    "algorithm_type": ["dpmsolver++", "dpmsolver++", "sde-dpmsolver++", "dpmsolver", "deis", "data_prediction"],
    "solver_type": ["midpoint", "heun", "logrho", "bh1", "bh2"],
    "final_sigmas_type": ["zero", "sigma_min"],
    "flow_shift": [1.0, 3.0, 7.0, None],
    "lambda_min_clipped": [float("-inf"), -5.1],
    "interpolation_type": ["linear", "log_linear"],
    "timestep_type": ["discrete", "continuous", None],
    "sigma_data": [0.5, 1.0],
    "sigma_schedule": ["karras", "exponential"],
    "rho": [7.0, 5.0],
    "sigma_min": {
        "EulerDiscreteScheduler": [None, 0.03],
        "UniPCMultistepScheduler": [None, 0.03],
        "EDMEulerScheduler": [0.002, 0.02],
        "EDMDPMSolverMultistepScheduler": [0.002, 0.02],
        "ScoreSdeVeScheduler": [0.01, 0.02],
        "CMStochasticIterativeScheduler": [0.002, 0.02],
        "KarrasVeScheduler": [0.02, 0.03],
    },
    "sigma_max": {
        "EulerDiscreteScheduler": [None, 14.6],
        "UniPCMultistepScheduler": [None, 14.6],
        "EDMEulerScheduler": [80.0, 50.0],
        "EDMDPMSolverMultistepScheduler": [80.0, 50.0],
        "ScoreSdeVeScheduler": [1348.0, 90.0],
        "CMStochasticIterativeScheduler": [80.0, 50.0],
        "KarrasVeScheduler": [100, 90.0],
    },
    "s_noise": {"CMStochasticIterativeScheduler": [1.0, 1.003], "KarrasVeScheduler": [1.007, 1.0]},
    "s_churn": [80, 40.0],
    "s_min": [0.05, 0.1],
    "s_max": [50, 40.0],
    "snr": [0.15, 0.2],
    "correct_steps": [1, 2],
    "sampling_eps": {"ScoreSdeVeScheduler": [1e-05, 1e-04], "ScoreSdeVpScheduler": [1e-03, 1e-04]},
    "beta_min": [0.1, 0.2],
    "beta_max": [20, 15.0],
    "original_inference_steps": [50, 40],
    "timestep_scaling": [10.0, 5.0],
    "eta": [0.0, 0.5],
    "shift": [1.0, 3.0],
    "shift_terminal": [None, 0.02],
    "time_shift_type": ["exponential", "linear"],
    "base_shift": [0.5, 0.4],
    "max_shift": [1.15, 1.2],
    "base_image_seq_len": [256, 128],
    "max_image_seq_len": [4096, 2048],
}
FLAGS = [
    "clip_sample",
    "set_alpha_to_one",
    "thresholding",
    "rescale_betas_zero_snr",
    "skip_prk_steps",
    "lower_order_final",
    "euler_at_final",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_lu_lambdas",
    "predict_x0",
    "clip_denoised",
    "stochastic_sampling",
]
SPACINGS = ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"]
# keys that no class has, or only files of old versions
OTHERS = [
    {"trained_by": "nobody"},
    {"predict_epsilon": True},
    {"tensor_format": "pt"},
    {"skip": None, "nested": {"a": [1, 2.5]}},
    {"_private": 3},
]


def find(class_name):
    """The class, even if it is deprecated and no longer exported."""
    homes = [scheduling_karras_ve, scheduling_sde_vp, diffusers]
    return next(getattr(home, class_name) for home in homes if hasattr(home, class_name))


def defaults(class_name):
    parameters = inspect.signature(find(class_name).__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in ("self", "kwargs")}


DEFAULTS = {class_name: defaults(class_name) for class_name in CLASSES}


def draw(rng, class_name):
    """Some of a class's keys, with values."""
    share = rng.choice([0.1, 0.3, 0.3, 0.6, 1.0])
    given = {}
    for key in DEFAULTS[class_name]:
        values = VALUES.get(key, FLAG if key in FLAGS else None)
        if isinstance(values, dict):
            values = values[class_name]
        if values is not None and rng.random() < share:
            given[key] = rng.choice(values)
    if "use_flow_sigmas" in DEFAULTS[class_name] and rng.random() < 0.08:
        given |= {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    if "trained_betas" in DEFAULTS[class_name] and class_name != "IPNDMScheduler" and rng.random() < 0.05:
        given |= {"trained_betas": BETAS, "num_train_timesteps": len(BETAS)}
    is_flow = given.get("use_flow_sigmas", False)
    for key in list(given):  # at most one spacing of noise levels, rarely, and not with a flow
        if key in SPACINGS and (is_flow or given.get("use_lu_lambdas") or rng.random() < 0.7):
            given[key] = False
    # diffusers builds these but cannot draw images with them; they are refused here
    if is_flow:
        given.pop("use_lu_lambdas", None)
        given.pop("rescale_betas_zero_snr", None)
    if given.get("rescale_betas_zero_snr") and "prediction_type" in DEFAULTS[class_name]:
        given["prediction_type"] = "v_prediction"  # all other first steps divide by zero
    if given.get("thresholding") and "dynamic_thresholding_ratio" in given:
        given["dynamic_thresholding_ratio"] = 0.9
    if class_name == "DPMSolverMultistepInverseScheduler" and given.get("algorithm_type", "").startswith("sde"):
        del given["algorithm_type"]
    return given


def timesteps(scheduler, steps):
    """The count, the first, the last and the sum. None if diffusers cannot sample or counts otherwise: these classes
    condition the model on another value than the timestep, a RePaint run here needs a mask, and IPNDM ignores the
    number of steps if it has its own betas."""
    name = type(scheduler).__name__
    if name in ("RePaintScheduler", "KarrasVeScheduler", "ScoreSdeVeScheduler"):
        return None
    if name == "IPNDMScheduler" and scheduler.config.trained_betas is not None:
        return None
    try:
        scheduler.set_timesteps(steps)
        t = torch.as_tensor(scheduler.timesteps).to(torch.float64)
    except Exception:
        return None
    if len(t) == 0 or not torch.isfinite(t).all():
        return None
    return [steps, len(t), t[0].item(), t[-1].item(), t.sum().item()]


def can_sample(scheduler):
    """Whether one step from noise gives numbers."""
    name = type(scheduler).__name__
    if name == "KarrasVeScheduler":
        return None not in (scheduler.config.sigma_min, scheduler.config.sigma_max)
    if name in ("RePaintScheduler", "ScoreSdeVeScheduler", "ScoreSdeVpScheduler"):
        return True
    # diffusers' spacings of noise levels read these keys even if the class does not have them; ours do not
    if any(key in scheduler.config and key not in DEFAULTS[name] for key in ("sigma_min", "sigma_max")):
        return False
    takes = inspect.signature(scheduler.step).parameters
    options = {"generator": torch.Generator().manual_seed(0)} if "generator" in takes else {}
    try:
        scheduler.set_timesteps(10)
        x = torch.full((1, 1, 2, 2), 0.5)
        t = scheduler.timesteps[0]
        output = 0.5 * (scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x)
        if scheduler.config.get("variance_type") in ("learned", "learned_range"):
            output = torch.cat([output, output], dim=1)
        return bool(torch.isfinite(scheduler.step(output, t, x, **options)[0]).all())
    except Exception:
        return False


class Writer:
    def __init__(self):
        self.lists = []

    def short(self, config):
        """`config` with its long lists replaced by their index."""
        out = {}
        for key, value in config.items():
            if isinstance(value, list) and len(value) > 8:
                if value not in self.lists:
                    self.lists.append(value)
                value = {"list": self.lists.index(value)}
            out[key] = value
        return out

    def saved(self, scheduler):
        name = type(scheduler).__name__
        config = json.loads(scheduler.to_json_string())
        assert config.pop("_class_name") == name
        config.pop("_diffusers_version")
        known = DEFAULTS[name]
        assert all(key in config for key in known)
        same = lambda key, value: key in known and json.dumps(known[key]) == json.dumps(value)
        return self.short({key: value for key, value in config.items() if not same(key, value)})


def begin(rng, class_name):
    """A scheduler that can be built, from a file or in memory, and how."""
    while True:
        given = draw(rng, class_name)
        try:
            if rng.random() < 0.5:
                hidden = rng.choice(OTHERS) if rng.random() < 0.2 else {}
                file = given | hidden | {"_class_name": class_name, "_diffusers_version": "0.1.1"}
                return "file", given | hidden, find(class_name).from_config(json.loads(json.dumps(file)))
            return "memory", given, find(class_name)(**json.loads(json.dumps(given)))
        except Exception:
            continue


def chain(rng, writer, first):
    how, given, scheduler = begin(rng, first)
    out = {"from": how, "class": first, "given": writer.short(given), "then": [], "saved": [], "timesteps": []}
    # copies, because PNDM and others write the requested number of steps into their configuration
    note(out, writer, scheduler)
    for _ in range(rng.choice([1, 1, 2, 2, 3, 4])):
        back = rng.random() < 0.15
        name = first if back else rng.choice(CLASSES)
        how = rng.choice(["memory", "memory", "disk"])
        config = json.loads(scheduler.to_json_string()) if how == "disk" else scheduler.config
        out["then"].append([how, name])
        try:
            scheduler = find(name).from_config(config)
        except Exception:
            break
        note(out, writer, scheduler)
    return out


def note(out, writer, scheduler):
    """Records a scheduler. It calls a copy, because some classes change their configuration."""
    out["saved"].append(writer.saved(scheduler))
    copy = type(scheduler).from_config(dict(scheduler.config))
    samples = can_sample(copy)
    out["timesteps"].append([found for steps in STEPS if (found := timesteps(copy, steps))] if samples else None)


def google():
    """The files of google's first DDPM checkpoints (diffusers 0.1.1), into every class."""
    file = {"beta_end": 0.02, "beta_schedule": "linear", "beta_start": 0.0001, "clip_sample": True}
    file |= {"num_train_timesteps": 1000, "trained_betas": None}
    for variance in ["fixed_small", "fixed_large"]:
        for name in CLASSES:
            yield file | {"variance_type": variance}, name


def main():
    rng = random.Random(0)
    writer = Writer()
    chains = []
    for given, name in google():
        scheduler = find("DDPMScheduler").from_config(given | {"_class_name": "DDPMScheduler"})
        out = {"from": "file", "class": "DDPMScheduler", "given": given, "then": [["memory", name]]}
        out |= {"saved": [], "timesteps": []}
        note(out, writer, scheduler)
        try:
            note(out, writer, find(name).from_config(scheduler.config))
        except Exception:
            pass
        chains.append(out)
    while sum(len(one["then"]) for one in chains) < SWAPS:
        chains.append(chain(rng, writer, CLASSES[len(chains) % len(CLASSES)]))
    whole = {
        "diffusers": diffusers.__version__,
        "defaults": {name: writer.short(keys) for name, keys in DEFAULTS.items()},
        "lists": writer.lists,
        "chains": chains,
    }
    text = json.dumps(whole, separators=(",", ":"), sort_keys=True)
    with gzip.GzipFile(HERE / "scheduler_swaps.json.gz", "wb", mtime=0) as file:
        file.write(text.encode())
    swaps = sum(len(one["saved"]) - 1 for one in chains)
    print(f"{len(chains)} chains, {swaps} swaps, {len(text)} bytes of JSON")


if __name__ == "__main__":
    main()
