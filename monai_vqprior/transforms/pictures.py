# Copyright (c) monai_vqprior contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Pictures as a viewer shows them: upright, on black, in grey; refused where viewers differ."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from monai_vqprior.errors import InputError
from monai_vqprior.files import open_picture

__all__ = [
    "bands",
    "is_deep",
    "is_inverted",
    "open_slice",
    "read_grey",
    "read_picture",
    "read_values",
    "transparent_value",
    "turn_upright",
]

# Pixels that are converted at a time: the intermediate results of a large picture are not held at once.
_PIXELS_AT_ONCE = 1 << 20
_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L")
# What is wrong with metadata, such as the orientation, has types of its own.
_DAMAGE = (
    UnidentifiedImageError, OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error,
    Image.DecompressionBombError,
)  # fmt: skip
_ADVICE = "replace it, or leave such files out with --skip_bad"

# Tags of TIFF, and their values.
_BITS, _COMPRESSION, _PHOTOMETRIC, _COLOR_MAP, _SAMPLE_FORMAT = 258, 259, 262, 320, 339
_NOT_COMPRESSED = 1
_WHITE_IS_ZERO = 0
_UNSIGNED, _SIGNED = 1, 2


@contextmanager
def open_slice(path: str | Path) -> Iterator[Image.Image]:
    """
    Open a picture that can be read in one way only.

    Args:
        path: a PNG, JPEG or TIFF file.

    Yields:
        the picture, open; its pixels are decoded on access.

    Raises:
        InputError: naming the file, when it is missing, damaged, too large or none of these formats, also when that is
            found within the block, and when viewers would show it in different ways.
    """
    try:
        with open_picture(path) as image:
            _refuse_ambiguous(image, path)
            yield image
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except InputError:
        raise
    except _DAMAGE as error:
        unknown = "no PNG, JPEG or TIFF file of a known kind"  # where Pillow names an object of Python
        reason = unknown if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
        raise InputError(f"{path} cannot be read as an image ({reason}): {_ADVICE}.") from error


def is_deep(image: Image.Image) -> bool:
    """Whether a picture has more than 8 bits a pixel, so that its file does not record which value is white."""
    return image.mode in _DEEP_MODES


def turn_upright(image: Image.Image) -> None:
    """Decode a picture, and turn it as its orientation tag says; its size may change."""
    ImageOps.exif_transpose(image, in_place=True)


