"""Prints what the vote on fields says of progressive clips: as they are, woven to interlaced ones, and put through 3:2 pulldown.

python scripts/field_votes.py CLIP...
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import vapoursynth as vs

from vsflashsr.encode import fields


def woven(clip: vs.VideoNode) -> vs.VideoNode:
    """Every second moment a field: top field first."""
    return clip.std.SeparateFields(tff=True).std.SelectEvery(4, [0, 3]).std.DoubleWeave(tff=True)[::2]


def telecined(clip: vs.VideoNode) -> vs.VideoNode:
    """Four frames to five, as film was brought to 60 fields a second."""
    pattern = [0, 1, 2, 3, 2, 5, 4, 7, 6, 7]
    return clip.std.SeparateFields(tff=True).std.SelectEvery(8, pattern).std.DoubleWeave(tff=True)[::2]


def judge(clip: vs.VideoNode, flag: fields.FieldOrder | None) -> tuple[fields.Finding, fields.Evidence]:
    def luma(n: int) -> fields.Array:
        with clip.get_frame(n) as frame:
            return np.array(frame[0])

    evidence = fields.gather(clip.num_frames, luma)
    return fields.decide(evidence, flag), evidence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, nargs="+", help="progressive clips")
    arguments = parser.parse_args()
    right: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for path in arguments.clips:
        clip = vs.core.bs.VideoSource(str(path), cachemode=0)
        made: list[tuple[fields.Kind, vs.VideoNode, fields.FieldOrder | None]] = [("progressive", clip, None)]
        if clip.height % 4 == 0:
            made += [("interlaced", woven(clip), "tff"), ("telecine", telecined(clip), "tff")]
        for kind, made_clip, flag in made:
            finding, evidence = judge(made_clip, flag)
            seen[kind] += 1
            right[kind] += finding.kind == kind
            if finding.kind != kind:
                sys.stdout.write(f"{path.name}: {kind} taken for {finding.kind}: {evidence}\n")
    for name, count in seen.items():
        sys.stdout.write(f"{name}: {right[name]} of {count}\n")


if __name__ == "__main__":
    main()
