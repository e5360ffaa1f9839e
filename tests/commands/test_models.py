"""`vsflashsr models`: what is there is found, what is damaged is named, what is got is checked and resumed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import vapoursynth as vs

from vsflashsr import flashsr
from vsflashsr.commands import app, doctor, getting
from vsflashsr.errors import FlashsrError
from vsflashsr.models import library, published
from vsflashsr.models.locate import builtin_names

from ..support.clips import digest, noise
from ..support.hub import REVISION, Hub, serving

pytest.importorskip("huggingface_hub", reason="models are got with huggingface_hub: install the extra export")

FILES = {
    "diffusion_pytorch_model_streaming_dmd.safetensors": bytes(range(250)) * 1200,
    "LQ_proj_in.ckpt": b"L" * 40_000,
    "TCDecoder.ckpt": b"T" * 20_000,
    "Wan2.1_VAE.pth": b"W" * 10_000,
    "posi_prompt.pth": b"P" * 1_000,
}


@pytest.fixture(autouse=True)
def own_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "meine Modelle ü"
    monkeypatch.setattr(library, "models_folder", lambda: folder)
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serving(Hub("someone/Flash", dict(FILES))) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        prompt = tmp_path / "prompt"
        prompt.write_bytes(FILES["posi_prompt.pth"])
        blob = published.Blob("posi_prompt.pth", f"{hub.url}/other/posi_prompt.pth", getting.git_sha1(prompt))
        entry = published.PUBLISHED["flashvsr-v1.1"]
        export = (*entry.export, "--head-dim", "32")
        entry = replace(entry, repository="someone/Flash", licence="unknown", prompt=blob, export=export)
        monkeypatch.setitem(published.PUBLISHED, "flashvsr-v1.1", entry)
        yield hub


@pytest.fixture
def converts(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> list[dict[str, bytes]]:
    """The conversion, replaced by one that makes a tiny bundle and tells which files it was given."""
    given: list[dict[str, bytes]] = []

    def convert(entry: published.Published, checkpoint: Path, out: Path, **_: Any) -> None:
        files = [path for path in checkpoint.rglob("*") if path.is_file()]
        given.append({path.relative_to(checkpoint).as_posix(): path.read_bytes() for path in files})
        shutil.copytree(tiny, out)

    monkeypatch.setattr(getting, "convert", convert)
    return given


def got(hub: Hub, name: str) -> list[str]:
    """The Range of each request for a file's content."""
    return [part for method, path, part in hub.asked if method == "GET" and path.endswith(f"/{name}")]


def test_a_model_that_was_got_is_found_by_its_name(
    hub: Hub, converts: list[dict[str, bytes]], own_library: Path, capsys: pytest.CaptureFixture[str], tiny: Path
) -> None:
    clip = noise(4, 32, 32)
    with pytest.raises(vs.Error, match=r"isn't here yet; vsflashsr models get flashvsr-v1\.1"):
        flashsr(clip, 2, model="flashvsr-v1.1")
    assert app.main(["models", "get", "flashvsr-v1.1", "--yes"]) == 0
    out, err = capsys.readouterr()
    assert out == 'flashvsr-v1.1: flashsr(clip, model="flashvsr-v1.1")\n'
    # Licence and size come first, from the hub, not from the table.
    assert "licence: apache-2.0" in err
    assert "to fetch: 0.4 MB in 3 files" in err
    wanted = set(FILES) - {"Wan2.1_VAE.pth"}
    assert converts == [{name: FILES[name] for name in wanted}]
    assert not (own_library / ".downloads" / "flashvsr-v1.1").exists()
    with flashsr(clip, 2, model="flashvsr-v1.1").get_frame(3) as a, flashsr(clip, 2, model=tiny).get_frame(3) as b:
        assert digest(a) == digest(b)
    assert app.main(["models", "list"]) == 0
    listed = capsys.readouterr().out
    assert "flashvsr-v1.1  recurrent" in listed
    assert app.main(["models", "get", "flashvsr-v1.1", "--yes"]) == 1
    assert "the model 'flashvsr-v1.1' is there already" in capsys.readouterr().err


