"""One video and its predictions as pictures that stand side by side."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Absolute difference, as a share of the full range, that the heat map shows brightest.
ERROR_RANGE = 0.3
# Grid pixels per frame: slower clips do not get their noise blown up to full colour.
FLOW_RANGE_MIN = 0.1

_PAPER = (255, 255, 255)
_INK = (32, 36, 42)
_QUIET = (112, 120, 130)
_SEEN = (176, 183, 191)
_PREDICTED = (224, 123, 0)


@dataclasses.dataclass(frozen=True)
class VideoReport:
    """All that a report shows about one video; h, w are those of the model's frames.

    Attributes:
      name: what the reader knows the video by, e.g. its file name; any text.
      context: [c, h, w, 3] uint8, the frames that the model was given.
      predictions: system name -> [t, h, w, 3] uint8; the first is the main one, whose
        error is drawn.
      truth: [t, h, w, 3] uint8, or None where the future is not known.
      flow: [n, gh, gw, 2] backward flow of the main system (see the architecture's flow
        convention), grid pixels; the last entry belongs to the last predicted frame.
      visible: [n, gh, gw] or [n, gh, gw, 1] in [0, 1]; aligned as `flow`.
      psnr: curve name -> [t] dB; predictions and references such as "copy-last".
      collision_probability: [n] in [0, 1]; aligned as `flow`.
      collisions_true: frames with a true collision; 0 = the first context frame.
      changed_from: name of the prediction that the main one is a change of, by other
        labels; what changes is drawn, not the error.
      num_samples: so many predictions, from the first on, are futures that one system
        has drawn; how they differ is drawn besides.
      note: a sentence for the reader, e.g. what test-time training gained here.
    """

    name: str
    context: np.ndarray
    predictions: Mapping[str, np.ndarray]
    truth: np.ndarray | None = None
    flow: np.ndarray | None = None
    visible: np.ndarray | None = None
    psnr: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    collision_probability: np.ndarray | None = None
    collisions_true: Sequence[float] | None = None
    changed_from: str = ""
    num_samples: int = 1
    note: str = ""

    def __post_init__(self):
        if not self.predictions:
            raise ValueError(f"{self.name}: no predictions, expected at least one")
        frame = np.shape(self.context)[1:]
        future = (self.num_future, *frame)
        videos = {"context": (self.context, (self.num_context, *frame))}
        videos |= {f"predictions[{k!r}]": (v, future) for k, v in self._predictions()}
        if self.truth is not None:
            videos["truth"] = (self.truth, future)
        for key, (video, shape) in videos.items():
            if video.dtype != np.uint8 or video.shape != shape or shape[-1:] != (3,):
                raise ValueError(
                    f"{self.name}: {key} is {video.dtype} {list(video.shape)}, expected"
                    f" uint8 {list(shape[:-1])} + [3]"
                )
        total = self.num_context + self.num_future
        for key in ("flow", "visible", "collision_probability"):
            value = getattr(self, key)
            if value is not None and not 0 < len(value) <= total:
                raise ValueError(
                    f"{self.name}: {key} has {len(value)} frames, expected 1 to {total}"
                )

    def _predictions(self):
        return self.predictions.items()

    @property
    def num_context(self) -> int:
        return len(self.context)

    @property
    def num_future(self) -> int:
        return len(next(iter(self.predictions.values())))


@dataclasses.dataclass(frozen=True)
class Panel:
    """A titled picture that changes over the frames of one video.

    Attributes:
      kind: what it shows, in a word: the same for all videos.
      title: the kind, or the name of the system.
      frames: [n, h, w, 3] uint8; they are the last n frames of the clip.
      predicted_from: frame of the clip (0 = first context frame) from which on the
        content is the model's; None where it is not a frame of the video.
      explanation: how to read this kind; a short phrase.
    """

    kind: str
    title: str
    frames: np.ndarray
    predicted_from: int | None
    explanation: str


def flow_to_color(flow: np.ndarray, max_magnitude: float | None = None) -> np.ndarray:
    """Flow as colour: hue = direction, saturation = speed (Baker et al. 2007).

    The wheel of the Middlebury benchmark: right is red, down yellow, left cyan, up
    blue; white is at rest.

    Args:
      flow: [..., 2], (x right, y down).
      max_magnitude: length that gets full saturation; longer vectors are darkened.
        By default the longest in `flow`.

    Returns:
      [..., 3] uint8; black where the flow is not finite.
    """
    flow = np.asarray(flow, np.float64)
    known = np.isfinite(flow).all(-1)
    x, y = np.moveaxis(np.where(known[..., None], flow, 0.0), -1, 0)
    length = np.hypot(x, y)
    if max_magnitude is None:
        max_magnitude = length.max(initial=0.0)
    length = length / max(max_magnitude, 1e-9)
    # Red, yellow, green, cyan, blue, magenta, red; the steps between them are uneven
    # because the eye resolves hues unevenly.
    corners = np.cumsum((0, 15, 6, 4, 11, 13, 6))
    wheel = np.array(
        [(1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1), (1, 0, 0)]
    )
    # Adding 0 turns -0 into 0: both are "right", the seam of the wheel.
    position = (np.arctan2(-(y + 0.0), -x) / math.pi + 1) / 2 * (corners[-1] - 1)
    hue = np.stack([np.interp(position, corners, wheel[:, k]) for k in range(3)], -1)
    length = length[..., None]
    color = np.where(length <= 1, 1 - length * (1 - hue), 0.75 * hue)
    return np.uint8(np.floor(255 * color * known[..., None]))


def flow_wheel(size: int = 64) -> np.ndarray:
    """[size, size, 3] uint8 legend of `flow_to_color` as a disc on white."""
    axis = np.linspace(-1, 1, size)
    flow = np.stack(np.meshgrid(axis, axis), -1)
    inside = np.hypot(flow[..., 0], flow[..., 1]) <= 1
    return flow_to_color(flow * inside[..., None], 1.0)


def error_to_color(
    prediction: np.ndarray, truth: np.ndarray, max_error: float = ERROR_RANGE
) -> np.ndarray:
    """Heat map of the absolute difference, mean over channels: black = equal.

    Args:
      prediction: [..., 3] uint8.
      truth: of the same shape.
      max_error: share of the full range that is drawn brightest.

    Returns:
      [..., 3] uint8.
    """
    difference = np.abs(np.float32(prediction) - np.float32(truth)).mean(-1) / 255
    colors = matplotlib.colormaps["inferno"](difference / max_error, bytes=True)
    return colors[..., :3]


def spread_to_color(futures: np.ndarray, max_spread: float = ERROR_RANGE) -> np.ndarray:
    """Heat map of the standard deviation over futures, mean over channels.

    Args:
      futures: [k, ..., 3] uint8.
      max_spread: share of the full range that is drawn brightest.

    Returns:
      [..., 3] uint8; black where all futures are the same.
    """
    spread = np.float32(futures).std(0).mean(-1) / 255
    return matplotlib.colormaps["inferno"](spread / max_spread, bytes=True)[..., :3]


def panels(report: VideoReport) -> list[Panel]:
    """What is known about a video, in reading order; what is not known is left out."""
    context, start = report.context, report.num_context
    main, prediction = next(iter(report.predictions.items()))
    several = len(report.predictions) > 1
    result = []

    def add(kind, explanation, frames, title="", predicted_from=None):
        result.append(Panel(kind, title or kind, frames, predicted_from, explanation))

    held = np.repeat(context[-1:], report.num_future, 0)
    reading = "the context, then its last frame, held"
    add("last seen", reading, np.concatenate([context, held]))
    if report.truth is not None:
        reading = "what really happened"
        add("truth", reading, np.concatenate([context, report.truth]))
    for name, video in report.predictions.items():
        reading = "framed in orange, made from the context alone"
        add("predicted", reading, np.concatenate([context, video]), name, start)
    if report.num_samples > 1:
        futures = list(report.predictions.values())[: report.num_samples]
        reading = (
            f"of the futures (standard deviation); brightest from {ERROR_RANGE:.0%}"
        )
        add("spread", reading, spread_to_color(np.stack(futures)))
    if report.changed_from:
        reading = f"of the frames by steering; brightest from {ERROR_RANGE:.0%}"
        before = report.predictions[report.changed_from]
        add("change", reading, error_to_color(prediction, before))
    elif report.truth is not None:
        reading = f"of the prediction; brightest from {ERROR_RANGE:.0%} of the range"
        title = f"error of {main}" if several else "error"
        add("error", reading, error_to_color(prediction, report.truth), title)
    if report.flow is not None:
        # The flow of the model points back to where content comes from; the reader
        # wants to see where it goes.
        motion = -np.asarray(report.flow, np.float32)
        speed = np.hypot(motion[..., 0], motion[..., 1])
        top = max(float(np.nanquantile(speed, 0.999)), FLOW_RANGE_MIN)
        reading = "hue is the direction of motion, full colour the fastest of a video"
        title = f"flow ≤ {top:.1f} px"
        add("flow", reading, flow_to_color(motion, top), title)
    if report.visible is not None:
        visible = np.asarray(report.visible, np.float32)
        visible = visible.reshape(visible.shape[:3])
        gray = np.uint8(np.rint(255 * np.clip(np.nan_to_num(visible), 0, 1)))
        reading = "white is carried on from the frame before, black newly painted"
        add("visible", reading, np.repeat(gray[..., None], 3, -1))
    return result


@functools.lru_cache
def _font(size: int, weight: str = "") -> ImageFont.FreeTypeFont:
    # The font that comes with matplotlib: the same picture on every machine.
    folder = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(folder / f"DejaVuSans{weight}.ttf", size)


def _font_for(title: str, width: int) -> ImageFont.FreeTypeFont:
    """The largest font of a panel's title in which it is no wider than `width`."""
    title = " ".join(title.split())
    fonts = [_font(size, "-Bold") for size in range(15, 10, -1)]
    return next((f for f in fonts if f.getlength(title) <= width), fonts[-1])


