"""The HTML page: complete, self-contained, safe; tried in a browser if one is here."""

import dataclasses
import html.parser
import io
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from jax_vidpred.data.schema import DataError
from jax_vidpred.report import plots
from jax_vidpred.report.page import contact_sheet, headline_of, write_page
from jax_vidpred.report.panels import VideoReport

MALICIOUS = '<script>alert("1")</script>"\'&.mp4'


def make_report(name, *, size=32, known=True, num_context=6, num_future=4):
    rng = np.random.default_rng(0)
    scene = rng.integers(60, 200, (1, size, size, 3))
    noise = rng.integers(0, 8, (num_context + num_future, size, size, 3))
    video = np.uint8(scene + noise)
    truth = video[num_context:]
    return VideoReport(
        name=name,
        context=video[:num_context],
        predictions={"flow-warp": truth, "flow-warp + TTT": truth},
        truth=truth if known else None,
        flow=rng.normal(size=(num_context + num_future - 1, 8, 8, 2)),
        visible=np.ones((num_context + num_future - 1, 8, 8)),
        psnr={"flow-warp": np.linspace(35, 30, num_future)} if known else {},
        collision_probability=np.linspace(0, 1, num_context + num_future - 1),
        collisions_true=[2, 7] if known else None,
        note=f"note on {name}",
    )


SCORES = {
    "flow-warp": {"psnr": 31.7, "ssim": 0.9},
    "copy-last": {"psnr": 28.1, "ssim": 0.8},
}


def write_example(path):
    write_page(
        path,
        title=f"a title {MALICIOUS}",
        summary_table=SCORES | {MALICIOUS: {"psnr": 3.0}},
        videos=[make_report("first.mp4"), make_report(MALICIOUS, known=False)],
        curves={"training": plots.loss_curves([{"step": 1, "train/loss": 2.0}])},
        provenance={"command": f"predict --videos '{MALICIOUS}'"},
    )
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_example(tmp_path_factory.mktemp("page") / "new" / "report.html")