def test_nothing_is_fetched_unasked(hub: Hub, converts: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Tests have no terminal, so nobody agrees."""
    assert app.main(["models", "get", "flashvsr-v1.1"]) == 1
    assert "licence: apache-2.0" in capsys.readouterr().err
    assert [path for _, path, _ in hub.asked if "/resolve/" in path or "/other/" in path] == []
    assert converts == []


def test_an_interrupted_download_goes_on_where_it_stopped(
    hub: Hub, converts: list[dict[str, bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    name = "diffusion_pytorch_model_streaming_dmd.safetensors"
    hub.broken[name] = 100_000
    assert app.main(["models", "get", "flashvsr-v1.1", "--yes"]) == 1
    assert "run the command again" in capsys.readouterr().err.splitlines()[-1]
    hub.broken.clear()
    hub.asked.clear()
    assert app.main(["models", "get", "flashvsr-v1.1", "--yes"]) == 0
    assert got(hub, name) == ["bytes=100000-"]
    assert converts[0][name] == FILES[name]


def test_whole_files_arent_fetched_again(hub: Hub, monkeypatch: pytest.MonkeyPatch, converts: list[Any]) -> None:
    """As after a conversion that failed."""
    working = getting.convert

    def fails(*_: Any, **__: Any) -> None:
        raise FlashsrError("no")

    monkeypatch.setattr(getting, "convert", fails)
    assert app.main(["models", "get", "flashvsr-v1.1", "--yes"]) == 1
    hub.asked.clear()
    monkeypatch.setattr(getting, "convert", working)
    assert app.main(["models", "get", "flashvsr-v1.1", "--yes"]) == 0
    assert [path for method, path, _ in hub.asked if method == "GET" and "/api/" not in path] == []
    assert len(converts) == 1


def test_a_file_that_isnt_what_its_hash_says_is_refused(
    hub: Hub, converts: list[Any], own_library: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.lies["LQ_proj_in.ckpt"] = "0" * 64
    assert app.main(["models", "get", "flashvsr-v1.1", "--yes"]) == 1
    assert "LQ_proj_in.ckpt isn't the file it should be" in capsys.readouterr().err
    assert not (own_library / ".downloads" / "flashvsr-v1.1" / "LQ_proj_in.ckpt").exists()
    assert converts == []


def test_a_prompt_that_was_changed_is_refused(
    hub: Hub, converts: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    hub.files["posi_prompt.pth"] = b"Q" * 1_000
    assert app.main(["models", "get", "flashvsr-v1.1", "--yes"]) == 1
    assert "posi_prompt.pth" in capsys.readouterr().err.splitlines()[-1]
    assert converts == []


def test_a_release_with_folders_and_without_a_prompt(
    hub: Hub, converts: list[dict[str, bytes]], own_library: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = published.PUBLISHED["swiftvr"]
    hub.repository, hub.files = entry.repository, {name: name.encode() * 100 for name in entry.files}
    assert app.main(["models", "get", "swiftvr", "--yes", "--precision", "bf16"]) == 0
    err = capsys.readouterr().err
    assert "SwiftVR by its authors, H-oliday/SwiftVR at" in err and "in 4 files\n" in err
    assert "about 9.0 GB" in err
    assert converts == [hub.files]
    assert library.installed_names() == ["swiftvr-bf16"]


def test_an_own_prompt_needs_no_second_server(hub: Hub, converts: list[dict[str, bytes]], tmp_path: Path) -> None:
    del hub.files["posi_prompt.pth"]
    own = tmp_path / "mine.pth"
    own.write_bytes(b"mine")
    assert app.main(["models", "get", "flashvsr-v1.1", "--yes", "--prompt", str(own), "--name-as", "my-own"]) == 0
    assert converts[0]["posi_prompt.pth"] == b"mine"
    assert library.installed_names() == ["my-own"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "what can be got is"),
        (["flashvsr-v1.1", "--prompt", "nothing"], "there is no file 'nothing'"),
        (["flashvsr-v1.1", "--name-as", "../out"], "--name-as is a plain name"),
        (["flashvsr-v1.1", "--name-as", ".hidden"], "--name-as is a plain name"),
        (["swiftvr", "--variant", "full"], "--variant says nothing to swiftvr, got 'full'"),
    ],
)
def test_what_cant_be_got_is_a_sentence(
    arguments: list[str], message: str, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["models", "get", *arguments, "--yes"]) == 1
    assert message in capsys.readouterr().err
    assert hub.asked == []


def test_no_network_is_a_sentence(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = published.PUBLISHED["flashvsr-v1.1"]
    monkeypatch.setitem(published.PUBLISHED, "flashvsr-v1.1", replace(entry, repository="someone/Else"))
    assert app.main(["models", "get", "flashvsr-v1.1", "--yes"]) == 1
    assert "'someone/Else' can't be fetched" in capsys.readouterr().err
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert app.main(["models", "get", "flashvsr-v1.1", "--yes"]) == 1
    assert "check the network" in capsys.readouterr().err


def test_too_little_room_is_said_before_anything_is_fetched(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1_000_000))
    assert app.main(["models", "get", "flashvsr-v1.1", "--yes"]) == 1
    assert "3.4 GB are needed" in capsys.readouterr().err
    assert [path for _, path, _ in hub.asked if "/resolve/" in path] == []


def test_verify_names_what_is_damaged(own_library: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(tiny, own_library / "good")
    shutil.copytree(tiny, own_library / "bad")
    assert app.main(["models", "verify"]) == 0
    assert capsys.readouterr().out.count("are what they should be") == len(builtin_names()) + 2
    graph = own_library / "bad" / "x2.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\xff")
    assert app.main(["models", "verify"]) == 1
    assert "bad: damaged: " in capsys.readouterr().out
    assert app.main(["models", "verify", "good"]) == 0
    assert app.main(["models", "list"]) == 1
    assert "bad            damaged: " in capsys.readouterr().out
    found = {finding.what: finding.state for finding in doctor._models()}
    assert found == {"bad": "no", "good": "ok", **dict.fromkeys(builtin_names(), "ok")}


def test_a_name_is_no_path(own_library: Path, tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "outside")
    own_library.mkdir()
    assert library.installed("../outside") is None
    assert REVISION not in library.installed_names()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_swiftvr_becomes_a_bundle_in_one_go(hub: Hub) -> None:
    from ..support.swiftvr_small import small_folder

    entry = published.PUBLISHED["swiftvr"]
    hub.repository = entry.repository
    hub.files = {name: (small_folder() / name).read_bytes() for name in entry.files}
    assert app.main(["models", "get", "swiftvr", "--yes", "--precision", "fp32", "--name-as", "swiftvr"]) == 0
    out = flashsr(noise(3, 32, 32), 4, model="swiftvr", threads=1)
    with out.get_frame(2) as frame:
        assert (frame.width, frame.height) == (128, 128)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_checkpoint_becomes_a_bundle_in_one_go(hub: Hub, own_library: Path) -> None:
    """The whole way, with FlashVSR's own exporter and a checkpoint of toy width with random weights."""
    from ..support.flashvsr_small import small_folder

    hub.files = {path.name: path.read_bytes() for path in small_folder().iterdir()}
    entry = published.PUBLISHED["flashvsr-v1.1"]
    assert entry.prompt is not None
    prompt = replace(entry.prompt, git_sha1=getting.git_sha1(small_folder() / "posi_prompt.pth"))
    published.PUBLISHED["flashvsr-v1.1"] = replace(entry, prompt=prompt)  # the fixture puts the old one back
    assert (
        app.main(["models", "get", "flashvsr-v1.1", "--yes", "--precision", "fp32", "--name-as", "flashvsr-v1.1"]) == 0
    )
    assert not list(own_library.glob(".downloads/*/*"))
    out = flashsr(noise(3, 32, 32), 4, model="flashvsr-v1.1", threads=1)
    with out.get_frame(2) as frame:
        assert (frame.width, frame.height) == (128, 128)
    assert app.main(["models", "verify", "flashvsr-v1.1"]) == 0
