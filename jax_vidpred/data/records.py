"""The builder that TFDS runs: videos in, ArrayRecord files out, no TensorFlow.

Frames are stored raw at one size, with everything that the annotations tell: flow and
visibility on a grid, segments, object states, collisions. Twin and real files alike.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from jax_vidpred.data.clevrer import Files, read_or_error
from jax_vidpred.data.flow_files import ANNOTATIONS, source_of
from jax_vidpred.data.schema import FLOW, LABEL, SEGMENTS, VIDEO_ID, DataError
from jax_vidpred.data.source import FRAME, FRAMES_PER_RECORD, Field, record_fields
from jax_vidpred.data.video_io import write_whole
from jax_vidpred.data.workers import ordered_map

RECORDS_PER_SHARD = 8192  # 256 videos
VIDEOS_PER_WORKER = 8  # fewer than that are read sooner than a worker process starts


@dataclasses.dataclass(eq=False, kw_only=True)
class ClevrerConfig(tfds.core.BuilderConfig):
    """What is stored, and of which files.

    Attributes:
      height, width: of the stored frames, in pixels.
      grid_stride: pixels per cell of the grid that flow and visibility live on.
      frame_stride: frames between the two frames that flow is about.
      compression: "uncompressed" or "zstd".
      files: of every split.
      num_workers: processes that read files.
    """

    height: int
    width: int
    grid_stride: int
    frame_stride: int = 1
    compression: str = "uncompressed"
    files: Mapping[str, Sequence[Files]] = dataclasses.field(
        default_factory=dict, repr=False
    )
    num_workers: int = 1

    @property
    def labels(self) -> bool:
        """Whether any video has label pictures."""
        return any(one.label for one in itertools.chain(*self.files.values()))

    @property
    def fields(self) -> dict[str, Field]:
        """What a record holds for each of its frames."""
        return record_fields(
            self.height, self.width, self.grid_stride, labels=self.labels
        )


class Clevrer(tfds.core.GeneratorBasedBuilder):
    """Videos of colliding objects, FRAMES_PER_RECORD frames a record, in order.

    `metadata.json` lists (number, frames, annotated, flow source) of all videos, and
    the numbers of those with labels where there are any;
    `skipped.json` the files that could not be used, with reasons.
    """

    VERSION = tfds.core.Version("1.1.0")
    # Nothing is downloaded. TFDS would look for checksums with a package that it does
    # not install (importlib_resources).
    url_infos = None

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        features = {
            key: tfds.features.Tensor(
                shape=(FRAMES_PER_RECORD, *field.shape),
                dtype=field.stored,
                # TFDS would store integers as varints, 18 times slower to read.
                encoding="bytes",
            )
            for key, field in config.fields.items()
        }
        features[VIDEO_ID] = tfds.features.Scalar(np.int32)
        features[FRAME] = tfds.features.Scalar(np.int32)
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(
                videos={}, **({"labelled": {}} if config.labels else {})
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing is downloaded
        return {
            split: self._generate_examples(split, files)
            for split, files in self.builder_config.files.items()
        }

    def _generate_examples(self, split, files):
        config = self.builder_config
        fields = config.fields
        options = {
            "height": config.height,
            "width": config.width,
            "grid_stride": config.grid_stride,
            "frame_stride": config.frame_stride,
        }
        videos, self.skipped[split] = [], []
        # The metadata that TFDS writes beside the records, in the end.
        self.info.metadata["videos"][split] = videos
        labelled = []
        if config.labels:
            self.info.metadata["labelled"][split] = labelled
        results = ordered_map(
            functools.partial(read_or_error, **options),
            files,
            min(config.num_workers, len(files) // VIDEOS_PER_WORKER),
        )
        for one, arrays in zip(
            files, _progress(results, split, len(files)), strict=True
        ):
            if isinstance(arrays, DataError):
                self.skipped[split].append((str(one.video), str(arrays)))
                continue
            num_frames = len(next(iter(arrays.values())))
            annotated = SEGMENTS in arrays
            source = source_of(one.flow) if FLOW in arrays and one.flow else ""
            source = ANNOTATIONS if annotated else source
            videos.append([one.video_id, num_frames, annotated, source])
            if LABEL in arrays:
                labelled.append(one.video_id)
            for start in range(0, num_frames, FRAMES_PER_RECORD):
                record = {VIDEO_ID: one.video_id, FRAME: start}
                for key, field in fields.items():
                    record[key] = np.zeros(
                        (FRAMES_PER_RECORD, *field.shape), field.stored
                    )
                    if key in arrays:
                        rows = arrays[key][start : start + FRAMES_PER_RECORD]
                        record[key][: len(rows)] = rows
                yield one.video_id * 10**6 + start, record
        if not videos:
            raise DataError(
                f"none of the {len(files)} videos of split {split!r} can be used;"
                f" the first: {self.skipped[split][0][1]}"
            )

    def _download_and_prepare(self, dl_manager, download_config):
        """Writes the records as they come.

        The writer that TFDS would use sorts a whole split first: in memory up to 1 GiB,
        and above that in files that only TensorFlow can write.
        """
        del download_config
        self.skipped = {}
        self.info.set_splits(
            tfds.core.splits.SplitDict(
                [
                    self._write_split(split, examples)
                    for split, examples in self._split_generators(dl_manager).items()
                ]
            )
        )
        listing = [
            {"split": split, "video": video, "reason": reason}
            for split, rows in self.skipped.items()
            for video, reason in rows
        ]
        write_whole(
            pathlib.Path(self.data_dir) / "skipped.json",
            json.dumps(listing, indent=1).encode(),
        )

    def _write_split(self, split, examples) -> tfds.core.SplitInfo:
        features = self.info.features
        serializer = ExampleSerializer(features.get_serialized_info())
        template = tfds.core.ShardedFileTemplate(
            dataset_name=self.name,
            data_dir=self.data_path,
            split=split,
            filetype_suffix="array_record",
            template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}",
        )
        options = f"group_size:1,{self.builder_config.compression}"
        lengths, num_bytes = [], 0
        examples = iter(examples)
        for first in examples:
            path = template.sharded_filepath(shard_index=len(lengths), num_shards=None)
            writer = ArrayRecordWriter(os.fspath(path), options)
            rest = itertools.islice(examples, RECORDS_PER_SHARD - 1)
            lengths.append(0)
            for _, example in itertools.chain([first], rest):
                record = serializer.serialize_example(features.encode_example(example))
                with _as_os_error():
                    writer.write(record)
                lengths[-1] += 1
                num_bytes += len(record)
            with _as_os_error():
                writer.close()
        return tfds.core.SplitInfo(
            name=split,
            shard_lengths=lengths,
            num_bytes=num_bytes,
            filename_template=template,
        )


@contextlib.contextmanager
def _as_os_error():
    """ArrayRecord says RuntimeError when the disk is full."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error)) from error


def _progress(results, split: str, total: int):
    columns = (
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_console()) as progress:
        yield from progress.track(results, total, description=f"Preparing {split}")


def _console() -> Console:
    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def say(text: str) -> None:
    _console().print(text)
