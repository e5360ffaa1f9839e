r"""Train the built-in model on a folder of clips and export it as a bundle.

    python -m trt_build.builtin --data CLIPS --scale 2 --out X2 --export BUNDLE
    python -m trt_build.builtin --data CLIPS --scale 4 --out X4 --start-from X2/single.pt --single 6000 \
        --single-loss psnr --export BUNDLE

It trains in two phases: on single frames, in many small crops, then on sequences, where the memory is learned.
Clips may be of any size and format that PyAV reads; they should have no scene cut inside. Decoded and degraded
versions are kept in --cache. A run that was interrupted goes on with --resume, to the same bytes as without the
interruption (same machine, same --threads). Its folder holds `last.pt`, `single.pt` (as the
first phase ended), `log.jsonl` and `curve.png`. What is shipped is trained on from the compact checkpoints
in the repository's folder checkpoints/:

    python -m trt_build.builtin --data CLIPS --scale 2 --out X2 --start-from checkpoints/builtin-x2.pt --single 0 \
        --steps 1200 --sharpness 0.12 --compact checkpoints/builtin-x2.pt --export vsflashsr/bundles/builtin

Own pairs, such as a DVD and a Blu-ray of the same film (the same frames, aligned, exactly --scale times as large), are taken as
they are, alone or beside --data; what is exported is a bundle of its own, `flashsr(clip, model="MINE")`:

    python -m trt_build.builtin --pairs PAIRS --scale 2 --out MINE-RUN --start-from checkpoints/builtin-x2.pt --single 0 \
        --steps 1200 --export MINE --name mine
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import sys
from pathlib import Path

import torch

from . import compact
from .data import Sampler, prepare, prepare_pairs, split
from .export import check_graph, export_graph, load, write_bundle
from .network import NetConfig
from .train import TrainConfig, Trainer

log = logging.getLogger("train_builtin")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    defaults, shape = TrainConfig(single=9000, steps=1000), NetConfig(scale=2)
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, help="folder of clips, which are degraded here")
    p.add_argument("--pairs", type=Path, help="folder of own pairs: low/NAME.* and high/NAME.*, the same frames")
    p.add_argument("--cache", type=Path, help="where decoded and degraded clips are kept (OUT/cache)")
    p.add_argument("--out", type=Path, required=True, help="folder of the run")
    p.add_argument("--scale", type=int, choices=[2, 4], default=2)
    p.add_argument("--single", type=int, default=defaults.single, help="steps on single frames (%(default)s)")
    p.add_argument("--steps", type=int, default=defaults.steps, help="steps on sequences after that (%(default)s)")
    p.add_argument("--stop", type=int, help="stop after this step, to be resumed later")
    p.add_argument("--seed", type=int, default=defaults.seed)
    p.add_argument("--resume", action="store_true", help="go on from OUT/last.pt if it exists")
    p.add_argument("--start-from", type=Path, help="take the weights of a graph (.onnx) or another run (.pt) where they fit")
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    p.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads")
    p.add_argument("--frames", type=int, default=64, help="frames used of each clip, at most")
    p.add_argument("--drawn", type=int, default=8, help="clips of text, and of shapes, that are drawn (%(default)s)")
    p.add_argument("--single-batch", type=int, default=defaults.single_batch)
    p.add_argument("--single-crop", type=int, default=defaults.single_crop)
    p.add_argument("--single-rate", type=float, default=defaults.single_rate)
    p.add_argument("--single-loss", choices=["charbonnier", "psnr"], default=defaults.single_loss)
    p.add_argument("--loss", choices=["charbonnier", "psnr"], default=defaults.loss, help="of the second phase")
    p.add_argument("--sharpness", type=float, default=defaults.sharpness, help="weight of luma's SSIMULACRA2")
    p.add_argument("--batch", type=int, default=defaults.batch)
    p.add_argument("--length", type=int, default=defaults.length, help="frames of a training sequence")
    p.add_argument("--crop", type=int, default=defaults.crop, help="side in low-resolution pixels")
    p.add_argument("--margin", type=int, default=defaults.margin, help="pixels around it that motion is found by")
    p.add_argument("--rate", type=float, default=defaults.rate, help="learning rate")
    p.add_argument("--decay", type=float, default=defaults.decay, help="part of each phase in which it falls")
    p.add_argument("--validate-every", type=int, default=defaults.validate_every)
    p.add_argument("--save-every", type=int, default=defaults.save_every)
    p.add_argument("--channels", type=int, default=shape.channels)
    p.add_argument("--layers", type=int, default=shape.layers)
    p.add_argument("--export", type=Path, help="bundle folder to write the graph into at the end")
    p.add_argument("--compact", type=Path, help="file to write the run into at the end, small enough for the repository")
    p.add_argument("--name", default="builtin", help="the bundle's name")
    found = p.parse_args(arguments)
    if not found.data and not found.pairs:
        p.error("there is nothing to train on; give --data, --pairs or both")
    return found


def train(a: argparse.Namespace) -> Path:
    """Run the training; the checkpoint."""
    cache = a.cache or a.out / "cache"
    clips = prepare(a.data, cache, a.scale, a.frames, a.seed, a.threads, a.drawn) if a.data else []
    clips += prepare_pairs(a.pairs, cache, a.scale, a.frames) if a.pairs else []
    training, held = split(clips)
    log.info("%d clips to train on, held out: %s", len(training), ", ".join(c.name for c in held))
    shape = NetConfig(a.scale, a.channels, a.layers)
    names = {f.name for f in dataclasses.fields(TrainConfig)}
    config = TrainConfig(**{k: v for k, v in vars(a).items() if k in names})
    trainer = Trainer(shape, config, a.out, a.device)
    if a.resume and trainer.checkpoint.exists():
        trainer.resume()
    elif a.start_from:
        trainer.start_from(a.start_from)
    single = Sampler(training, a.scale, a.single_batch, 1, a.single_crop, a.seed)
    sequences = Sampler(training, a.scale, a.batch, a.length, a.crop, a.seed, a.margin)
    trainer.run(single, sequences, held, a.stop)
    return trainer.checkpoint


def export(checkpoint: Path, folder: Path, name: str) -> None:
    """Add a run's graph to the bundle in `folder`, and check it against torch."""
    net, state = load(checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"x{net.config.scale}.onnx"
    export_graph(net, path)
    log.info("%s equals torch within %.1e", path, check_graph(net, path))
    about = {"config": state["config"], "steps": state["step"], "validation": state["log"][-1:]}
    write_bundle(folder, name, {f"x{net.config.scale}": about})


def main() -> None:
    """Train, then export."""
    a = parse()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    torch.set_num_threads(a.threads)
    checkpoint = train(a)
    if a.compact:
        compact.save(checkpoint, a.compact)
    if a.export:
        export(checkpoint, a.export, a.name)
