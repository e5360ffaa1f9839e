"""Grids, rulings, boards, polygons and letters as training clips: hard, thin and regular edges are rare among films."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .degrade import Luma
from .pages import FRAMES, HEIGHT, WIDTH

FINE = 2
"""Sheets are drawn this many times larger, moved there and averaged down, so that edges fall anywhere between pixels."""
MARGIN = 160
"""Pixels of sheet around the view, for it to move over."""
CELL = 200
"""Side of a patch of the sheet, in pixels of the clip."""


def _ink(rng: np.random.Generator) -> int:
    return int(rng.choice([rng.integers(16, 70), rng.integers(60, 190), rng.integers(180, 236)]))


def _patch(side: int, rng: np.random.Generator) -> Image.Image:
    """A square of one paper with one kind of drawing on it."""
    paper, ink = _ink(rng), _ink(rng)
    patch = Image.new("L", (side, side), paper)
    draw = ImageDraw.Draw(patch)
    kind = rng.choice(["grid", "lines", "board", "polygons", "letters", "dots"], p=[0.35, 0.15, 0.1, 0.2, 0.15, 0.05])
    width, pitch = int(rng.integers(1, 2 * FINE + 2)), float(rng.uniform(4, 30)) * FINE
    if kind in ("grid", "lines"):
        for n in range(int(side / pitch) + 1):
            at = n * pitch
            # Every so manieth line of a ruling is a bold one.
            bold = width + (FINE if n % 5 == 0 else 0)
            draw.line((at, 0, at, side), fill=ink, width=bold)
            if kind == "grid":
                draw.line((0, at, side, at), fill=ink, width=bold)
    elif kind == "board":
        for y in range(int(side / pitch) + 1):
            for x in range(y % 2, int(side / pitch) + 1, 2):
                draw.rectangle((x * pitch, y * pitch, (x + 1) * pitch, (y + 1) * pitch), fill=ink)
    elif kind == "polygons":
        for _ in range(int(rng.integers(3, 14))):
            centre, radius = rng.uniform(0, side, 2), rng.uniform(4, 50) * FINE
            angles = np.sort(rng.uniform(0, 2 * math.pi, rng.integers(3, 8)))
            corners = [(centre[0] + radius * math.cos(a), centre[1] + radius * math.sin(a)) for a in angles]
            draw.polygon(corners, fill=_ink(rng), outline=_ink(rng) if rng.random() < 0.5 else None)
    elif kind == "letters":
        fonts = sorted((Path(matplotlib.get_data_path()) / "fonts" / "ttf").glob("DejaVu*.ttf"))
        for _ in range(int(rng.integers(8, 30))):
            font = ImageFont.truetype(str(fonts[rng.integers(len(fonts))]), int(rng.integers(12, 70)) * FINE)
            letter = str(rng.choice(list("ABCDEFGHKLMNPRSTUVWXYZ0123456789&")))
            draw.text(tuple(rng.uniform(0, side, 2)), letter, fill=_ink(rng), font=font)
    else:
        centres = [float(v) for v in np.arange(pitch / 2, side, pitch)]
        for across, down in itertools.product(centres, centres):
            draw.ellipse((across - width, down - width, across + width, down + width), fill=ink)
    return patch


def shapes(rng: np.random.Generator) -> Luma:
    """A clip (FRAMES, HEIGHT, WIDTH) of patches, some turned, moving, turning and growing a little from frame to frame."""
    height, width = (HEIGHT + 2 * MARGIN) * FINE, (WIDTH + 2 * MARGIN) * FINE
    sheet = Image.new("L", (width, height))
    side = CELL * FINE
    for top in range(0, height, side):
        for left in range(0, width, side):
            if rng.random() < 0.5:
                patch = _patch(side, rng)
            else:
                big = _patch(2 * side, rng).rotate(float(rng.uniform(0, 90)), Image.Resampling.BICUBIC)
                patch = big.crop((side // 2, side // 2, side // 2 + side, side // 2 + side))
            sheet.paste(patch, (left, top))
    # A fifth stands still and a fifth moves by whole pixels.
    roll = rng.random()
    moves = rng.uniform(-3, 3, 2) * FINE
    if roll < 0.4:
        moves = np.zeros(2) if roll < 0.2 else np.rint(moves / FINE) * FINE
    turn, grow = (0.0, 0.0) if roll < 0.4 else (float(rng.normal(0, 0.003)), float(rng.normal(0, 0.002)))
    out, view = [], (WIDTH * FINE, HEIGHT * FINE)
    for n in range(FRAMES):
        k = n - FRAMES / 2
        a, b = math.cos(turn * k) * (1 + grow * k), math.sin(turn * k) * (1 + grow * k)
        x, y = width / 2 + moves[0] * k, height / 2 + moves[1] * k
        matrix = (a, b, x - a * view[0] / 2 - b * view[1] / 2, -b, a, y + b * view[0] / 2 - a * view[1] / 2)
        frame = sheet.transform(view, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC).reduce(FINE)
        out.append(np.clip(np.asarray(frame), 16, 235))
    return np.stack(out)
