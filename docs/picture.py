"""Make docs/report.png, the README's image of the demo's page: wide and light, narrow and dark. Needs Chromium.

python docs/picture.py runs/demo/report.html
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

HEIGHT, WIDE, NARROW, GAP = 1120, 1200, 390, 28
COLOURS = 256  # of the palette: the page has few, and the file stays small
STILL = "<style>html { scroll-behavior: auto !important; }</style></head>"  # no image of a page on its way


def main() -> None:
    """Take both images and put them side by side."""
    page = Path(sys.argv[1]).read_text("utf-8")
    dark = page.replace('<html lang="en">', '<html lang="en" data-theme="dark">')
    with tempfile.TemporaryDirectory() as folder:
        wide, narrow = (
            shoot(Path(folder), html, width, part) for html, width, part in ((page, WIDE, "s0"), (dark, NARROW, "s3"))
        )
    both = Image.new("RGB", (WIDE + GAP + NARROW, HEIGHT), (128, 128, 128))
    both.paste(wide, (0, 0))
    both.paste(narrow, (WIDE + GAP, 0))
    path = Path(__file__).parent / "report.png"
    both.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1024} kB")


def shoot(folder: Path, html: str, width: int, part: str) -> Image.Image:
    """Return what a window of `width` shows of a page; a frame, since no window is as narrow as a phone."""
    (folder / "page.html").write_text(html.replace("</head>", STILL), "utf-8")
    anchor = "" if part == "s0" else f"#{part}"
    frame = f'<iframe style="border:0" width="{width}" height="{HEIGHT}" src="page.html{anchor}"></iframe>'
    (folder / "frame.html").write_text(f'<body style="margin:0">{frame}</body>', "utf-8")
    browser = next(path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name)))
    command = [
        browser,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--allow-file-access-from-files",
        f"--user-data-dir={folder / 'profile'}",
        "--virtual-time-budget=3000",
        f"--window-size={max(width, 500)},{HEIGHT}",
        f"--screenshot={folder / 'shot.png'}",
    ]
    subprocess.run([*command, (folder / "frame.html").as_uri()], check=True, capture_output=True, timeout=120)
    return Image.open(folder / "shot.png").convert("RGB").crop((0, 0, width, HEIGHT))


if __name__ == "__main__":
    main()