def _fit(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """`text` on one line, cut with an ellipsis where it is wider than `width`."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def panel_video(report: VideoReport, *, height: int = 192) -> np.ndarray:
    """The panels of a video side by side, with titles and a frame counter.

    A grey border marks frames of the camera, an orange one what the model predicts.

    Args:
      report: the video.
      height: least height of a panel in pixels; frames are enlarged by whole factors.

    Returns:
      [c + t, H, W, 3] uint8, H and W even.
    """
    shown = panels(report)
    num_frames = report.num_context + report.num_future
    factor = max(1, math.ceil(height / report.context.shape[1]))
    size = (report.context.shape[2] * factor, report.context.shape[1] * factor)
    columns = len(shown) if len(shown) <= 4 else math.ceil(len(shown) / 2)
    rows = math.ceil(len(shown) / columns)
    gap, border, header, line = 14, 3, 34, 24
    cell = (size[0] + gap + 2 * border, size[1] + gap + 2 * border + line)
    width = columns * cell[0] + gap
    canvas_height = header + rows * cell[1] + gap
    canvas = Image.new(
        "RGB", (width + width % 2, canvas_height + canvas_height % 2), _PAPER
    )
    draw = ImageDraw.Draw(canvas)
    font = _font(14)
    corners = [
        (gap + k % columns * cell[0], header + k // columns * cell[1])
        for k in range(len(shown))
    ]
    for panel, (x, y) in zip(shown, corners, strict=True):
        title_font = _font_for(panel.title, size[0])
        title = _fit(panel.title, title_font, size[0])
        draw.text((x, y + line - 5), title, _INK, title_font, anchor="ls")
    video = []
    for t in range(num_frames):
        predicted = t - report.num_context + 1
        counter = (
            f"predicted {predicted} of {report.num_future}"
            if predicted > 0
            else f"context {t + 1} of {report.num_context}"
        )
        draw.rectangle((0, 0, canvas.width, header - 1), _PAPER)
        room = canvas.width - 2 * gap - 24 - int(font.getlength(counter))
        draw.text((gap, 10), _fit(report.name, font, room), _QUIET, font)
        color = _PREDICTED if predicted > 0 else _QUIET
        draw.text((canvas.width - gap, 10), counter, color, font, anchor="ra")
        for panel, (x, y) in zip(shown, corners, strict=True):
            index = t - (num_frames - len(panel.frames))
            is_predicted = panel.predicted_from is not None and (
                t >= panel.predicted_from
            )
            box = (x, y + line, x + size[0] + 2 * border - 1, y + line + size[1] + 5)
            draw.rectangle(box, _PREDICTED if is_predicted else _SEEN)
            inner = (box[0] + border, box[1] + border)
            if index >= 0:
                frame = panel.frames[index]
                # The cells of a latent grid stay visible, frames are smoothed.
                is_frame = frame.shape == report.context.shape[1:]
                resampling = Image.Resampling
                filter_ = resampling.BICUBIC if is_frame else resampling.NEAREST
                canvas.paste(Image.fromarray(frame).resize(size, filter_), inner)
            else:  # nothing to show yet
                draw.rectangle((*inner, box[2] - border, box[3] - border), _PAPER)
        video.append(np.asarray(canvas))
    return np.stack(video)
