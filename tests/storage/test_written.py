"""What is ours is replaced whole; what is not stays, byte for byte, whatever it is called and wherever a kill comes."""

import errno
import json
import os
import signal

import pytest

from mmclr.errors import UserError
from mmclr.storage import manifest, written
from tests.trees import tree

OLD = {"config.json": "old", "weights": "old weights", "captioner/a": "old", "gone": "old"}
NEW = {"config.json": "new", "weights": "new weights", "captioner/a": "new", "more/b": "new"}
OTHERS = {".git/HEAD": "ref", "notes.txt": "mine", "captioner/mine": "mine", "config.json.tmp": "mine"}
CALLS = ("replace", "rename", "unlink", "mkdir", "rmdir")


def fill(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def write(out, files, by="export", **kwargs):
    with written.folder(out, by, **kwargs) as partial:
        fill(partial, files)


def fail(out, error):
    with written.folder(out, "export") as partial:
        fill(partial, NEW)
        raise error


def shown(folder):
    """Return the text of each file but the manifest, by name."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return {name: (folder / name).read_text() for name in names if name != manifest.MANIFEST}


def beside(folder):
    return sorted(path.name for path in folder.parent.iterdir() if ".mmclr" in path.name)


@pytest.mark.parametrize("others", [{}, OTHERS], ids=["alone", "with others' files"])
def test_a_folder_is_replaced_and_others_files_stay(tmp_path, others):
    out = tmp_path / "out"
    write(out, OLD)
    fill(out, others)
    (out / "link").symlink_to(tmp_path) if others else None
    write(out, NEW)
    assert shown(out) == {**NEW, **others}
    assert (out / "link").is_symlink() == bool(others)
    assert beside(out) == []


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    write(tmp_path / "v1", OLD)
    (tmp_path / "latest").symlink_to("v1")
    write(tmp_path / "latest", NEW)
    assert (tmp_path / "latest").is_symlink()
    assert shown(tmp_path / "v1") == NEW


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda out: (out / "weights").write_text("edited"), "was changed since"),
        (lambda out: ((out / "weights").unlink(), (out / "weights").symlink_to("/etc/hostname")), "was changed since"),
        (lambda out: fill(out, {"more": "a file where a folder is due"}), "is in the way"),
        (lambda out: (out / "more" / "b").mkdir(parents=True), "is in the way"),
        (lambda out: fill(out, {"more/b": "mine"}), "is in the way"),
        (lambda out: (out / "more").symlink_to(out.parent), "is in the way"),
        (lambda out: (out / manifest.MANIFEST).write_text("not lines\n[1]\n{}"), "is not an export"),
        (lambda out: (out / manifest.MANIFEST).unlink(), "is not an export"),
        (lambda out: fill(out.parent, {".out.mmclr-part/mine": "mine"}), "did not make"),
        (lambda out: fill(out.parent, {".out.mmclr-old/mine": "mine"}), "did not make"),
    ],
)
def test_what_is_not_ours_is_refused_and_nothing_changes(tmp_path, spoil, said):
    out = tmp_path / "out"
    write(out, OLD)
    spoil(out)
    before = tree(tmp_path)
    with pytest.raises(UserError, match=said):
        write(out, NEW)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("make", [lambda out: out.write_text("x"), lambda out: fill(out, {"mine": "x"})])
def test_a_place_that_is_taken_is_refused(tmp_path, make):
    make(tmp_path / "out")
    before = tree(tmp_path)
    with pytest.raises(UserError, match=r"a file stands|is not an export"):
        write(tmp_path / "out", NEW)
    assert tree(tmp_path) == before


def test_what_is_read_is_not_written_over(tmp_path):
    write(tmp_path / "out", OLD)
    (tmp_path / "other").symlink_to("out")
    before = tree(tmp_path)
    for read in ("out", "out/config.json", "other", "out/../out/captioner", "out/{0..3}.tar"):
        with pytest.raises(UserError, match="it is read"):
            write(tmp_path / "out", NEW, reads=[tmp_path / read])
    assert tree(tmp_path) == before
    write(tmp_path / "out", NEW, reads=[tmp_path])


def test_only_a_part_is_replaced(tmp_path):
    write(tmp_path / "out", {"names": "a", "train/0.tar": "train"})
    write(tmp_path / "out", {"names": "b", "test/0.tar": "test"}, part=lambda name: not name.startswith("train/"))
    assert shown(tmp_path / "out") == {"names": "b", "train/0.tar": "train", "test/0.tar": "test"}


def test_a_manifest_names_nothing_outside_its_folder(tmp_path):
    fill(tmp_path, {"mine": "mine"})
    write(tmp_path / "out", OLD)
    for name in ("../mine", str(tmp_path / "mine"), "", ".."):
        line = {"name": name, "sha256": manifest.sha256(tmp_path / "mine"), "by": "export"}
        manifest.note(tmp_path / "out", line)
    write(tmp_path / "out", NEW)
    assert (tmp_path / "mine").read_text() == "mine"


def test_an_error_leaves_nothing(tmp_path):
    for error in (UserError("no"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")):
        before = tree(tmp_path)
        with pytest.raises((UserError, KeyboardInterrupt, OSError)) as found:
            fail(tmp_path / "out", error)
        assert tree(tmp_path) == before
    assert found.value.errno == errno.ENOSPC


def killed(work, at):
    """Do `work` in a child that is killed before its `at`-th change of the disk; say whether it was."""
    pid = os.fork()
    if pid == 0:
        count = iter(range(1000))

        def counted(call):
            def wrapped(*args, **kwargs):
                if next(count) == at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **kwargs)

            return wrapped

        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        work()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("others", [{}, OTHERS], ids=["alone", "with others' files"])
def test_a_kill_at_any_moment_loses_nothing(tmp_path, others):
    """Alone, the old folder or the new one is there, or comes back; the next call ends with the new one and no rest."""
    for at in range(60):
        out = tmp_path / str(at) / "out"
        write(out, OLD)
        fill(out, others)
        was = killed(lambda out=out: write(out, NEW), at)
        there = shown(out) if out.exists() else None
        assert there in (None, OLD, NEW) or others
        assert there is None or others.items() <= there.items()
        write(out, NEW)
        assert shown(out) == {**NEW, **others}
        assert beside(out) == []
        if not was:
            return
    raise AssertionError("it never came to its end")


def test_files(tmp_path):
    path = tmp_path / "deep" / "page.html"
    written.write(path, "one", "report")
    written.write(path, "two", "report")
    assert path.read_text() == "two"
    os.link(path, tmp_path / "kept")
    (tmp_path / "link").symlink_to(path)
    written.write(tmp_path / "link", "three", "report")  # through the link, and not into the hard link's bytes
    assert (path.read_text(), (tmp_path / "kept").read_text()) == ("three", "two")
    assert (tmp_path / "link").is_symlink()
    before = tree(tmp_path)
    for place, by in (
        (path, "evaluation"),
        (tmp_path / "kept", "report"),
        (tmp_path, "report"),
        (path / "x", "report"),
    ):
        with pytest.raises(UserError):
            written.write(place, "four", by)
    assert tree(tmp_path) == before
    path.write_text("edited")
    with pytest.raises(UserError, match="or no longer"):
        written.write(path, "four", "report")
    assert path.read_text() == "edited"
    written.write("/dev/null", "x", "report")


def test_a_kill_leaves_the_old_file_or_the_new(tmp_path):
    path = tmp_path / "page.html"
    for at in range(20):
        path.unlink(missing_ok=True)
        written.write(path, "old", "report")
        was = killed(lambda: written.write(path, "new", "report"), at)
        assert path.read_text() == ("old" if was else "new")
        written.write(path, "new", "report")
        assert sorted(os.listdir(tmp_path)) == [manifest.MANIFEST, "page.html"]
        if not was:
            return
    raise AssertionError("it never came to its end")


def test_growing_files_are_claimed(tmp_path):
    log = tmp_path / "log.jsonl"
    assert written.claim(log, "log") == log
    log.write_text("line\n")
    assert written.claim(log, "log") == log
    with pytest.raises(UserError, match="exists and is not"):
        written.claim(log, "captions")
    mine = tmp_path / "mine.jsonl"
    mine.write_text(json.dumps({"step": 1}))
    with pytest.raises(UserError, match="exists and is not"):
        written.claim(mine, "log")
    written.claim(mine, "log", lambda start: b"step" in start)
    assert written.claim(mine, "log") == mine
