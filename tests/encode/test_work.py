"""A job's folder: what a killed run leaves in it, and what is left of it in the end."""

from pathlib import Path

from vsflashsr.encode.work import PART, WorkFolder


def test_what_a_killed_run_was_writing_is_swept_and_nothing_else(tmp_path: Path) -> None:
    for name in (f"chunk-00001.mkv.12{PART}", f"plan.json.7{PART}", "chunk-00000.mkv", "script.vpy"):
        (tmp_path / name).touch()
    WorkFolder(tmp_path).sweep()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chunk-00000.mkv", "script.vpy"]


def test_a_finished_job_leaves_only_what_isn_t_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "out.mkv.work"
    folder.mkdir()
    for name in (f"chunk-00001.mkv.12{PART}", "script.vpy", "plan.json", "others.mkv", "source.bsindex.1"):
        (folder / name).touch()
    WorkFolder(folder).remove()
    assert not folder.exists()
    folder.mkdir()
    (folder / "notes.txt").touch()
    WorkFolder(folder).remove()
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
