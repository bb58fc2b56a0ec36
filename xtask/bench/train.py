"""PyTorch's side of `cargo xtask results --python`: trains a recipe for a given time and saves a pipeline.

    train.py --config configs/184-v.toml --like RUN --mnist DIR --seconds 60 --threads 2 --out PIPELINE

It trains the network of the configuration, with its data, batch, loss, optimiser, learning rate and average, as
diffusers' training scripts do. Only the number of steps differs: as many as fit into the time, over which the learning
rate rises and falls as it does over the recipe's steps. The clock starts after the imports and ends when the pipeline
is saved. `kakusan eval` then opens the pipeline; of a class that diffusers lacks, the configuration files are those of
RUN, Kakusan's own training of the recipe.

It prints `parameters N`, `steps N`, `first_loss X` and `seconds X`, or `none` if the recipe has a part that is not
here.
"""

import argparse
import math
import pathlib
import shutil
import signal
import sys
import time
import tomllib

sys.dont_write_bytecode = True

import diffusers
import torch
import torch.nn.functional as F
from diffusers.training_utils import (
    EMAModel,
    compute_density_for_timestep_sampling,
    compute_loss_weighting_for_sd3,
)
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from pytorch import OnlyThere, model, scheduler  # beside this file
from tutorial import corrupt, load_images, read_idx  # tests/golden, which pytorch.py adds to the path

SAVING = 0.3  # seconds that saving takes


def refuse(table, known):
    """What is set and has no counterpart here would make the comparison unfair."""
    unknown = set(table) - set(known.split())
    if unknown:
        raise OnlyThere(", ".join(sorted(unknown)))


def clusters(images, labels, count):
    """The labels of clusters of each class, as crates/data/src/clusters.rs finds them, and the clusters' centres."""
    factor = math.ceil(max(images.shape[2:]) / 16)
    views = F.avg_pool2d(images, factor, ceil_mode=True, count_include_pad=False).flatten(1)
    divided, means = torch.empty_like(labels), {}
    for label in labels.unique().tolist():
        own = views[labels == label]
        chosen = torch.randperm(len(own), generator=torch.Generator().manual_seed(0))[:count]
        centres, nearest = own[chosen].clone(), None
        for _ in range(25):
            before, nearest = nearest, ((centres**2).sum(1) - 2 * own @ centres.T).argmin(1)
            if before is not None and torch.equal(before, nearest):
                break
            for cluster in nearest.unique().tolist():
                centres[cluster] = own[nearest == cluster].mean(0)
        divided[labels == label] = label * count + ((centres**2).sum(1) - 2 * own @ centres.T).argmin(1)
        means |= {label * count + cluster: centre for cluster, centre in enumerate(centres)}
    return divided, means


@torch.no_grad()
def resemble(table, means):
    """Begins similar clusters with similar rows, as crates/pipeline/src/train/trainer/beginning.rs does."""
    rows, views = torch.tensor(list(means)), torch.stack(list(means.values()))
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(views.shape[1] * table.shape[1], generator=generator).view(views.shape[1], -1)
    projected = (views - views.mean(0)) @ projection
    table[rows] = projected * (table.square().mean().sqrt() / projected.square().mean().sqrt())


class Objective:
    """The loss of a batch of images in 0..1, for each kind of scheduler."""

    def __init__(self, config):
        self.train = config["train"]
        self.settings = config["scheduler"]
        self.scheduler = scheduler(config)
        if self.train.get("loss", "mse") != "mse":
            raise OnlyThere(self.train["loss"])
        kinds = {"LinearMixScheduler": self.mix, "DDPMScheduler": self.ddpm}
        kinds["FlowMatchEulerDiscreteScheduler"] = self.flow
        self.loss = kinds.get(self.settings["_class_name"])
        if self.loss is None:
            raise OnlyThere(self.settings["_class_name"])

    def mix(self, net, x):
        amount, noise = torch.rand(len(x)), torch.rand(x.shape)
        return F.mse_loss(net(corrupt(x, noise, amount), self.settings.get("timestep", 0)), x)

    def ddpm(self, net, x):
        x = x * 2 - 1
        noise = torch.randn(x.shape)
        timesteps = torch.randint(0, self.scheduler.config.num_train_timesteps, (len(x),))
        prediction = net(self.scheduler.add_noise(x, noise, timesteps), timesteps)
        kind = self.scheduler.config.prediction_type
        target = {"epsilon": noise, "sample": x, "v_prediction": self.scheduler.get_velocity(x, noise, timesteps)}[kind]
        gamma = self.train.get("snr_gamma")
        if gamma is None:
            return F.mse_loss(prediction, target)
        alphas = self.scheduler.alphas_cumprod[timesteps]
        snr = alphas / (1 - alphas)
        weight = snr.clamp(max=gamma) / {"epsilon": snr, "sample": 1, "v_prediction": snr + 1}[kind]
        return (F.mse_loss(prediction, target, reduction="none").mean(dim=(1, 2, 3)) * weight).mean()

    def flow(self, net, x):
        x = x * 2 - 1
        noise = torch.randn(x.shape)
        scheme = self.train.get("weighting_scheme", "none")
        u = compute_density_for_timestep_sampling(
            scheme,
            len(x),
            logit_mean=self.train.get("logit_mean", 0.0),
            logit_std=self.train.get("logit_std", 1.0),
            mode_scale=self.train.get("mode_scale", 1.29),
        )
        indices = (u * self.scheduler.config.num_train_timesteps).long()
        sigmas = self.scheduler.sigmas[indices].view(-1, 1, 1, 1)
        prediction = net((1 - sigmas) * x + sigmas * noise, self.scheduler.timesteps[indices])
        weight = compute_loss_weighting_for_sd3(scheme, sigmas)
        return (weight * (prediction - (noise - x)) ** 2).mean()