def bands(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """A picture a few rows at a time: which rows, and a picture of them."""
    rows = max(1, _PIXELS_AT_ONCE // max(1, image.width))
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        yield slice(top, bottom), image.crop((0, top, image.width, bottom))


def read_picture(
    path: str | Path, dtype: type[np.generic], read: Callable[[Image.Image, Image.Image, str | Path], np.ndarray]
) -> np.ndarray:
    """
    Read a picture, as a viewer shows it, a few rows at a time.

    Args:
        path: its file.
        dtype: type of the pixels of the result.
        read: takes rows, the whole picture and its path, such as :func:`read_grey`.

    Returns:
        pixels (H, W), rows from top to bottom.

    Raises:
        InputError: when the file cannot be read in one way only, or is damaged.
    """
    with open_slice(path) as image:
        _compare_checksums(image, path)
        turn_upright(image)
        pixels = np.empty((image.height, image.width), dtype)
        for rows, band in bands(image):
            pixels[rows] = read(band, image, path)
    return pixels


def _compare_checksums(image: Image.Image, path: str | Path) -> None:
    """
    Find damage in a PNG file that decodes all the same; the other formats have no checksums.

    Args:
        image: the picture, as :func:`open_slice` yields it, within its block.
        path: its file.

    Raises:
        OSError: and others of Pillow's errors, when a checksum is wrong.
    """
    if image.format == "PNG":
        with open_picture(path, ("PNG",)) as copy:  # which cannot be decoded afterwards
            copy.verify()


def read_grey(band: Image.Image, image: Image.Image, path: str | Path) -> np.ndarray:
    """
    Rows of a picture of 8 bits or fewer as grey levels: colors become luminance, what is transparent lies on black.

    Args:
        band: the rows.
        image: the picture that they are of.
        path: its file.

    Returns:
        (h, W) ``uint8``.

    Raises:
        InputError: when it holds negative values.
    """
    if band.has_transparency_data:
        colors = band.convert("RGBA")
        band = Image.alpha_composite(Image.new("RGBA", colors.size, "black"), colors)
    pixels = np.asarray(band.convert("L"))
    if _tag(image, _SAMPLE_FORMAT) == _SIGNED and pixels.max() > 127:  # Pillow takes the bytes as unsigned
        raise _negative(path, int(pixels.view(np.int8).min()))
    return pixels


def read_values(band: Image.Image, image: Image.Image, path: str | Path) -> np.ndarray:
    """
    Rows of a picture of more than 8 bits as the numbers in its file.

    Args:
        band: the rows.
        image: the picture that they are of.
        path: its file.

    Returns:
        (h, W), integers or ``float32``, not negative.

    Raises:
        InputError: when it holds NaN, infinity or negative values.
    """
    values = np.asarray(band)
    if _tag(image, _BITS) == 32 and _tag(image, _SAMPLE_FORMAT) in (None, _UNSIGNED):  # Pillow takes them as signed
        values = values.view(np.uint32)
    if not np.isfinite(values).all():
        raise InputError(f"{path} holds NaN or infinity: {_ADVICE}.")
    if values.min() < 0:
        raise _negative(path, values.min())
    return values


def is_inverted(image: Image.Image) -> bool:
    """Whether 0 is white in a picture of more than 8 bits: Pillow inverts only those of fewer."""
    return is_deep(image) and _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO


def transparent_value(image: Image.Image) -> int | None:
    """The value of a picture of more than 8 bits that stands for transparent pixels."""
    value = image.info.get("transparency")
    return value if isinstance(value, int) else None


def _negative(path: str | Path, value: float) -> InputError:
    return InputError(
        f"{path} holds negative values, down to {value:g}: shift or clip them so that black is 0, or leave such files "
        "out with --skip_bad."
    )


def _tag(image: Image.Image, number: int) -> int | tuple[int, ...] | None:
    """A tag of a TIFF file, the value itself where there is one; None where there is none and for other formats."""
    value = getattr(image, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value


def _refuse_ambiguous(image: Image.Image, path: str | Path) -> None:
    """Refuse what Pillow or viewers take for something else than was meant."""
    wrong = None
    with Path(path).open("rb") as file:
        start = file.read(26)
    if image.format == "PNG":
        depth, color = start[24:]  # of the header's chunk, which comes first
        if depth == 16 and color != 0:
            wrong = "has 16 bits a channel in color or with transparency: save it as 16-bit grey, or with 8 bits"
        elif depth in (2, 4) and color == 0 and "transparency" in image.info:
            wrong = f"has a transparent grey level of {depth} bits: save it with 8 bits"
    elif image.format == "TIFF":
        bits, colors = _tag(image, _BITS), _tag(image, _COLOR_MAP)
        if isinstance(bits, tuple) and max(bits) > 8:
            wrong = f"has {max(bits)} bits a channel in color: save it as 16-bit grey, or with 8 bits"
        elif image.mode == "P" and isinstance(colors, tuple) and 0 < max(colors) < 256:
            wrong = "has a palette of 8 bits where TIFF has 16: save it as grey"
        elif image.mode in ("I", "F") and start[:2] == b"MM" and _tag(image, _COMPRESSION) != _NOT_COMPRESSED:
            wrong = "is compressed and big-endian, of which Pillow mixes up the bytes: save it little-endian"
    elif image.mode == "CMYK" and "adobe" not in image.info:
        wrong = "has CMYK colors and does not tell whether they are inverted: save it as grey"
    if wrong is not None:
        raise InputError(f"{path} {wrong}, or leave such files out with --skip_bad.")