class Outline(html.parser.HTMLParser):
    """Counts tags, collects attributes and the text outside of script and style."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self._open = [], [], "", None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        self._open = tag

    def handle_data(self, data):
        if self._open not in ("script", "style"):
            self.text += data


def test_every_part_is_there(page):
    outline = Outline(page.read_text())
    # Known truth: last seen, truth, two systems, error, flow, visible; else two fewer.
    assert outline.tags.count("canvas") == 7 + 5
    assert outline.tags.count("article") == 2
    assert outline.tags.count("input") == 2
    assert outline.tags.count("video") == 2
    # PSNR and collisions of the first, collisions of the second, one loss.
    assert outline.tags.count("svg") == 4
    assert "31.7 dB PSNR, 3.6 dB better than copying the last frame" in outline.text
    assert "From 6 frames, the next 4 were predicted." in outline.text


def test_a_wheel_of_directions_stands_where_there_is_flow(page, tmp_path):
    assert "colour of each direction" in page.read_text()
    still = dataclasses.replace(make_report("still.mp4"), flow=None)
    parts = dict(summary_table=SCORES, curves={}, provenance={})
    write_page(tmp_path / "still.html", title="a", videos=[still], **parts)
    assert "colour of each direction" not in (tmp_path / "still.html").read_text()


def test_what_rounds_to_no_gain_is_none():
    scores = {"flow-warp": {"psnr": 28.12}, "copy-last": {"psnr": 28.1}}
    words = "flow-warp reaches 28.1 dB PSNR, no better than copying the last frame"
    assert headline_of(scores, []).startswith(words)


def test_names_are_text_wherever_they_appear(page):
    outline = Outline(page.read_text())
    assert outline.tags.count("script") == 1
    assert outline.text.count(MALICIOUS) >= 4  # title, table, video, provenance


def test_nothing_is_fetched(page):
    sources = [
        value
        for key, value in Outline(page.read_text()).attributes
        if key in ("src", "href", "xlink:href", "poster", "action", "srcset")
    ]
    assert len(sources) > 12
    assert all(value.startswith(("data:", "#")) for value in sources)
    assert "@import" not in page.read_text()
    assert not re.search(r"url\((?!#)", page.read_text())


def test_what_a_drawing_refers_to_is_there(page):
    text = page.read_text()
    targets = re.findall(r'(?:url\(|href=")#([^")]+)', text)
    assert set(targets) == set(re.findall(r' id="([^"]+)"', text)) != set()


def test_eight_videos_of_128_pixels_stay_below_ten_megabytes(tmp_path):
    sizes = []
    for count in (0, 1):
        report = make_report("a.mp4", size=128, num_context=20, num_future=12)
        write_page(
            tmp_path / "page.html",
            title="size",
            summary_table=SCORES,
            videos=[report] * count,
            curves={},
            provenance={},
        )
        sizes.append((tmp_path / "page.html").stat().st_size)
    # Noise, which compresses worse than any rendered scene, may take twice as much.
    assert sizes[0] + 8 * (sizes[1] - sizes[0]) < 2 * 10e6


def test_contact_sheet_holds_every_frame():
    frames = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)
    data, columns, size = contact_sheet(frames, lossless=True)
    assert (columns, size) == (3, (6, 4))
    sheet = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert sheet.shape == (8, 18, 3)
    for k, frame in enumerate(frames):
        y, x = k // 3 * 4, k % 3 * 6
        np.testing.assert_array_equal(sheet[y : y + 4, x : x + 6], frame)


def test_contact_sheet_shrinks_large_frames():
    frames = np.zeros((2, 320, 480, 3), np.uint8)
    _, _, size = contact_sheet(frames, lossless=False)
    assert size == (256, 171)


def test_headlines():
    scores = {"a": {"psnr": 30.0}, "copy-last": {"psnr": 31.0}}
    assert "a reaches 30.0 dB PSNR, 1.0 dB worse than" in headline_of(scores, [])
    assert headline_of({"a": {"psnr": 30.0}}, []) == "a reaches 30.0 dB PSNR."
    ceiling = {"VAE ceiling": {"psnr": 40.0}}
    best = headline_of(scores | {"a + TTT": {"psnr": 30.5}} | ceiling, [])
    assert best.startswith("a + TTT reaches 30.5")
    assert "not known" in headline_of({}, [make_report("a", known=False)])


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError):
        write_example(tmp_path / "file" / "page.html")
    assert (tmp_path / "file").read_text() == ""


def browse(page, profile):
    """The document after the script has run, and what the browser complained about."""
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={profile}",
        "--enable-logging=stderr",
        "--virtual-time-budget=10000",
        "--dump-dom",
        page.as_uri(),
    ]
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=True
    )
    return run.stdout, [line for line in run.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(not shutil.which("chromium"), reason="no Chromium in PATH")
def test_in_a_browser(page, tmp_path):
    document, complaints = browse(page, tmp_path / "profile")
    assert complaints == []
    outline = Outline(document)
    assert outline.tags.count("canvas") == 12
    assert outline.tags.count("script") == 1
    # The script has drawn: the counter has text and the cursor has a place.
    assert re.search(r"predicted \d of 4|context \d of 6", outline.text)
    assert outline.text.count("Pause") == 2
    assert "translate(" in document


@pytest.mark.skipif(not shutil.which("chromium"), reason="no Chromium in PATH")
def test_the_browser_refuses_what_the_page_does_not_bring_along(page, tmp_path):
    smuggled = (
        '<img src="http://example.invalid/a.png"><script>document.title=1</script>'
    )
    changed = tmp_path / "changed.html"
    changed.write_text(page.read_text().replace("</main>", smuggled + "</main>"))
    document, complaints = browse(changed, tmp_path / "profile")
    assert len(complaints) == 2
    assert all("Content Security Policy" in line for line in complaints)
    assert "<title>a title" in document
