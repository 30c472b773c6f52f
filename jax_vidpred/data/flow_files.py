"""Flow that a network has estimated beforehand, stored beside the videos.

    ROOT/flow/SOURCE/HEIGHTxWIDTH_gridG_strideS/flow_NNNNN.npz

SOURCE is the name of the network; the sizes are those of the data set that it is for.
The builder takes flow from there where a video has no annotation to cast it from.
"""

import dataclasses
import io
import math
import os
import pathlib
import zipfile

import numpy as np

from jax_vidpred.data.schema import DataError
from jax_vidpred.data.video_io import write_whole

FOLDER = "flow"
MAX_BYTES = 1 << 30  # of an array
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
    root: str | os.PathLike,
    source: str,
    grid: FlowGrid,
    video_id: int,
    split: str = "",
) -> pathlib.Path:
    """Where the flow of a video is stored, whether it is there or not.

    Args:
      split: where numbers count within a split, see `clevrer.Files`.
    """
    folder = pathlib.Path(root) / FOLDER / source / grid.name
    name = f"{split}_{video_id:05d}" if split else f"{video_id:05d}"
    return folder / f"flow_{name}.npz"


def find_flow(
    root: str | os.PathLike, grid: FlowGrid, video_id: int, split: str = ""
) -> pathlib.Path | None:
    """The stored flow of a video; of several sources the first in the alphabet."""
    folder = pathlib.Path(root) / FOLDER
    for source in sorted(folder.iterdir()) if folder.is_dir() else []:
        path = flow_path(root, source.name, grid, video_id, split)
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
        with zipfile.ZipFile(path) as file:
            whole = file.testzip() is None and {"flow.npy", "visible.npy"} <= {
                *file.namelist()
            }
            return whole and str(_array(file, "weights", (), "U")) == weights
    except Exception:  # see read_flow
        return False


def read_flow(
    path: pathlib.Path, num_steps: int, cells: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """What `write_flow` has stored, as float32.

    Raises:
      DataError: it cannot be read, or is of another number of steps or another grid.
    """
    wanted = (num_steps, *cells)
    try:
        with zipfile.ZipFile(path) as file:
            flow = _array(file, "flow", (*wanted, 2), "f")
            visible = _array(file, "visible", wanted, "u")
        if not np.isfinite(flow).all():
            raise ValueError("flow that is not finite")
    except Exception as error:  # damaged bytes may fail anywhere, as anything
        raise DataError(
            f"{path}: no stored flow ({type(error).__name__}: {error}); delete it and"
            " run precompute_flow again"
        ) from error
    return flow.astype(np.float32), visible.astype(np.float32) / 255


def _array(
    file: zipfile.ZipFile, name: str, wanted: tuple[int, ...], kind: str
) -> np.ndarray:
    """An array of an npz file, read only if it is what it should be.

    `np.load` believes the header, and would ask for as much memory as that says.
    """
    with file.open(f"{name}.npy") as data:
        version = np.lib.format.read_magic(data)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran_order, dtype = read_header(data)
        if shape != wanted or dtype.kind != kind or fortran_order:
            raise ValueError(f"{name} of shape {shape}, {dtype}; wanted {wanted}")
        size = math.prod(shape) * dtype.itemsize
        if size > MAX_BYTES:
            raise ValueError(f"{name} of {size} bytes")
        return np.frombuffer(data.read(size), dtype).reshape(shape)
