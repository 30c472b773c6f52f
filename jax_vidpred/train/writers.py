"""Where measurements go: TensorBoard event files, `metrics.jsonl`, the log."""

import io
import json
import math
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import tensorboardX
from PIL import Image
from tensorboardX.proto import summary_pb2

from jax_vidpred.clu_compat import metric_writers

METRICS_FILE = "metrics.jsonl"
EVENTS_FOLDER = "tensorboard"


def make_writer(
    workdir: str | pathlib.Path, *, log: bool = True
) -> metric_writers.MetricWriter:
    """Writes to all places in `workdir`, in threads; only process 0 writes anything.

    Args:
      workdir: gets `metrics.jsonl` and `tensorboard/`.
      log: also to the log (absl, level INFO).
    """
    writers = []
    if jax.process_index() == 0:
        folder = pathlib.Path(workdir)
        writers = [
            TensorBoardWriter(folder / EVENTS_FOLDER),
            JsonLinesWriter(folder / METRICS_FILE),
        ]
        if log:
            writers.append(metric_writers.LoggingWriter())
    return metric_writers.AsyncMultiWriter(writers)


class TensorBoardWriter(metric_writers.MetricWriter):
    """CLU's interface over tensorboardX, so that no TensorFlow is needed.

    Videos are written as animated GIFs inside image summaries, which TensorBoard plays.
    """

    # Parameter names are CLU's: its AsyncWriter calls by keyword.

    def __init__(self, folder: str | pathlib.Path, *, frames_per_second: float = 8.0):
        self._writer = tensorboardX.SummaryWriter(str(folder))
        self._frames_per_second = frames_per_second

    def write_scalars(self, step: int, scalars: Mapping[str, Any]):
        for name, value in scalars.items():
            self._writer.add_scalar(name, float(value), step)

    def write_images(self, step: int, images: Mapping[str, Any]):
        """Images [h, w, c] or [n, h, w, c]: uint8, or float in [0, 1]."""
        for name, array in images.items():
            array = _as_uint8(array)
            layout = "NHWC" if array.ndim == 4 else "HWC"
            self._writer.add_image(name, array, step, dataformats=layout)

    def write_videos(self, step: int, videos: Mapping[str, Any]):
        """Videos [t, h, w, 3] or [n, t, h, w, 3]: uint8, or float in [0, 1]."""
        for name, array in videos.items():
            array = _as_uint8(array)
            if array.ndim == 4:
                self._write_gif(step, name, array)
            else:
                for index, video in enumerate(array):
                    self._write_gif(step, f"{name}/{index}", video)

    def write_texts(self, step: int, texts: Mapping[str, str]):
        for name, text in texts.items():
            self._writer.add_text(name, text, step)

    def write_histograms(
        self,
        step: int,
        arrays: Mapping[str, Any],
        num_buckets: Mapping[str, int] | None = None,
    ):
        for name, array in arrays.items():
            bins = (num_buckets or {}).get(name, 30)
            self._writer.add_histogram(name, np.asarray(array), step, max_bins=bins)

    def write_hparams(self, hparams: Mapping[str, Any]):
        # As a text: TensorBoard's hparams plugin wants scalars to go with them.
        text = "\n".join(f"    {name} = {value}" for name, value in hparams.items())
        self._writer.add_text("hparams", text, 0)

    def write_summaries(
        self,
        step: int,
        values: Mapping[str, Any],
        metadata: Mapping[str, Any] | None = None,
    ):
        raise NotImplementedError("write scalars, images, videos, texts or histograms")

    def write_audios(self, step: int, audios: Mapping[str, Any], *, sample_rate: int):
        raise NotImplementedError("no system here makes sound")

    def flush(self):
        self._writer.flush()

    def close(self):
        self._writer.close()

    def _write_gif(self, step: int, name: str, video: np.ndarray):
        _, height, width, _ = video.shape
        image = summary_pb2.Summary.Image(
            height=height,
            width=width,
            colorspace=3,
            encoded_image_string=_encode_gif(video, self._frames_per_second),
        )
        value = summary_pb2.Summary.Value(tag=name, image=image)
        # tensorboardX's own add_video wants moviepy and ffmpeg.
        self._writer._get_file_writer().add_summary(
            summary_pb2.Summary(value=[value]), step
        )


class JsonLinesWriter(metric_writers.MetricWriter):
    """Scalars, texts and hparams as one JSON object per line; the rest is left out.

    Each line is `{"step": int, "time": seconds since 1970, name: value, ...}`, flushed
    as it is written. NaN and infinity become null.
    """

    def __init__(self, path: str | pathlib.Path):
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        if self._file.tell() and not path.read_bytes().endswith(b"\n"):
            self._file.write(b"\n")  # a killed run left half a line: leave it alone

    def write_scalars(self, step: int, scalars: Mapping[str, Any]):
        values = {name: float(value) for name, value in scalars.items()}
        self._write(
            step, {k: v if math.isfinite(v) else None for k, v in values.items()}
        )

    def write_texts(self, step: int, texts: Mapping[str, str]):
        self._write(step, dict(texts))

    def write_hparams(self, hparams: Mapping[str, Any]):
        self._write(0, {"hparams": dict(hparams)})

    def write_images(self, step: int, images: Mapping[str, Any]):
        pass

    def write_videos(self, step: int, videos: Mapping[str, Any]):
        pass

    def write_histograms(
        self,
        step: int,
        arrays: Mapping[str, Any],
        num_buckets: Mapping[str, int] | None = None,
    ):
        pass

    def write_summaries(
        self,
        step: int,
        values: Mapping[str, Any],
        metadata: Mapping[str, Any] | None = None,
    ):
        pass

    def write_audios(self, step: int, audios: Mapping[str, Any], *, sample_rate: int):
        pass

    def flush(self):
        self._file.flush()

    def close(self):
        self._file.close()

    def _write(self, step: int, values: Mapping[str, Any]):
        line = {"step": int(step), "time": round(time.time(), 3), **values}
        self._file.write((json.dumps(line, default=str) + "\n").encode())
        self._file.flush()


def read_metrics(workdir: str | pathlib.Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` in order of step; [] when there is no file.

    A run that was killed repeats some steps when it resumes: the later lines count.
    Half a line, as a killed run may leave it, is skipped.
    """
    path = pathlib.Path(workdir) / METRICS_FILE
    lines: dict[tuple[int, tuple[str, ...]], dict[str, Any]] = {}
    if path.exists():
        for text in path.read_text().splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            lines[line["step"], tuple(sorted(line))] = line
    return sorted(lines.values(), key=lambda line: line["step"])


def _as_uint8(array: Any) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype == np.uint8:
        return array
    return np.round(255.0 * np.clip(array, 0.0, 1.0)).astype(np.uint8)


def _encode_gif(video: np.ndarray, frames_per_second: float) -> bytes:
    """`video` uint8 [t, h, w, 3] as an endlessly repeated GIF."""
    frames = [Image.fromarray(frame) for frame in video]
    buffer = io.BytesIO()
    frames[0].save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=frames[1:],
        duration=round(1000 / frames_per_second),  # milliseconds
        loop=0,
    )
    return buffer.getvalue()
