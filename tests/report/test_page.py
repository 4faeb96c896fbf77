"""The page: one file without references to others; in a browser no error, no sideways scrolling, tables that sort."""

import base64
import hashlib
import json
import math
import re
import shutil
import subprocess
from html import escape

import numpy as np
import pytest
from PIL import Image

from mmclr.report import Page, charts, scatter
from mmclr.report.gallery import Found, Prediction, Query
from mmclr.report.images import to_image
from mmclr.report.tables import Number

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
PROBE = """
<script>
document.querySelectorAll("th button")[1].click();
const cells = [...document.querySelectorAll("tbody tr")].map((row) => row.cells[1].textContent);
document.querySelector("svg[data-hover]").dispatchEvent(new PointerEvent("pointermove", { clientX: 150, clientY: 9 }));
document.getElementById("theme").click();
const root = document.documentElement;
const { dataset } = parent.document.documentElement;
dataset.probe = JSON.stringify({
  cells, tip: document.querySelector(".tip").textContent, theme: root.dataset.theme,
  wide: root.scrollWidth - root.clientWidth, width: innerWidth });
</script>"""


@pytest.fixture
def page():
    red = Image.new("RGB", (64, 64), (200, 30, 30))
    found = [Found(red, i == 2, "a <name> that is far too long for its tile", 0.9 - i / 10) for i in range(10)]
    log = [{"step": s, "loss": 5 * math.exp(-s / 30), "data_wait": s / 1000} for s in range(100)]
    return (
        Page("A & B <run>", "what it says")
        .numbers([Number("recall@10", 0.29, (0.26, 0.32), "n = 955", chance=0.01, aim=0.27), Number("time", "5 min")])
        .gallery("Finds", [Query("cloud off", found, "note"), Query("like this", found[:3], image=red)])
        .predictions("Classes", [Prediction(red, "heart", [("heart", 0.7), ("fire", 0.2)])])
        .curves(log, limits={"loss": {"chance": 4.0}})
        .charts(
            "Scores",
            [
                charts.histogram("similarity", {"right": [0.1, 0.5], "wrong": [0.0, 0.2]}),
                scatter.scatter("map", {"image": [[0, 1, "a"]], "text": [[1, 0, "b"]]}),
            ],
        )
        .add("Matrix", scatter.heatmap("matrix", [[1] * 50] * 50, [f"a class of number {i}" for i in range(50)]))
        .table("Table", ["metric", "value"], [["acc1", 0.25], ["acc5", None], ["recall", 0.75], ["x" * 90, 12_345]])
        .text("Next", "Run `mmclr train`.")
    )


def test_the_page_refers_to_nothing_outside_itself(page, tmp_path):
    html = page.save(tmp_path / "new" / "report.html").read_text("utf-8")
    references = re.findall(r"(?:src|href|srcset|action|data|poster)\s*=\s*[\"']([^\"']*)", html)
    assert references
    assert all(r.startswith(("data:", "#")) for r in references)
    assert not re.search(
        r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(|<link(?! rel=\"icon\" href=\"data:,\")", html
    )


def test_what_users_wrote_is_escaped(page):
    html = page.html()
    assert "<name>" not in html
    assert "A &amp; B &lt;run&gt;" in html


def test_right_answers_are_marked_and_the_first_is_named(page):
    html = page.html()
    assert html.count('<li class="right" title') == 2
    assert html.count("found at 3") == 2


def test_a_result_becomes_its_numbers():
    tree = {"task": "t", "dataset": "d", "metrics": {"acc1": 0.5, "acc5": None}, "ci95": {"acc1": [0.4, 0.6]}, "n": {}}
    html = Page("x").result(tree).html()
    for part in ("t · d", "0.500", "0.400 – 0.600", "<b>–</b>"):
        assert part in html


@pytest.mark.parametrize(
    "make",
    [lambda i: i, lambda i: np.asarray(i), lambda i: np.asarray(i).transpose(2, 0, 1)],
    ids=["pil", "hwc", "chw"],
)
def test_pictures_come_in_every_form(make, tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8))
    assert (np.asarray(to_image(make(image))) == np.asarray(image)).all()
    image.save(tmp_path / "x.png")
    for source in (tmp_path / "x.png", (tmp_path / "x.png").read_bytes()):
        assert (np.asarray(to_image(source)) == np.asarray(image)).all()


def browse(path):
    """Render a page; return its DOM and what it wrote to the console."""
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    command += [f"--user-data-dir={path.parent / 'profile'}", "--window-size=1300,1000", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here (apt-get install chromium): the page is not rendered")
@pytest.mark.parametrize("width", [1200, 390])
def test_in_a_browser(page, tmp_path, width):
    digest = base64.b64encode(hashlib.sha256(re.search(r"<script>(.*)</script>", PROBE, re.S)[1].encode()).digest())
    probed = page.html().replace("</body>", PROBE + "</body>")
    probed = probed.replace("script-src ", f"script-src &#39;sha256-{digest.decode()}&#39; ")  # else it is not run
    path = tmp_path / "frame.html"  # a window cannot be as narrow as a phone, a frame in it can
    frame = f'<iframe style="border:0" width="{width}" height="900" srcdoc="{escape(probed)}"></iframe>'
    path.write_text('<meta charset="utf-8">' + frame, "utf-8")
    dom, console = browse(path)
    assert not console
    probe = json.loads(re.search(r'data-probe="([^"]+)"', dom)[1].replace("&quot;", '"'))
    assert probe["width"] == width
    assert probe["wide"] <= 0  # nothing makes the page scroll sideways
    assert probe["cells"] == ["12,345", "0.7500", "0.2500", "–"]  # numbers from the largest, the missing one last
    assert probe["tip"].startswith("step ")
    assert probe["theme"] in ("dark", "light")


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here (apt-get install chromium): the page is not rendered")
def test_an_error_in_the_page_would_be_seen(tmp_path):
    path = tmp_path / "broken.html"
    path.write_text("<script>missing.call()</script>")
    assert browse(path)[1]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here (apt-get install chromium): the page is not rendered")
def test_a_script_that_is_not_ours_does_not_run(page, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(page.html().replace("</body>", "<script>document.title = 'taken'</script></body>"))
    dom, console = browse(path)
    assert "<title>A &amp; B &lt;run&gt;</title>" in dom
    assert any("Content Security Policy" in line for line in console)
