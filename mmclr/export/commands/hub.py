"""Upload an export with its model card to the Hugging Face Hub; --dry-run shows what."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mmclr.display.terminal import say
from mmclr.errors import UserError
from mmclr.export import card, parity
from mmclr.export.commands import open_clip, transformers
from mmclr.export.origin import Source, add_arguments, written

FORMATS = ("transformers", "open_clip", "both")


def main(argv: list[str]) -> None:
    """`mmclr export hub CHECKPOINT USER/NAME`."""
    parser = argparse.ArgumentParser(
        description="Export a checkpoint, compare it, and upload the folder with its model card. An upload that broke "
        "off goes on when the same command is given again: what the Hub has is not sent twice. Log in first, with "
        "`hf auth login` or HF_TOKEN.",
        epilog="example: mmclr export hub runs/demo me/my-clip --license mit --results results/*.json --dry-run",
    )
    add_arguments(parser)
    parser.add_argument("repository", metavar="USER/NAME", help="made if it is not there yet")
    parser.add_argument("--private", action="store_true", help="only you see it (when it is made here)")
    parser.add_argument("--dry-run", action="store_true", help="export and compare, show every file, send nothing")
    parser.add_argument("--format", choices=FORMATS, default="transformers", help="for whom; both doubles the weights")
    parser.add_argument("--keep", default="", metavar="FOLDER", help="keep the exported folder there")
    args = parser.parse_args(argv)
    _check_name(args.repository)
    source = Source.open(args.checkpoint, args.weights, args.dtype)
    with _folder(args.keep) as folder:
        write(source, folder, args.repository, card.About(args.results, args.license), args.format)
        for path, size in files(folder):
            say(f"{size / 1e6:10.3f} MB  {path}")
        if args.dry_run:
            say(f"{args.repository}: nothing was sent (--dry-run)")
        else:
            say(f"{args.repository}: {upload(folder, args.repository, args.private)}")


def write(source: Source, out: Path, repository: str, about: card.About, format: str = "transformers") -> None:
    """Write the folder that becomes the repository."""
    with written(out, source) as partial:
        differences: dict[str, float] = {}
        if format in ("transformers", "both"):
            transformers.fill(source, partial)
            differences |= parity.compare(source, transformers.load(partial))
        if format in ("open_clip", "both"):
            open_clip.fill(source, partial, repository)
            found = parity.compare(source, open_clip.load(partial))
            differences |= {f"open_clip_{name}": value for name, value in found.items()}
        parity.insist(source, differences, partial)
        kind = open_clip if format == "open_clip" else transformers
        card.write(partial, source, differences, repository, about, kind.FORMAT)


def files(folder: Path) -> list[tuple[str, int]]:
    """Return the files of a folder that are sent, with their sizes in bytes."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder) for path in found]
    return [(str(name), (folder / name).stat().st_size) for name in names if not name.parts[0].startswith(".")]


def upload(folder: Path, repository: str, private: bool = False) -> str:
    """Send a folder to the Hub and return the address of the commit."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    api = HfApi()
    try:
        api.create_repo(repository, private=private or None, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message="Upload a model with mmclr",
            ignore_patterns=[".*"],  # nothing of ours has such a name but the manifest; others are .git and .cache
        )
    except OfflineModeIsEnabled:
        raise UserError("HF_HUB_OFFLINE is set, so nothing can be sent; unset it, or use --dry-run") from None
    except HfHubHTTPError as error:
        why = next(iter(str(error).strip().splitlines()), type(error).__name__)
        code = getattr(error.response, "status_code", None)
        what = "log in with `hf auth login` or set HF_TOKEN" if code in (401, 403) else "give the command again"
        raise UserError(f"{repository}: the Hub refused ({why}); {what}") from None
    except (OSError, RuntimeError) as error:
        raise UserError(f"{repository}: the upload broke off ({error}); the same command goes on from there") from None
    return str(commit.commit_url)


def _check_name(repository: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UserError(f"{repository}: not the name of a repository ({error}); write USER/NAME") from None
    if "/" not in repository:
        raise UserError(f"{repository}: whose? write USER/NAME")


@contextlib.contextmanager
def _folder(keep: str) -> Iterator[Path]:
    if keep:
        yield Path(keep)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "model"