class PowerAverage:
    """EDM2's power function average (Karras et al. 2024, eq. 127) of the first width."""

    def __init__(self, parameters, sigma_rel):
        self.shadow = [parameter.detach().clone() for parameter in parameters]
        self.steps, low, high = 0, 0.0, 1000.0
        for _ in range(100):  # sigma_rel falls with gamma
            gamma = (low + high) / 2
            width = (gamma + 1) ** 0.5 / (gamma + 2) / (gamma + 3) ** 0.5
            low, high = (gamma, high) if width > sigma_rel else (low, gamma)
        self.gamma = low

    def step(self, parameters):
        self.steps += 1
        weight = 1 - (1 - 1 / self.steps) ** (self.gamma + 1)
        torch._foreach_lerp_(self.shadow, [parameter.detach() for parameter in parameters], weight)

    def copy_to(self, parameters):
        for parameter, shadow in zip(parameters, self.shadow):
            parameter.data.copy_(shadow)


class Muon(torch.optim.Optimizer):
    """Muon for matrices and convolutions, as torch.optim.Muon with adjust_lr_fn="match_rms_adamw", but in f32."""

    def __init__(self, parameters, lr, momentum=0.95, weight_decay=0.01):
        super().__init__(parameters, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                mean = self.state[parameter].setdefault("mean", torch.zeros_like(parameter))
                mean.lerp_(parameter.grad, 1 - group["momentum"])
                direction = orthogonal(parameter.grad.lerp(mean, group["momentum"]).flatten(1))
                length = group["lr"] * 0.2 * max(direction.shape) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(direction.view(parameter.shape), alpha=length)


def orthogonal(matrix):
    """The nearest matrix with singular values of about 1, by five Newton-Schulz steps."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    return x.T if tall else x


def optimizers(net, train):
    """The optimisers of the network; Muon moves the hidden layers' matrices and convolutions, AdamW the rest."""
    kind = train.get("optimizer", "adam")
    adam = {key: train[key] for key in ("betas", "eps", "weight_decay") if key in train}
    adam["lr"] = lr = train["learning_rate"]
    if kind in ("adam", "adamw"):
        return [(torch.optim.Adam if kind == "adam" else torch.optim.AdamW)(net.parameters(), **adam)]
    if kind != "muon":
        raise OnlyThere(kind)

    def is_hidden(name, weight):
        return weight.dim() >= 2 and min(weight.shape[:2]) >= 8 and "embed" not in name

    hidden = [weight for name, weight in net.named_parameters() if is_hidden(name, weight)]
    rest = [weight for name, weight in net.named_parameters() if not is_hidden(name, weight)]
    muon = Muon(hidden, lr, train.get("momentum", 0.95), train.get("weight_decay", 0.01))
    return [muon, torch.optim.AdamW(rest, **adam)]


def average(parameters, train):
    """The average of the weights that samples, or None."""
    if train.get("ema_sigma_rel"):
        return PowerAverage(parameters, train["ema_sigma_rel"][0])
    if not train.get("use_ema"):
        return None
    return EMAModel(
        parameters,
        decay=train.get("ema_max_decay", 0.9999),
        min_decay=train.get("ema_min_decay", 0.0),
        update_after_step=train.get("ema_update_after_step", 0),
        use_ema_warmup=True,
        inv_gamma=train.get("ema_inv_gamma", 1.0),
        power=train.get("ema_power", 0.75),
    )


def rate(train, done, warmup):
    """The share of the learning rate when a share of the training is done."""
    kind = train.get("lr_scheduler", "constant")
    if kind != "constant" and done < warmup:
        return done / warmup
    rest = (1 - done) / (1 - warmup)
    kinds = {"constant": 1.0, "constant_with_warmup": 1.0, "linear": rest}
    kinds["cosine"] = 0.5 * (1 - math.cos(math.pi * rest))
    if kind not in kinds:
        raise OnlyThere(kind)
    return max(kinds[kind], 0.0)


def main():
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parser = argparse.ArgumentParser()
    for name in ("config", "like", "mnist", "out"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = tomllib.loads(args.config.read_text())
    try:
        train(config, args)
    except OnlyThere as missing:
        print(f"{args.config.name}: there is no {missing} in PyTorch here", file=sys.stderr)
        print("none")


def train(config, args):
    start = time.perf_counter()
    settings = config["train"]
    refuse(config["data"], "name classes clusters sources")
    refuse(
        settings,
        "epochs max_steps batch_size seed learning_rate lr_scheduler lr_warmup_steps optimizer betas eps momentum "
        "weight_decay max_grad_norm loss snr_gamma weighting_scheme logit_mean logit_std mode_scale class_dropout "
        "pixel_scale use_ema ema_inv_gamma ema_power ema_max_decay ema_min_decay ema_update_after_step ema_sigma_rel "
        # no part of the result
        "ema_snapshots checkpoint_every keep_checkpoints keep_best tensorboard sample_every eval_every",
    )
    classes = config["data"].get("classes", list(range(10)))
    images = load_images(args.mnist, classes)
    labels = read_idx(args.mnist / "train-labels-idx1-ubyte.gz").long()
    labels = labels[torch.isin(labels, torch.tensor(classes))]
    means = None
    if "clusters" in config["data"]:
        labels, means = clusters(images, labels, config["data"]["clusters"])
    images = 0.5 + (images - 0.5) * settings.get("pixel_scale", 1.0)
    torch.manual_seed(args.seed)
    net, shape = model(config["model"])
    if means:
        resemble(getattr(net, "unet", net).class_embedding.weight, means)
    net = net.to(memory_format=torch.channels_last)
    known, dropout = config["model"].get("num_class_embeds"), settings.get("class_dropout", 0.0)

    def forward(x, timesteps):
        if config["model"]["_class_name"] == "BasicUNet":
            return net(x)  # it is not conditioned on the timestep
        if known is None:
            return net(x, timesteps)
        of_batch = labels[indices]
        if dropout:  # the last class means no class
            of_batch = of_batch.masked_fill(torch.rand(len(x)) < dropout, known - 1)
        return net(x, timesteps, of_batch)

    parameters = list(net.parameters())
    optimizer = optimizers(net, settings)
    objective, ema = Objective(config), average(parameters, settings)
    batch = settings.get("batch_size", 128)
    planned = settings.get("epochs", 5) * math.ceil(len(images) / batch)
    planned = min(planned, settings.get("max_steps", planned))
    warmup = settings.get("lr_warmup_steps", 0) / planned

    # the loader draws as that of Kakusan does, so one seed gives the same batches, and the same first loss
    loader = DataLoader(range(len(images)), batch_size=batch, shuffle=True)
    steps, took, batches, first_loss = 0, 0.0, iter(()), None
    while True:
        begin = time.perf_counter()
        if steps and args.seconds - SAVING - (begin - start) < took:
            break
        indices = next(batches, None)
        if indices is None:
            batches = iter(loader)
            indices = next(batches)
        x = images[indices]
        for group in (group for part in optimizer for group in part.param_groups):
            group["lr"] = settings["learning_rate"] * rate(settings, (begin - start) / args.seconds, warmup)
        loss = objective.loss(forward, x)
        net.zero_grad()
        loss.backward()
        if "max_grad_norm" in settings:
            torch.nn.utils.clip_grad_norm_(parameters, settings["max_grad_norm"])
        for part in optimizer:
            part.step()
        if ema:
            ema.step(parameters)
        first_loss = loss.item() if first_loss is None else first_loss
        steps += 1
        took = time.perf_counter() - begin

    if ema:
        ema.copy_to(parameters)
    net = net.to(memory_format=torch.contiguous_format)
    save(net, objective.scheduler, args)
    print(f"parameters {sum(parameter.numel() for parameter in parameters)}")
    print(f"steps {steps}")
    print(f"first_loss {first_loss}")
    print(f"seconds {time.perf_counter() - start:.2f}")


def save(net, ddpm, args):
    """Saves a pipeline: diffusers does, unless it lacks a class of it."""
    if ddpm is not None and hasattr(net, "unet"):
        diffusers.DDPMPipeline(unet=net.unet, scheduler=ddpm).save_pretrained(args.out)
        return
    for name in ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json"):
        (args.out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(args.like / name, args.out / name)
    tensors = {name: tensor.contiguous() for name, tensor in getattr(net, "unet", net).state_dict().items()}
    save_file(tensors, args.out / "unet/diffusion_pytorch_model.safetensors", {"format": "pt"})


if __name__ == "__main__":
    main()
