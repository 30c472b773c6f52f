"""The best, the median and the worst clip of an evaluation, to look at."""

import jax.numpy as jnp
import numpy as np

from jax_vidpred.data.schema import COLLISION, MASK, START, VIDEO, VIDEO_ID
from jax_vidpred.data.source import VideoSource
from jax_vidpred.evaluation.clips import Batch, Clip, batches
from jax_vidpred.evaluation.judge import ttt_labels
from jax_vidpred.evaluation.scores import (
    baseline_videos,
    headline_scores,
    resize_frames,
)
from jax_vidpred.evaluation.settings import Settings
from jax_vidpred.ops.image import to_float, to_uint8
from jax_vidpred.predictor import VideoPredictor
from jax_vidpred.report.evaluation_page import ShownClip
from jax_vidpred.report.panels import VideoReport


def chosen_clips(psnr: np.ndarray) -> dict[str, int]:
    """Title -> index of the clip with the best, the median and the worst PSNR.

    Fewer where there are fewer clips.
    """
    order = np.argsort(psnr, kind="stable")
    ranks = {"Best": len(order) - 1, "Median": len(order) // 2, "Worst": 0}
    chosen: dict[str, int] = {}
    for title, rank in ranks.items():
        index = int(order[rank])
        if index not in chosen.values():
            chosen[title] = index
    return chosen


def shown_clips(
    predictor: VideoPredictor,
    source: VideoSource,
    clips: list[Clip],
    settings: Settings,
    psnr: np.ndarray,
) -> list[ShownClip]:
    """Predicts the chosen clips once more, for the page.

    Args:
      predictor: the system under test.
      source, clips, settings: of the evaluation.
      psnr: of each clip.
    """
    chosen = chosen_clips(psnr)
    reports = []
    # Whole batches, as when they were scored: nothing is compiled anew.
    for _, read in batches(source, [clips[k] for k in chosen.values()], settings):
        reports += _reports(predictor, read(), settings)
    return [
        ShownClip(f"{title}: {psnr[index]:.1f} dB", report)
        for (title, index), report in zip(chosen.items(), reports, strict=True)
    ]


def _reports(
    predictor: VideoPredictor, batch: Batch, settings: Settings
) -> list[VideoReport]:
    """One for each clip of a batch."""
    video, num_context = batch[VIDEO], settings.num_context
    ways = {predictor.label: None, **ttt_labels(predictor.label, settings.ttt)}
    made = {
        name: predictor.predict(
            video[:, :num_context], settings.num_future, ttt, seed=settings.seed
        )
        for name, ttt in reversed(ways.items())
    }
    main = next(iter(made.values()))
    size = main.video.shape[2:4]
    truth = resize_frames(to_float(jnp.asarray(video)), *size)
    beside = baseline_videos(
        predictor.system,
        predictor.params,
        truth,
        None,
        size=size,
        num_context=num_context,
    )
    videos = {**{name: one.video for name, one in made.items()}, **beside}
    future = truth[:, num_context:]
    curves = {
        name: np.asarray(
            headline_scores(one, future, truth[:, num_context - 1])["psnr"]
        )
        for name, one in videos.items()
    }
    shown = {
        key: main.aux[key]
        for key in ("flow", "visible", "collision_probability")
        if key in main.aux
    }
    truth = np.asarray(to_uint8(truth))

    def report(row):
        steps = np.flatnonzero(batch[COLLISION][row]) + 1
        return VideoReport(
            name=f"Video {batch[VIDEO_ID][row]:05d} from frame {batch[START][row]}",
            context=truth[row, :num_context],
            predictions={
                name: np.asarray(to_uint8(jnp.asarray(one.video[row])))
                for name, one in made.items()
            },
            truth=truth[row, num_context:],
            psnr={name: curve[row] for name, curve in curves.items()},
            collisions_true=steps.tolist() if batch["known"][row] else None,
            **{key: value[row] for key, value in shown.items()},
        )

    return [report(row) for row in np.flatnonzero(batch[MASK])]
