"""What lower precision of a built-in model's trunk gains on this CPU, and what it costs: frames a second and dB, as a table.

    python scripts/bench_precision.py CLIP [CLIP …] [--model builtin] [--scale 4] [--size 480x270] [--frames 4] [--runs 5]

Forms: ONNX Runtime in fp32 (what is shipped), ONNX Runtime with the trunk's convolutions in int8 (8-bit activations calibrated on
samples/clips, weights per channel), OpenVINO in fp32, and OpenVINO with bf16 where the CPU has it. All run one after the other,
frame by frame, in the same run, with one thread each: the median time and its ratio to the first form. Quality is PSNR against
that form's frames, on the clips that were given, which must not be those of the calibration.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vsflashsr.models.locate import locate

CALIBRATION = Path(__file__).parents[1] / "samples" / "clips" / "butterfly_270p.mp4"
type Array = NDArray[np.float32]
type Run = Callable[[dict[str, Array]], dict[str, Array]]


def luma(path: Path, width: int, height: int, count: int) -> list[Array]:
    """The first frames of a clip, (1, 1, height, width) in 0..1."""
    import av

    frames: list[Array] = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            plane = frame.reformat(width, height, "gray", interpolation="AREA").to_ndarray()
            frames.append((plane.astype(np.float32) / np.float32(255))[None, None])
            if len(frames) == count:
                break
    return frames


def feeds(run: Run, frames: list[Array], scale: int) -> Iterator[tuple[dict[str, Array], dict[str, Array]]]:
    """What a form is given and makes for each frame, its own state carried along."""
    _, _, height, width = frames[0].shape
    state = {
        "state.luma": np.zeros((1, 1, height, width), np.float32),
        "state.picture": np.zeros((1, 1, 2 * height, 2 * width), np.float32),
    }
    for frame in frames:
        given = {"frames": frame, **state}
        made = run(given)
        yield given, made
        state = {f"state.{name}": made[f"next.{name}"] for name in ("luma", "picture")}


def onnx_form(path: Path) -> Run:
    """ONNX Runtime, one thread."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda given: dict(zip(names, session.run(names, given), strict=True))


def openvino_form(path: Path, precision: str) -> Run:
    """OpenVINO on the CPU, one thread."""
    import openvino

    hints = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(str(path), "CPU", hints)
    request = compiled.create_infer_request()
    names = {output.get_any_name(): output for output in compiled.outputs}

    def run(given: dict[str, Array]) -> dict[str, Array]:
        made = request.infer(given, share_inputs=True, share_outputs=False)
        return {name: made[port] for name, port in names.items()}

    return run


def quantised(path: Path, to: Path, frames: list[Array], scale: int) -> None:
    """The graph with the convolutions of its trunk and head in int8."""
    import onnx
    from onnxruntime import quantization as q

    class Reader(q.CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
        def __init__(self) -> None:
            self._given = iter([given for given, _ in feeds(onnx_form(path), frames, scale)])

        def get_next(self) -> dict[str, Array] | None:
            return next(self._given, None)

    graph = onnx.load(path).graph
    nodes = [n.name for n in graph.node if n.op_type == "Conv" and ("trunk" in n.name or "/head/" in n.name)]
    q.quantize_static(
        path,
        to,
        Reader(),
        quant_format=q.QuantFormat.QDQ,
        per_channel=True,
        activation_type=q.QuantType.QUInt8,
        weight_type=q.QuantType.QInt8,
        nodes_to_quantize=nodes,
    )


def psnr(a: Array, b: Array) -> float:
    """dB between pictures in 0..1, clipped as the filter's output is."""
    error = float(np.mean((np.clip(a, 0, 1) - np.clip(b, 0, 1)) ** 2))
    return float("inf") if error == 0 else -10 * float(np.log10(error))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--size", default="480x272", help="a multiple of 8 each (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    width, height = map(int, given.size.split("x"))
    path = locate(given.model) / f"x{given.scale}.onnx"
    with tempfile.TemporaryDirectory() as folder:
        int8 = Path(folder) / "int8.onnx"
        quantised(path, int8, luma(CALIBRATION, width, height, 8), given.scale)
        forms: dict[str, Run] = {
            "ONNX Runtime fp32": onnx_form(path),
            "ONNX Runtime int8 trunk": onnx_form(int8),
            "OpenVINO fp32": openvino_form(path, "f32"),
            "OpenVINO bf16": openvino_form(path, "bf16"),
        }
        times: dict[str, list[float]] = {name: [] for name in forms}
        quality: dict[str, list[float]] = {name: [] for name in forms}
        for clip in given.clips:
            frames = luma(clip, width, height, given.frames)
            made = {name: [out["out"] for _, out in feeds(run, frames, given.scale)] for name, run in forms.items()}
            for name, pictures in made.items():
                first = made["ONNX Runtime fp32"]
                quality[name] += [psnr(a, b) for a, b in zip(pictures, first, strict=True)]
        probe: dict[str, Any] = next(iter(feeds(forms["ONNX Runtime fp32"], frames, given.scale)))[0]
        for _ in range(given.runs):
            for name, run in forms.items():
                started = time.perf_counter()
                run(probe)
                times[name].append(time.perf_counter() - started)
    base = statistics.median(times["ONNX Runtime fp32"])
    print(f"{given.model} ×{given.scale}, {given.size}, {len(given.clips)} clips, {platform.machine()}, one thread\n")
    print("| form | ms a frame | times as fast | PSNR against fp32, mean / worst |\n|---|---|---|---|")
    for name, values in times.items():
        middle = statistics.median(values)
        worst = f"{np.mean(quality[name]):.1f} / {min(quality[name]):.1f}" if name != "ONNX Runtime fp32" else "-"
        print(f"| {name} | {1e3 * middle:.0f} | {base / middle:.2f} | {worst} |")


if __name__ == "__main__":
    main()
