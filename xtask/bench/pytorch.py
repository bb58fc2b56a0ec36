"""PyTorch's side of `cargo xtask bench --against-pytorch`: the same items as crates/kakusan/benches/worker, by name.

It reads commands from stdin and answers on stdout with the time they took, like that worker (see its main.rs):

    about              about KEY <tab> VALUE ... end
    draw KIND SEED N   numbers N ... (every 997th of what a generator on the card draws)
    run LAYOUT NAME    ms MILLISECONDS, or: none (no such item here, or the layout makes no difference), or: failed REASON

Layouts are `nchw`, `channels-last`, and of whole models `compiled` (channels-last and torch.compile) and `graphs`
(compiled, and replayed as CUDA graphs). A new kind of item is a function that takes the words of its name and whether tensors are channels-last, and returns one repetition.
"""

import argparse
import os
import pathlib
import shutil
import signal
import sys
import time
import tomllib

# torch.compile runs in this process, not in a pool of others, which would outlive a benchmark that was stopped
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/golden"))
sys.dont_write_bytecode = True

import torch
import torch.nn.functional as F

from tutorial import BasicUNet, corrupt

WARM_UP, MEASURE, LONG = 0.010, 0.020, 0.200  # seconds, as in the other worker
BATCHES = 16


def numbers(shape, channels_last, scale=1.0):
    tensor = torch.empty(shape).uniform_(-scale, scale)
    return tensor.to(memory_format=torch.channels_last) if channels_last and len(shape) == 4 else tensor


def one_pass(direction, inputs, op):
    """The forward pass without gradients, or the forward and the backward pass."""
    if direction == "forward":
        def forward():
            with torch.inference_mode():
                op(*inputs)
        return forward
    inputs = [tensor.requires_grad_() for tensor in inputs]
    ones = torch.ones_like(op(*inputs).detach())
    return lambda: torch.autograd.grad(op(*inputs), inputs, ones)


