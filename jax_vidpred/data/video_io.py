"""Video files and animated pictures: uint8 arrays [t, h, w, 3] in and out.

PyAV decodes and encodes, Pillow makes GIFs. Both bring their own libraries, so nothing
has to be installed on the system.
"""

import contextlib
import fractions
import io
import os
import pathlib
from collections.abc import Sequence

import av
import numpy as np
from av.video.reformatter import Interpolation
from jaxtyping import UInt8
from PIL import Image

from jax_vidpred.data.schema import FRAMES_PER_SECOND, DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
H5_SUFFIXES = (".hdf5", ".h5")
# FFmpeg's fast paths between YUV and RGB darken pictures by up to two grey levels; the
# exact ones cost no measurable time.
SCALING = int(
    Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
)
_PICTURES = ("PNG", "JPEG")  # others may start programs: Pillow has some for EPS
# What Pillow raises.
_BAD_PICTURE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
PALETTE_FRAMES = 16  # frames that a GIF's palette is chosen from


class VideoError(DataError):
    """A video that cannot be read; the message names the file and the reason."""


# Formats that hold pictures themselves: a playlist could name any other file.
_ALONE = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpeg,mpegts",
    "protocol_whitelist": "file",
}


def read_video(
    path: str | os.PathLike,
    *,
    size: tuple[int, int] | None = None,
    max_frames: int | None = None,
    suffixes: Sequence[str] = IMAGE_SUFFIXES,
) -> UInt8[np.ndarray, "t h w 3"]:
    """Decodes a video file, or a folder that holds its frames as pictures.

    Args:
      path: a video file in any format that FFmpeg knows, a folder of png or jpeg files,
        see `picture_files`, or the place of a video in an HDF5 file, see `h5_files`.
      size: (height, width) of the result, reached by averaging areas; None keeps the
        size of the file.
      max_frames: stop after that many frames.
      suffixes: of the pictures in a folder; others are left out.

    Returns:
      RGB in [0, 255].

    Raises:
      DataError: no video, an empty one, or one that ends before its header says.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        names = picture_files(path, suffixes)[:max_frames]
        frames = [_read_picture(name, size) for name in names]
    elif path.parent.suffix.lower() in H5_SUFFIXES and path.parent.is_file():
        # Not everybody has HDF5 files, and its library takes time to load.
        from jax_vidpred.data import h5_files

        stored = h5_files.read_frames(path, max_frames)
        frames = [_resized(frame, size) for frame in stored]
    else:
        frames = _read_file(path, size, max_frames)
    if not frames:
        raise VideoError(f"{path}: no frames in it; give a video with at least one")
    if len({frame.shape for frame in frames}) > 1:
        raise VideoError(f"{path}: its frames differ in size; give a size to scale to")
    return np.stack(frames)


def _read_file(path, size, max_frames):
    height, width = size or (None, None)
    frames = []
    try:
        # Damaged titles and languages do no harm.
        with av.open(str(path), metadata_errors="replace", options=_ALONE) as container:
            if not container.streams.video:
                raise VideoError(f"{path}: no video stream in it; give a video file")
            stream = container.streams.video[0]
            # Many processes decode side by side: threads would only get in their way.
            stream.thread_type = "NONE"
            declared = stream.frames  # 0 where the format does not say
            for frame in container.decode(stream):
                if max_frames is not None and len(frames) == max_frames:
                    break
                rgb = frame.reformat(width, height, "rgb24", interpolation=SCALING)
                frames.append(rgb.to_ndarray())
    except FileNotFoundError as error:
        raise VideoError(f"{path}: no such file; check the path") from error
    except av.FFmpegError as error:
        raise VideoError(
            f"{path}: cannot be decoded after {len(frames)} frames"
            f" ({error.strerror}); get the file again or leave it out"
        ) from error
    wanted = declared if max_frames is None else min(declared, max_frames)
    if len(frames) < wanted:
        raise VideoError(
            f"{path}: truncated, {len(frames)} of {declared} frames can be decoded;"
            " get the file again or leave it out"
        )
    return frames


def picture_files(
    folder: pathlib.Path, suffixes: Sequence[str] = IMAGE_SUFFIXES
) -> list[pathlib.Path]:
    """The pictures of a folder, hidden ones apart, in the order of their names.

    The numbers that names end with count as numbers: frame 2 comes before frame 10.
    """

    def order(path):
        prefix = path.stem.rstrip("0123456789")
        return prefix, int(path.stem[len(prefix) :] or -1), path.name

    return sorted(
        (
            path
            for path in folder.iterdir()
            if path.suffix.lower() in suffixes and not path.name.startswith(".")
        ),
        key=order,
    )


def _read_picture(path, size):
    try:
        with Image.open(path, formats=_PICTURES) as picture:
            if picture.mode.startswith("I"):  # 16 bits a pixel; convert would clip
                grey = np.asarray(picture).astype(np.float64) / 257
                picture = Image.fromarray(np.uint8(np.rint(grey.clip(0, 255))))
            return _resized(picture.convert("RGB"), size)
    except _BAD_PICTURE as error:
        raise VideoError(f"{path}: not a readable picture ({error})") from error


def _resized(picture, size):
    """A picture, or its array, as the array of that size; the same if it has it."""
    array = np.asarray(picture)
    if size is None or array.shape[:2] == tuple(size):
        return array
    picture = Image.fromarray(array)
    return np.asarray(picture.resize(size[::-1], Image.Resampling.BOX))


def encode_mp4(
    video: UInt8[np.ndarray, "t h w 3"], *, fps: float = 25, crf: int = 14
) -> bytes:
    """An H.264 mp4 file that every browser plays (yuv420p), as bytes.

    Chroma is stored for blocks of 2x2 pixels, so odd sizes are padded to even ones by
    repeating the last row or column. The same video gives the same bytes.

    Args:
      video: RGB in [0, 255].
      fps: frames per second.
      crf: constant rate factor of x264; 0 is the best, 51 the smallest.
    """
    _check_video(video)
    _, height, width, _ = video.shape
    video = np.pad(video, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), "edge")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264", rate=fractions.Fraction(fps).limit_denominator(1001)
        )
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # Both would make the bytes differ from run to run: the split into threads, and
        # x264's macroblock tree, which reads memory that it has not written.
        stream.options = {"crf": str(crf), "x264-params": "threads=1:mbtree=0"}
        stream.codec_context.thread_count = 1
        for picture in video:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
            container.mux(
                stream.encode(
                    frame.reformat(None, None, "yuv420p", interpolation=SCALING)
                )
            )
        container.mux(stream.encode())
    return buffer.getvalue()


def write_mp4(
    path: str | os.PathLike,
    video: UInt8[np.ndarray, "t h w 3"],
    *,
    fps: float = FRAMES_PER_SECOND,
    crf: int = 14,
) -> None:
    """Writes `encode_mp4(video)`: the whole file appears at once or not at all."""
    write_whole(path, encode_mp4(video, fps=fps, crf=crf))


def encode_gif(
    video: UInt8[np.ndarray, "t h w 3"], *, fps: float = 12.5, scale: int = 1
) -> bytes:
    """An endless GIF with one palette for all frames, as bytes.

    One palette without dithering keeps still surfaces still: a palette of their own, or
    dithering, makes frames flicker and files large.

    Args:
      video: RGB in [0, 255].
      fps: frames per second; GIF stores hundredths of a second.
      scale: every pixel becomes a square of scale x scale pixels.
    """
    _check_video(video)
    chosen = np.linspace(0, len(video) - 1, min(len(video), PALETTE_FRAMES)).astype(int)
    montage = video[chosen].reshape(-1, video.shape[2], 3)
    # Every ninth pixel of a large picture: k-means over all of them takes seconds, and
    # the flat areas, which they mostly are, then take most of the palette.
    thinned = montage[::3, ::3] if montage.size > 1e6 else montage
    palette = Image.fromarray(np.ascontiguousarray(thinned)).quantize(
        256, method=Image.Quantize.MEDIANCUT, kmeans=1
    )
    if scale > 1:
        video = video.repeat(scale, axis=1).repeat(scale, axis=2)
    frames = [
        Image.fromarray(np.ascontiguousarray(frame)).quantize(
            palette=palette, dither=Image.Dither.NONE
        )
        for frame in video
    ]
    buffer = io.BytesIO()
    frames[0].save(
        buffer,
        "GIF",
        save_all=True,
        append_images=frames[1:],
        duration=round(100 / fps) * 10,
        loop=0,
    )
    return buffer.getvalue()


def write_gif(
    path: str | os.PathLike,
    video: UInt8[np.ndarray, "t h w 3"],
    *,
    fps: float = 12.5,
    scale: int = 1,
) -> None:
    """Writes `encode_gif(video)`: the whole file appears at once or not at all."""
    write_whole(path, encode_gif(video, fps=fps, scale=scale))


def write_whole(path: str | os.PathLike, data: bytes) -> None:
    """Writes a file under a temporary name first, so that no half file is ever seen.

    Raises:
      DataError: the file cannot be written (full disk, no permission).
    """
    path = pathlib.Path(path)
    # The process id keeps processes that write into one folder apart.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise DataError(
            f"{path}: cannot be written ({error.strerror});"
            " free space or choose another folder"
        ) from error


def _check_video(video) -> None:
    if (
        video.dtype != np.uint8
        or video.ndim != 4
        or video.shape[3] != 3
        or not video.size
    ):
        raise DataError(
            f"a video of shape {video.shape}, {video.dtype} was given; wanted uint8"
            " [t, h, w, 3] with at least one frame"
        )
