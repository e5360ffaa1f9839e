"""Pages of text as training clips: screens and documents are rare among films, and text must stay text."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .degrade import Luma

HEIGHT, WIDTH, FRAMES = 368, 640, 24
LETTERS = "eeeeeetttttaaaaooooiiiinnnnsssshhhrrrdddlllccuummwffggyyppbbvkxjqz"


def _word(rng: np.random.Generator) -> str:
    word = "".join(rng.choice(list(LETTERS), rng.integers(1, 10)))
    style = rng.random()
    if style < 0.08:
        return str(rng.integers(0, 10 ** int(rng.integers(1, 6))))
    if style < 0.2:
        word = word.capitalize()
    elif style < 0.25:
        word = word.upper()
    return word + str(rng.choice(["", "", "", "", ",", ".", ":", ")", "-", "?"]))


def page(rng: np.random.Generator) -> Luma:
    """A clip (FRAMES, HEIGHT, WIDTH) of columns of text in all the fonts of matplotlib, still or scrolling."""
    fonts = sorted((Path(matplotlib.get_data_path()) / "fonts" / "ttf").glob("*.ttf"))
    fonts = [f for f in fonts if f.stem.startswith(("DejaVu", "STIXGeneral")) and "Display" not in f.stem]
    steps = [(0, 0), (0, 0), (1, 0), (2, 0), (0, 1), (0, 3), (3, 1)]
    down, across = steps[rng.integers(len(steps))]
    height, width = HEIGHT + FRAMES * down, WIDTH + FRAMES * across
    sheet = Image.new("L", (width, height))
    draw = ImageDraw.Draw(sheet)
    for left in range(0, width, 240):
        top = 0
        while top < height:
            paper, ink = int(rng.integers(190, 236)), int(rng.integers(16, 90))
            if rng.random() < 0.25:
                paper, ink = ink, paper
            size, bottom = int(rng.integers(9, 24)), top + int(rng.integers(50, 160))
            font = ImageFont.truetype(str(fonts[rng.integers(len(fonts))]), size)
            draw.rectangle((left, top, left + 240, bottom), fill=paper)
            for baseline in range(top + 3, bottom - size, round(size * 1.25)):
                line = " ".join(_word(rng) for _ in range(480 // size))
                # The next column paints over what is too long.
                draw.text((left + 4, baseline), line, fill=ink, font=font)
            if rng.random() < 0.3:
                draw.line((left, bottom - 1, left + 240, bottom - 1), fill=ink, width=int(rng.integers(1, 3)))
            top = bottom
    whole = np.asarray(sheet)
    views = [whole[n * down : n * down + HEIGHT, n * across : n * across + WIDTH] for n in range(FRAMES)]
    return np.stack(views)
