"""Flow that a network has estimated beforehand, stored beside the videos.

    ROOT/flow/SOURCE/HEIGHTxWIDTH_gridG_strideS/flow_NNNNN.npz

SOURCE is the name of the network; the sizes are those of the data set that it is for.
The builder takes flow from there where a video has no annotation to cast it from.
"""

import dataclasses
import io
import os
import pathlib
import zipfile

import numpy as np

from jax_vidpred.data.schema import DataError
from jax_vidpred.data.video_io import write_whole

FOLDER = "flow"
ANNOTATIONS = "annotations"  # the source of flow that is cast, in the place of a name


@dataclasses.dataclass(frozen=True)
class FlowGrid:
    """The grid that flow lives on, and the frames that it connects.

    Attributes:
      height, width: of the frames of the data set, in pixels.
      grid_stride: pixels per cell.
      frame_stride: frames between the two.
    """

    height: int
    width: int
    grid_stride: int
    frame_stride: int

    @property
    def cells(self) -> tuple[int, int]:
        """Height and width of the grid."""
        return self.height // self.grid_stride, self.width // self.grid_stride

    @property
    def name(self) -> str:
        size = f"{self.height}x{self.width}"
        return f"{size}_grid{self.grid_stride}_stride{self.frame_stride}"


def flow_path(
    root: str | os.PathLike, source: str, grid: FlowGrid, video_id: int
) -> pathlib.Path:
    """Where the flow of a video is stored, whether it is there or not."""
    folder = pathlib.Path(root) / FOLDER / source / grid.name
    return folder / f"flow_{video_id:05d}.npz"


def find_flow(
    root: str | os.PathLike, grid: FlowGrid, video_id: int
) -> pathlib.Path | None:
    """The stored flow of a video; of several sources the first in the alphabet."""
    folder = pathlib.Path(root) / FOLDER
    for source in sorted(folder.iterdir()) if folder.is_dir() else []:
        path = flow_path(root, source.name, grid, video_id)
        if path.is_file():
            return path
    return None


def source_of(path: pathlib.Path) -> str:
    """Name of the network that has estimated a stored flow."""
    return path.parent.parent.name


def write_flow(
    path: pathlib.Path, flow: np.ndarray, visible: np.ndarray, weights: str
) -> None:
    """Stores flow [t - s, gh, gw, 2] in cells and visibility [t - s, gh, gw] in [0, 1].

    Args:
      weights: checksum of the network's weight file.

    Raises:
      DataError: the file cannot be written.
    """
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        flow=flow.astype(np.float16),
        # Shares of a cell: 255 levels are enough.
        visible=np.round(visible * 255).astype(np.uint8),
        weights=np.array(weights),
    )
    write_whole(path, buffer.getvalue())


def is_flow_of(path: pathlib.Path, weights: str) -> bool:
    """Whether a whole file is there that was made with these weights."""
    try:
        with np.load(path) as arrays:
            return arrays["flow"].size > 0 and str(arrays["weights"]) == weights
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return False


def read_flow(
    path: pathlib.Path, num_steps: int, cells: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """What `write_flow` has stored, as float32.

    Raises:
      DataError: it cannot be read, or is of another number of steps or another grid.
    """
    try:
        with np.load(path) as arrays:
            flow, visible = arrays["flow"], arrays["visible"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: no stored flow ({type(error).__name__}: {error}); delete it and"
            " run precompute_flow again"
        ) from error
    wanted = (num_steps, *cells)
    if flow.shape != (*wanted, 2) or visible.shape != wanted:
        raise DataError(
            f"{path}: flow of shape {flow.shape}; wanted {(*wanted, 2)}; delete it and"
            " run precompute_flow again"
        )
    return flow.astype(np.float32), visible.astype(np.float32) / 255
