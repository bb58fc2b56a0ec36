"""Writes schedulers/CLASS.safetensors: diffusers' samplings, for crates/scheduler/tests/golden.rs.

Needs torch, safetensors, scipy and diffusers (0.42.1). The cases are in schedulers/*.py, each a dictionary CASES from a
class name to a list of `case(...)`. With class names as arguments, only those are written.

A case is one sampling as documented: noise times the initial sigma, the model's input scaled, the unscaled sample
stepped. The model is `0.5 x + 0.2 cos(t / 100) + 0.1`, so that it needs no file.
"""

import importlib
import json
import sys
from pathlib import Path

import diffusers
import torch
from diffusers.schedulers.deprecated import scheduling_karras_ve, scheduling_sde_vp
from safetensors.torch import save_file

HERE = Path(__file__).parent / "schedulers"
SHAPE = (2, 1, 3, 3)
sys.path.insert(0, str(HERE))


def model(x, t):
    return 0.5 * x + 0.2 * torch.cos(torch.as_tensor(t).to(torch.float32) / 100) + 0.1


def find(class_name):
    """The class, even if it is deprecated and no longer exported."""
    homes = [scheduling_karras_ve, scheduling_sde_vp, diffusers]
    return next(getattr(home, class_name) for home in homes if hasattr(home, class_name))


def sample(class_name, case, out, key):
    """One sampling: timesteps, sigmas and the sample before and after every step."""
    config = dict(case["config"])
    if "solver_p" in config:  # a scheduler by its configuration
        solver_p = dict(config["solver_p"])
        config["solver_p"] = find(solver_p.pop("_class_name"))(**solver_p)
    scheduler = find(class_name)(**config)
    order = getattr(scheduler, "order", 1)  # model calls per step
    options = dict(case["options"])
    start = options.pop("start", 0)
    step_options = dict(options.pop("step", {}))
    if class_name.startswith("FlowMatch") and "sigmas" in options:
        *options["sigmas"], _ = options["sigmas"]  # the level after the last step is always 0
    scheduler.set_timesteps(**options)
    generator = torch.Generator().manual_seed(case["seed"])
    channels = case.get("model_channels", 1)
    if case.get("double"):  # coefficients in f64, where f32 loses them in rounding
        scheduler.sigmas = scheduler.sigmas.double()
    if case.get("begin_index"):  # as pipelines do it; otherwise the first timestep is looked up
        scheduler.set_begin_index(start)
    if start == 0:
        x = torch.randn(SHAPE, generator=generator) * getattr(scheduler, "init_noise_sigma", 1.0)
    else:
        clean, noise = torch.randn(SHAPE, generator=generator), torch.randn(SHAPE, generator=generator)
        first = scheduler.timesteps[start * order : start * order + 1]
        if hasattr(scheduler, "add_noise"):
            x = scheduler.add_noise(clean, noise, first)
        else:
            x = scheduler.scale_noise(clean, first, noise)
    trajectory = [x.clone()]
    takes = scheduler.step.__code__.co_varnames[: scheduler.step.__code__.co_argcount]
    if "generator" in takes:
        step_options["generator"] = generator
    for t in scheduler.timesteps[start * order :]:
        model_input = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        output = model(model_input, t)
        if channels == 2:  # the model also predicts a variance
            output = torch.cat([output, torch.sigmoid(output)], dim=1)
        x = scheduler.step(output, t, x, **step_options)[0]
        trajectory.append(x.clone())
    out[f"{key}.timesteps"] = scheduler.timesteps.to(torch.float32).clone()
    if getattr(scheduler, "sigmas", None) is not None:
        out[f"{key}.sigmas"] = torch.as_tensor(scheduler.sigmas).to(torch.float32).clone()
    out[f"{key}.trajectory"] = torch.stack(trajectory).flatten(1)
    assert out[f"{key}.trajectory"].isfinite().all(), (class_name, case)


def sample_by(loop, class_name, case, out, key):
    """One sampling by a class with an interface of its own: `loop` gives the noise levels of the model calls, and the
    sample before and after each."""
    scheduler = find(class_name)(**case["config"])
    generator = torch.Generator().manual_seed(case["seed"])
    levels, trajectory = loop(scheduler, case, generator, model, SHAPE)
    out[f"{key}.timesteps"] = torch.stack([torch.as_tensor(level).to(torch.float32) for level in levels])
    out[f"{key}.trajectory"] = torch.stack(trajectory).flatten(1)
    assert out[f"{key}.trajectory"].isfinite().all(), (class_name, case)


def main():
    only = [argument for argument in sys.argv[1:] if argument.endswith("Scheduler")]
    for module in sorted(path.stem for path in HERE.glob("*.py")):
        module = importlib.import_module(module)
        for class_name, cases in module.CASES.items():
            if only and class_name not in only:
                continue
            out, metadata = {}, {"diffusers": diffusers.__version__, "torch": torch.__version__}
            for i, case in enumerate(cases):
                key = f"{i:03}"
                if loop := getattr(module, "LOOPS", {}).get(class_name):
                    sample_by(loop, class_name, case, out, key)
                else:
                    sample(class_name, case, out, key)
                metadata[key] = json.dumps(case)
            # the file that save_pretrained writes of a default
            metadata["default"] = find(class_name)().to_json_string()
            save_file({k: v.contiguous() for k, v in out.items()}, HERE / f"{class_name}.safetensors", metadata)
            print(f"{class_name}: {len(cases)} cases")


if __name__ == "__main__":
    main()