def convolution(words, channels_last):
    kind, kernel, channels, side, batch, direction = words
    k, side, batch = int(kernel.split("x")[0]), int(side[1:]), int(batch[1:])
    ci, co = map(int, channels.split("-"))
    inputs = [
        numbers((batch, ci, side, side), channels_last),
        numbers((co, ci, k, k), channels_last, (ci * k * k) ** -0.5),
        numbers((co,), channels_last, 0.05),
    ]
    if kind == "conv2d":
        return one_pass(direction, inputs, lambda x, weight, bias: F.conv2d(x, weight, bias, padding=k // 2))
    return one_pass(direction, inputs, lambda x, weight, bias: F.silu(F.conv2d(x, weight, bias, padding=k // 2)))


def elementwise(words, channels_last):
    kind, channels, side, batch, direction = words
    channels, side, batch = int(channels), int(side[1:]), int(batch[1:])
    x = numbers((batch, channels, side, side), channels_last)
    if kind == "max_pool2d":
        return one_pass(direction, [x], lambda x: F.max_pool2d(x, 2))
    if kind == "silu":
        return one_pass(direction, [x], F.silu)
    if kind == "mse_loss":
        target = numbers(x.shape, channels_last)
        return one_pass(direction, [x], lambda x: F.mse_loss(x, target))
    skip = numbers((batch, channels, 2 * side, 2 * side), channels_last)
    return one_pass(direction, [x, skip], lambda x, skip: F.interpolate(x, scale_factor=2) + skip)


def adam(words, channels_last):
    net = BasicUNet()
    if channels_last:
        net = net.to(memory_format=torch.channels_last)
    for parameter in net.parameters():
        parameter.grad = torch.rand_like(parameter)
    return torch.optim.Adam(net.parameters(), lr=1e-3).step


class OnlyThere(Exception):
    """Something that only the other worker has."""


class UNet(torch.nn.Module):
    """diffusers' UNet2DModel with a tensor as its output."""

    def __init__(self, settings):
        super().__init__()
        from diffusers import UNet2DModel

        self.unet = UNet2DModel(**settings)
        self.knows_classes = settings.get("num_class_embeds") is not None

    def forward(self, x, timesteps, labels=None):
        if self.knows_classes and labels is None:
            labels = torch.zeros(len(x), dtype=torch.long)
        return self.unet(x, timesteps, labels, return_dict=False)[0]


def model(settings):
    """A network of (images, timesteps), and the shape of one image."""
    settings = {key: None if value == "null" else value for key, value in settings.items()}
    class_name, side = settings.pop("_class_name"), settings.get("sample_size", 28)
    channels = settings.get("in_channels", 1 if class_name == "BasicUNet" else 3)
    if class_name == "UNet2DModel":
        return UNet(settings), (channels, side, side)
    if class_name == "BasicUNet":
        net, predicted = BasicUNet(), settings.get("out_channels", 1)
        if (channels, predicted) != (1, 1):
            net.down_layer1 = torch.nn.Conv2d(channels, 32, kernel_size=5, padding=2)
            net.up_layer3 = torch.nn.Conv2d(32, predicted, kernel_size=5, padding=2)
        return net, (channels, side, side)
    raise OnlyThere(class_name)


def prepare_model(settings, channels_last, compiled):
    """The network, the function to call with (images, timesteps), and the shape of one image."""
    net, shape = model(settings)
    if channels_last:
        net = net.to(memory_format=torch.channels_last)
    modes = {"compiled": None, "graphs": "reduce-overhead"}
    called = torch.compile(net, mode=modes[compiled]) if compiled else net
    if settings["_class_name"] == "BasicUNet":  # is not conditioned on the timestep
        return net, lambda x, timesteps: called(x), shape
    return net, called, shape


def scheduler(config):
    """The scheduler of a configuration: None for the tutorial's mix."""
    import diffusers

    settings = dict(config["scheduler"])
    class_name = settings.pop("_class_name")
    return None if class_name == "LinearMixScheduler" else getattr(diffusers, class_name)(**settings)


def step(config, batch, channels_last, compiled):
    """The loop of tests/golden/tutorial.py, or of tests/golden/unet_training.py."""
    net, forward, shape = prepare_model(config["model"], channels_last, compiled)
    ddpm = scheduler(config)
    optimizer = torch.optim.Adam(net.parameters(), lr=config.get("train", {}).get("learning_rate", 1e-3))
    images = torch.rand(BATCHES * batch, *shape)
    epochs = iter(())

    def one():
        nonlocal epochs
        indices = next(epochs, None)
        if indices is None:
            epochs = iter(torch.randperm(len(images)).split(batch))
            indices = next(epochs)
        x = images[indices]
        if ddpm is None:
            amount = torch.rand(len(x))
            noise = torch.rand(x.shape)
            loss = F.mse_loss(forward(corrupt(x, noise, amount), 0), x)
        else:
            x = x * 2 - 1
            noise = torch.randn(x.shape)
            timesteps = torch.randint(0, ddpm.config.num_train_timesteps, (len(x),))
            loss = F.mse_loss(forward(ddpm.add_noise(x, noise, timesteps), timesteps), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return one


def sample(config, batch, steps, channels_last, compiled):
    _, forward, shape = prepare_model(config["model"], channels_last, compiled)
    ddpm = scheduler(config)
    if ddpm is not None:
        import diffusers

        drawn_by = config.get("sample", {}).get("scheduler", config["scheduler"]["_class_name"])
        ddpm = getattr(diffusers, drawn_by).from_config(ddpm.config)

    def one():
        with torch.inference_mode():
            if ddpm is not None:
                x = torch.randn(batch, *shape)
                ddpm.set_timesteps(steps)
                for t in ddpm.timesteps:
                    x = ddpm.step(forward(x, t), t, x).prev_sample
                return
            x = torch.rand(batch, *shape)
            for i in range(steps):
                factor = 1 / (steps - i)
                x = x * (1 - factor) + forward(x, 0) * factor

    return one


def forward_passes(config, batch, passes, channels_last, compiled):
    _, forward, shape = prepare_model(config["model"], channels_last, compiled)
    x = numbers((batch, *shape), channels_last)
    timesteps = torch.full((batch,), 500)

    def one():
        with torch.inference_mode():
            for _ in range(passes):
                forward(x, timesteps)

    return one


def prepare(layout, name, configs):
    """One repetition of the work, or None if the layout makes no difference."""
    words = name.split(" ")
    channels_last, compiled = layout != "nchw", layout if layout in ("compiled", "graphs") else None
    if words[0] in ("step", "sample", "forward"):
        larger = configs / "../xtask/bench/networks" / f"{words[1]}.toml"
        file = configs / words[1] if words[1].endswith(".toml") else larger
        config = tomllib.loads(file.read_text())
        batch = int(words[3][1:])
        if words[0] == "forward":
            return forward_passes(config, batch, int(words[4][1:]), channels_last, compiled)
        if words[0] == "step":
            return step(config, batch, channels_last, compiled)
        return sample(config, batch, int(words[4][1:]), channels_last, compiled)
    kinds = {"conv2d": convolution, "conv2d_silu": convolution, "adam": adam}
    kinds |= dict.fromkeys(("max_pool2d", "silu", "mse_loss", "upsample_add"), elementwise)
    if words[0] not in kinds:
        raise OnlyThere(words[0])
    return None if compiled else kinds[words[0]](words, channels_last)


def run(layout, name, configs, ready):
    """Milliseconds of one repetition; the work of all layouts is kept until the name changes."""
    if ready.get("name") != name:
        ready.clear()
        ready["name"] = name
    if layout not in ready:
        work = prepare(layout, name, configs)
        if work:
            work()  # compiles and fills caches
        ready[layout] = work and [work, repeat(work, 0)]
    if ready[layout] is None:
        return None
    work, took = ready[layout]
    if took < LONG:
        repeat(work, WARM_UP)
    ready[layout][1] = took = repeat(work, MEASURE)
    return took * 1e3


def repeat(work, seconds):
    """Repeats the work for the given time, at least once; returns the seconds of one repetition."""
    start, repetitions = time.perf_counter(), 0
    while True:
        work()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        repetitions += 1
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return elapsed / repetitions


def main():
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parser = argparse.ArgumentParser()
    parser.add_argument("--configs", type=pathlib.Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.device != "cpu":
        torch.set_default_device(args.device)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # as Kakusan
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    # stdout is only for answers; a compiler's output goes elsewhere
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    ready = {}
    for line in sys.stdin:
        command, _, what = line.rstrip("\n").partition(" ")
        if command == "about":
            print(f"about torch\t{torch.__version__}", file=answers)
            print(f"about threads\t{torch.get_num_threads()}", file=answers)
            print(f"about vectors\t{torch.backends.cpu.get_cpu_capability()}", file=answers)
            if args.device != "cpu":
                print(f"about card\t{torch.cuda.get_device_name()}", file=answers)
                print(f"about cuda\t{torch.version.cuda}", file=answers)
            compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
            print(f"about compiler\t{compiler or 'none'}", file=answers)
            print("end", file=answers)
        elif command == "draw":
            kind, seed, n = what.split(" ")
            generator = torch.Generator(args.device).manual_seed(int(seed))
            torch.randn(100, generator=generator)
            numbers = getattr(torch, kind)(int(n), generator=generator)[::997]
            print("numbers", *map(repr, numbers.tolist()), file=answers)
        elif command == "run":
            layout, _, name = what.partition(" ")
            try:
                ms = run(layout, name, args.configs, ready)
                print("none" if ms is None else f"ms {ms}", file=answers)
            except OnlyThere:
                ready[layout] = None
                print("none", file=answers)
            except Exception as error:
                ready[layout] = None  # not repeated in the other rounds of this name
                reason = str(error).strip().splitlines() or [""]
                print(f"failed {type(error).__name__}: {reason[0]}", file=answers)
        else:
            print(f"failed there is no command {command}", file=answers)


if __name__ == "__main__":
    main()
