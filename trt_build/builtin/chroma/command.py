r"""Train what predicts chroma for the built-in models at one scale, and add it to their bundles.

    python -m trt_build.builtin.chroma --data CLIPS --scale 2 --out RUN --export vsflashsr/bundles/builtin

The network sees the luma that --models make of degraded clips, in turn, and the chroma that the filter would resize; it learns
the clips' own chroma. A run that was interrupted goes on with --resume, to the same bytes as without the interruption (same
machine, same --threads). What is shipped is trained on from the checkpoints in the repository's folder checkpoints/:

    python -m trt_build.builtin.chroma --data CLIPS --scale 2 --out RUN --start-from checkpoints/chroma-x2.pt --steps 1000
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import sys
from pathlib import Path

import torch

from .data import Sampler, prepare, split
from .export import add_to_bundle, load
from .network import ChromaConfig
from .train import TrainConfig, Trainer

log = logging.getLogger("train_chroma")

SHAPES = {2: ChromaConfig(2, channels=48), 4: ChromaConfig(4, channels=32)}
"""By scale: 9 % of what builtin's luma takes, 10 % at x4."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    defaults = TrainConfig()
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, required=True, help="folder of clips, which are degraded here")
    p.add_argument("--cache", type=Path, help="where pairs are kept (OUT/cache)")
    p.add_argument("--out", type=Path, required=True, help="folder of the run")
    p.add_argument("--scale", type=int, choices=[2, 4], required=True)
    p.add_argument("--models", nargs="+", default=["builtin", "builtin", "builtin-hq"], help="what makes luma, in turn")
    p.add_argument("--channels", type=int, help="width of the network (that of what is shipped)")
    p.add_argument("--steps", type=int, default=defaults.steps)
    p.add_argument("--stop", type=int, help="stop after this step, to be resumed later")
    p.add_argument("--seed", type=int, default=defaults.seed)
    p.add_argument("--batch", type=int, default=defaults.batch)
    p.add_argument("--crop", type=int, default=defaults.crop, help="side, in pixels of the chroma that is made")
    p.add_argument("--rate", type=float, default=defaults.rate)
    p.add_argument("--sharpness", type=float, default=defaults.sharpness, help="weight of SSIMULACRA2")
    p.add_argument("--validate-every", type=int, default=defaults.validate_every)
    p.add_argument("--save-every", type=int, default=defaults.save_every)
    p.add_argument("--resume", action="store_true", help="go on from OUT/last.pt if it exists")
    p.add_argument("--start-from", type=Path, help="take the weights of another run (.pt)")
    p.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads")
    p.add_argument("--export", type=Path, nargs="*", default=[], help="bundles to add the graph to at the end")
    return p.parse_args(arguments)


def train(a: argparse.Namespace) -> Path:
    """Run the training; the checkpoint."""
    training, held = split(prepare(a.data, a.cache or a.out / "cache", a.scale, a.models, a.seed, a.threads))
    log.info("%d pairs to train on, held out: %s", len(training), ", ".join(sorted({p.name for p in held})) or "none")
    shape = SHAPES[a.scale]
    if a.channels:
        shape = dataclasses.replace(shape, channels=a.channels)
    names = {f.name for f in dataclasses.fields(TrainConfig)}
    config = TrainConfig(**{k: v for k, v in vars(a).items() if k in names})
    trainer = Trainer(shape, config, a.out)
    if a.resume and trainer.checkpoint.exists():
        trainer.resume()
    elif a.start_from:
        trainer.start_from(a.start_from)
    log.info("%.1f thousand multiply-adds per low-resolution pixel", trainer.net.macs() / 1000)
    trainer.run(Sampler(training, a.batch, a.crop, a.seed), held, a.stop)
    return trainer.checkpoint


def main() -> None:
    """Train, then export."""
    a = parse()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    torch.set_num_threads(a.threads)
    checkpoint = train(a)
    net, state = load(checkpoint)
    about = {"config": state["config"], "steps": state["step"], "gain over Spline36, held out": state["log"][-1:]}
    for folder in a.export:
        log.info("the graph in %s equals torch within %.1e", folder, add_to_bundle(net, folder, about))
