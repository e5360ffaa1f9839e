"""One chunk: frames of the script into the encoder, its bytes into a file; frames counted on both sides."""

from __future__ import annotations

import hashlib
import io
import runpy
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from ..errors import FlashsrError
from ..y4m import FRAME, Colour, Header
from . import programs
from .chunks import Chunk
from .encoders import ENCODERS, command_for
from .plan import Plan
from .work import Record, flush

if TYPE_CHECKING:
    import vapoursynth as vs

_REPORT_S = 0.25
_LEAST_RATE, _MOST_RATE = Fraction(1), Fraction(300)
"""Frames a second that x265 takes; it "can't open" a stream of others. When each is shown, the container says anyway."""


@dataclass(frozen=True, slots=True)
class Clips:
    """A script's outputs."""

    out: vs.VideoNode
    source: vs.VideoNode
    """What goes into the filter."""


def open_script(path: Path, variables: Mapping[str, Any]) -> Clips:
    """Evaluate a job's script.

    Raises:
        FlashsrError: it fails, by what the filter or a plugin says.
    """
    import vapoursynth as vs

    try:
        runpy.run_path(str(path), init_globals=dict(variables))
    except (vs.Error, ImportError, AttributeError) as error:
        raise FlashsrError(_plainly(error)) from error
    return Clips(_clip(0), _clip(1))


def _plainly(error: Exception) -> str:
    """A script's error as a sentence."""
    text = " ".join(str(error).split()).removeprefix("flashsr: ")
    if isinstance(error, ImportError) and error.name == "vsdeinterlace":
        return 'QTGMC comes with vs-jetpack and its plugins, got none; pip install "vsflashsr[qtgmc]"'
    if isinstance(error, ImportError | AttributeError):
        return f"the script needs a plugin or package that isn't there, got {text}; pip install it (vsflashsr doctor lists them)"
    return text


def _clip(index: int) -> vs.VideoNode:
    import vapoursynth as vs

    output = vs.get_output(index)
    assert isinstance(output, vs.VideoOutputTuple)
    return output.clip


@dataclass(slots=True)
class _Bytes:
    """What the encoder puts out, on its way into a file; run by a thread."""

    source: IO[bytes]
    sink: BinaryIO
    count: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    failure: OSError | None = None

    def pump(self, on_failure: Callable[[], None]) -> None:
        try:
            while data := self.source.read(1 << 18):
                self.sink.write(data)
                self.digest.update(data)
                self.count += len(data)
        except OSError as error:
            self.failure = error
            on_failure()


def encode(
    plan: Plan,
    clips: Clips,
    chunk: Chunk,
    sink: BinaryIO,
    report: Callable[[int, int], None],
    started: Callable[[subprocess.Popen[bytes]], None] = lambda process: None,
) -> Record:
    """Encode one chunk.

    Args:
        sink: takes the encoder's bytes; flushed to the disk at the end if it is a file.
        report: told of frames delivered to the encoder and bytes got from it, a few times a second.
        started: told of the encoder's process.

    Raises:
        FlashsrError: the encoder, the disk or the model fails. A failing *source* is no error: the chunk then ends early,
            and its record says why.
    """
    encoder = ENCODERS[plan.settings.encoder]
    program = programs.find(encoder.program, encoder.what)
    command = command_for(program, plan.settings, plan.says, chunk.frames, plan.bits)
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    started(process)
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    pump = _Bytes(process.stdout, sink)
    said: deque[str] = deque(maxlen=40)
    threads = [
        threading.Thread(target=pump.pump, args=(process.kill,), daemon=True),
        threading.Thread(target=_listen, args=(process.stderr, said), daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        shown, failure = _feed(plan, clips, chunk, process.stdin, lambda n: report(n, pump.count))
        status = process.wait()
        for thread in threads:
            thread.join()
    finally:
        process.kill()
        process.wait()
    _check(plan, command, status, pump, "\n".join(said))
    if failure is None and shown < chunk.frames:
        raise FlashsrError(
            f"the encoder {plan.settings.encoder} stopped reading, got {shown} of {chunk.frames} frames; see its options"
        )
    if isinstance(sink, io.BufferedWriter):
        try:
            flush(sink)
        except OSError as error:
            raise _disk(error) from error
    return Record(chunk.index, chunk.start, chunk.stop, pump.count, pump.digest.hexdigest(), shown, failure)


def _check(plan: Plan, command: list[str], status: int, pump: _Bytes, said: str) -> None:
    if pump.failure is not None:
        raise _disk(pump.failure)
    if status != 0 or pump.count == 0:
        words = programs.last_words(said) or f"exit code {status}"
        raise FlashsrError(
            f"the encoder {plan.settings.encoder} failed, got from {Path(command[0]).name}: {words}; see its options"
        )


def _disk(error: OSError) -> FlashsrError:
    return FlashsrError(
        f"an encoded chunk can't be written, got {error.strerror}; make room and run the same command again: "
        "what is finished is kept"
    )


def _listen(source: IO[bytes], said: deque[str]) -> None:
    for line in io.TextIOWrapper(source, "utf-8", "replace"):
        said.append(line)


def _feed(
    plan: Plan, clips: Clips, chunk: Chunk, pipe: IO[bytes], report: Callable[[int], None]
) -> tuple[int, str | None]:
    """Write the chunk's frames as y4m; how many there were, and why there were no more if the source failed."""
    import vapoursynth as vs

    part = clips.out[chunk.start : chunk.stop]
    shown, last_report = 0, 0.0
    failure: str | None = None
    try:
        pipe.write(_header(plan, part))
        try:
            for frame in part.frames(close=True):
                pipe.write(FRAME + b"\n")
                for piece in frame.readchunks():
                    pipe.write(piece)
                shown += 1
                if (now := time.monotonic()) - last_report > _REPORT_S:
                    report(shown)
                    last_report = now
        except vs.Error as error:
            failure = _source_failure(clips, chunk, shown, error)
        pipe.close()
    except (BrokenPipeError, OSError):
        # The encoder has ended before its input did: its exit code and words say why.
        pass
    report(shown)
    return shown, failure


def _source_failure(clips: Clips, chunk: Chunk, shown: int, error: Exception) -> str:
    """The source's own error near the frame that failed.

    Raises:
        FlashsrError: the source is fine there, so that the model failed.
    """
    import vapoursynth as vs

    failed = chunk.start + shown
    if shown or chunk.start:
        for n in range(max(0, failed - 64), min(failed + 64, clips.source.num_frames)):
            try:
                clips.source.get_frame(n).close()
            except vs.Error as reason:
                return f"frame {n} of the source can't be decoded ({' '.join(str(reason).split())})"
    raise FlashsrError(f"frame {failed} failed: {' '.join(str(error).split()).removeprefix('flashsr: ')}") from error


def _header(plan: Plan, clip: vs.VideoNode) -> bytes:
    shape = clip.format
    assert shape is not None
    grey = shape.color_family.name == "GRAY"
    return Header(
        width=clip.width,
        height=clip.height,
        colour=Colour(None if grey else (shape.subsampling_w, shape.subsampling_h), shape.bits_per_sample),
        rate=min(max(Fraction(*plan.rate), _LEAST_RATE), _MOST_RATE),
        aspect=None if plan.says.sample_aspect is None else Fraction(*plan.says.sample_aspect),
        interlacing="p",
        full_range=plan.says.full_range,
    ).line()
