"""From a stored picture to pixels of one size, by stated rules.

Turned as its EXIF tag says (2 to 8; anything else is no turn); the first frame of an animation; palette, CMYK and 1-bit
converted; transparency composited on white, a transparent colour (PNG's tRNS) compared at the depth of the file. Depth:
8 bits as they are; 1, 2 and 4 bits stretched to 0..255; 9 to 16 bits, grey or colour, round(255 * v / (2^bits - 1));
16-bit colour in a TIFF, 32-bit whole numbers and floating point refused, because Pillow gives only a part of them or
their range is not stated. Then the crop, then one resampling with Pillow (antialiased): Lanczos to make smaller,
bicubic to enlarge, nothing where the size is right already. Each rule that was applied is counted (`rules_of`).
"""

import ctypes
import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from ganbench.data.crops import Box

MAX_PIXELS = 100_000_000  # above that a picture is refused: a mistake, or an attack
MAX_FILE = 1 << 30  # bytes of one picture file
RESAMPLE = {"lanczos": Image.Resampling.LANCZOS, "bilinear": Image.Resampling.BILINEAR,
            "nearest": Image.Resampling.NEAREST}
HEIF = {".heic", ".heif"}  # read where the extra ganbench[heif] is installed
EXTENSIONS = {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm",
              ".pgm",
              ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".jpx", ".tga"} | (HEIF if find_spec("pillow_heif") else set())
# Pictures only: Pillow would also run Ghostscript for an EPS file that calls itself .png. TGA last: it has no mark of
# its own.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000", "HEIF", "TGA")
LOSSY = {"JPEG", "MPO", "WEBP", "AVIF", "HEIF"}
MAX_DEEP = 50_000_000  # the same of 16-bit colour, which takes twice the memory
STRIP = 1 << 20  # pixels of a deep picture that are converted at a time
_RULES = "ganbench rules"


class Unreadable(Exception):
    """One image that cannot be used, and why."""


class Header(NamedTuple):
    """What the beginning of a picture file tells: its size in pixels, whether it has colour, whether it lost detail."""

    width: int
    height: int
    colour: bool
    lossy: bool


@contextmanager
def _one_reason() -> Iterator[None]:
    """Around Pillow: whatever it raises of a file becomes Unreadable, with the reason."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of sizes we judge ourselves
            yield
    except UnidentifiedImageError:
        raise Unreadable("not a picture file") from None
    except Image.DecompressionBombError:
        raise Unreadable(f"more than {MAX_PIXELS:,} pixels") from None
    except Unreadable:
        raise
    except Exception as error:  # decoders of damaged files raise nearly anything; it is reported, never lost
        raise Unreadable(" ".join(str(error).split()) or type(error).__name__) from None


@_one_reason()
def decode(data: bytes | Path) -> Image.Image:
    """A picture file as an image of mode L or RGB. Raises Unreadable with the reason."""
    data = file_bytes(data) if isinstance(data, Path) else data
    picture = _opened(data)
    animated = getattr(picture, "is_animated", False)  # only Pillow's formats with frames have it
    rules = ["animated: first frame"] if animated and picture.format != "MPO" else []
    flat = plain(picture, data)
    flat.load()
    if flat is not picture:
        rules.append(f"{_spoken(picture)} converted")
    # The tag may hold anything: text, 0, 9. Only the standard's turns are turns.
    orientation = picture.getexif().get(0x0112)
    if isinstance(orientation, int) and 2 <= orientation <= 8:
        flat = flat.transpose(_TURNS[orientation])
        rules.append("turned by EXIF")
    flat.info[_RULES] = rules
    return flat


@_one_reason()
def header(data: bytes | Path) -> Header:
    """What a picture file says of itself, without decoding it. Raises Unreadable with the reason."""
    with _opened(file_bytes(data) if isinstance(data, Path) else data) as picture:
        grey = picture.mode in ("1", "L", "LA", "La", "F") or picture.mode.startswith("I")
        return Header(*picture.size, not grey, picture.format in LOSSY)


def plain(picture: Image.Image, data: bytes = b"") -> Image.Image:
    """Any mode to L or RGB. Raises Unreadable for pixels whose range is not known.

    Args: data: the file's bytes, where there are any: they tell the depth that Pillow does not.
    """
    mode, clear = picture.mode, picture.info.get("transparency")
    depth = _depth(picture, data)
    if mode in ("L", "RGB") and clear is None and depth <= 8:
        return picture
    if mode == "F":
        raise Unreadable("floating-point pixels have no stated range")
    if mode == "I" and picture.format not in ("PNG", "PPM"):  # those hold 16 bits in a picture of 32
        raise Unreadable("32-bit whole numbers have no stated range")
    if mode.startswith("I"):
        return _grey_of_depth(picture, depth if depth > 8 else 16, clear)
    if depth > 8 and picture.format == "PNG":
        if picture.width * picture.height > MAX_DEEP:
            raise Unreadable(f"{picture.width}x{picture.height} pixels of 16-bit colour are more than {MAX_DEEP:,}")
        return _deep_png(data, clear)
    if depth > 8 and picture.format == "TIFF":
        raise Unreadable(f"{depth}-bit colour in a TIFF is not read, because Pillow gives 8 of the bits: save it as "
                         "PNG")
    if mode == "1" or (mode == "L" and isinstance(clear, int)):
        grey = picture.convert("L")
        if clear is not None:  # 1, 2 and 4 bits were stretched to 0..255, the transparent value was not
            level = 255 * bool(clear) if mode == "1" else clear * 255 // ((1 << min(depth, 8)) - 1)
            grey = grey.point([255 if v == level else v for v in range(256)])
        return grey
    if mode in ("LA", "La"):
        return _on_white(picture, "LA", "L")
    if mode in ("RGBA", "RGBa", "PA") or clear is not None:
        return _on_white(picture, "RGBA", "RGB")
    return picture.convert("RGB")


def _on_white(picture: Image.Image, full: str, flat: str) -> Image.Image:
    """Composited on white, in strips: whole, the copies of a large picture would take gigabytes.

    Args: full: the mode with transparency to bring it to. flat: the mode without.
    """
    whole = Image.new(flat, picture.size)
    rows = max(1, STRIP // picture.width)
    for top in range(0, picture.height, rows):
        strip = picture.crop((0, top, picture.width, min(top + rows, picture.height)))
        strip.info = dict(picture.info)  # a palette's transparency is kept there
        strip = strip.convert(full)
        white = Image.new(flat, strip.size, "white")
        if flat == "RGB":
            strip = Image.alpha_composite(white.convert("RGBA"), strip).convert("RGB")
        else:
            strip = Image.composite(strip.getchannel("L"), white, strip.getchannel("A"))
        whole.paste(strip, (0, top))
    return whole


def _opened(data: bytes) -> Image.Image:
    if not data:
        raise Unreadable("an empty file")
    picture = Image.open(io.BytesIO(data), formats=_formats())
    if 0 in picture.size:
        raise Unreadable("it has no pixels")
    if picture.width * picture.height > MAX_PIXELS:
        raise Unreadable(f"{picture.width}x{picture.height} pixels are more than {MAX_PIXELS:,}")
    return picture


def _depth(picture: Image.Image, data: bytes) -> int:
    """Bits a channel in the file: of PNG and TIFF, whose 16-bit colour Pillow cuts; 8 for all others."""
    if picture.format == "PNG" and len(data) > 24:
        return data[24]  # the head has a fixed place
    if picture.format == "TIFF":
        bits = picture.tag_v2.get(258, 8)  # type: ignore[attr-defined]
        return max(bits) if isinstance(bits, tuple) else int(bits)
    return 8


def _grey_of_depth(picture: Image.Image, bits: int, clear: object) -> Image.Image:
    """Grey of 9 to 16 bits as mode L, in strips: whole, it would take many times the file's memory."""
    most = (1 << bits) - 1
    inverted = picture.format == "TIFF" and picture.tag_v2.get(262) == 0  # type: ignore[attr-defined] # white is zero
    grey = np.empty((picture.height, picture.width), np.uint8)
    rows = max(1, STRIP // picture.width)
    for top in range(0, picture.height, rows):
        strip = np.asarray(picture.crop((0, top, picture.width, min(top + rows, picture.height)))).astype(np.int64)
        scaled = np.rint(strip * (255 / most)).clip(0, 255).astype(np.uint8)
        if isinstance(clear, int):
            scaled[strip == clear] = 255
        grey[top:top + rows] = 255 - scaled if inverted else scaled
    return Image.fromarray(grey)


def _deep_png(data: bytes, clear: object) -> Image.Image:
    """A 16-bit colour or transparent PNG, which Pillow reads with 8 bits only."""
    import torch
    from torchvision.io import ImageReadMode, decode_png
    deep = decode_png(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.UNCHANGED).numpy()  # (C,H,W)
    channels, height, width = deep.shape
    pixels = np.empty((height, width, channels), np.uint8)
    rows = max(1, STRIP // width)
    for top in range(0, height, rows):
        strip = deep[:, top:top + rows].transpose(1, 2, 0)
        scaled = np.rint(strip * np.float64(255 / 65535)).astype(np.uint8)
        if isinstance(clear, tuple):
            scaled[(strip == np.array(clear)).all(-1)] = 255
        pixels[top:top + rows] = scaled
    del deep
    return plain(Image.fromarray(pixels))


def note_rule(picture: Image.Image, rule: str) -> None:
    """Have a rule that a source applied to a picture counted with ours."""
    picture.info[_RULES] = [*picture.info.get(_RULES, ()), rule]


def rules_of(picture: Image.Image | np.ndarray, size: tuple[int, int], channels: int) -> list[str]:
    """What was, and will be, done to a picture besides cropping and shrinking it, in words. size: (height, width)."""
    grey = picture.ndim == 2 if isinstance(picture, np.ndarray) else picture.mode == "L"
    rules = [] if isinstance(picture, np.ndarray) else list(picture.info.get(_RULES, ()))
    if channels == 3 and grey:
        rules.append("grey made colour")
    if channels == 1 and not grey:
        rules.append("colour made grey")
    if isinstance(picture, Image.Image) and (picture.height < size[0] or picture.width < size[1]):
        rules.append("enlarged")
    return rules


def sized(picture: Image.Image | np.ndarray, size: tuple[int, int], channels: int, *, crop: str = "centre",
          box: Box | None = None, pad: int = 0, smooth: bool = True) -> np.ndarray:
    """uint8 (C,H,W): the box (or a generic crop) of a picture, resampled once. size: (H,W).

    Channels other than 1 and 3, which arrays alone have, are resampled one by one and not converted.
    """
    if isinstance(picture, np.ndarray) and picture.ndim == 3 and picture.shape[2] not in (1, 3):
        if picture.shape[2] != channels:
            raise Unreadable(f"it has {picture.shape[2]} channels, not {channels}")
        planes = [sized(picture[..., c], size, 1, crop=crop, box=box, pad=pad, smooth=smooth)
                  for c in range(channels)]
        return np.concatenate(planes)
    if channels not in (1, 3):
        raise Unreadable(f"it has not {channels} channels")
    if isinstance(picture, np.ndarray):
        if pad:
            picture = np.pad(picture, ((pad, pad), (pad, pad), *(((0, 0),) if picture.ndim == 3 else ())))
        picture = Image.fromarray(np.ascontiguousarray(picture))
    # Channels first: grey stays grey, and a colour picture is not resampled as a palette.
    mode = "L" if channels == 1 else "RGB"
    if picture.mode != mode:
        picture = picture.convert(mode)
    resample, (height, width) = RESAMPLE["lanczos"], size
    if box is not None:
        if box.width and picture.size != (box.width, box.height):
            raise Unreadable(f"{picture.width}x{picture.height}, the crop is made for {box.width}x{box.height}")
        picture, resample = picture.crop(box[:4]), RESAMPLE[box.resample]
    elif crop == "centre" and picture.width * height != picture.height * width:
        # the largest box of that shape in the middle
        wide = max(1, min(picture.width, round(picture.height * width / height)))
        high = max(1, min(picture.height, round(picture.width * height / width)))
        x, y = (picture.width - wide) // 2, (picture.height - high) // 2
        picture = picture.crop((x, y, x + wide, y + high))
    elif crop == "pad":
        return _padded(picture, size, smooth)
    if (picture.width < width and picture.height < height) or (crop != "fit" and picture.width < width):
        resample = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    if picture.size != (width, height):
        picture = picture.resize((width, height), resample)
    return _planes(picture)


def _padded(picture: Image.Image, size: tuple[int, int], smooth: bool) -> np.ndarray:
    height, width = size
    scale = min(width / picture.width, height / picture.height)
    inner = (min(width, max(1, round(picture.width * scale))), min(height, max(1, round(picture.height * scale))))
    enlarge = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    if inner != picture.size:
        picture = picture.resize(inner, RESAMPLE["lanczos"] if scale < 1 else enlarge)
    whole = Image.new(picture.mode, (width, height))
    whole.paste(picture, ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return _planes(whole)


def _planes(picture: Image.Image) -> np.ndarray:
    pixels = np.asarray(picture)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def file_bytes(path: Path) -> bytes:
    """A picture file's bytes. Raises Unreadable for what is too large, or no file (a pipe would never end)."""
    state = os.stat(path)
    if state.st_size > MAX_FILE:
        raise Unreadable(f"a file of {state.st_size / 1e9:.1f} GB")
    if not stat.S_ISREG(state.st_mode):
        raise Unreadable("not a regular file")
    with open(path, "rb", buffering=0) as file:
        return file.readall()


def _spoken(picture: Image.Image) -> str:
    mode = picture.mode
    if mode.startswith("I") or (mode in ("L", "RGB") and "transparency" not in picture.info):
        return "16-bit"
    return {"1": "1-bit", "P": "palette", "LA": "grey with transparency", "L": "grey with transparency",
            "RGB": "colour with transparency", "RGBA": "colour with transparency"}.get(mode, mode)


_TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
          5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
          8: Image.Transpose.ROTATE_90}


@cache
def _formats() -> list[str]:
    """The formats that this Pillow reads. HEIC comes with the extra ganbench[heif]."""
    Image.init()
    if find_spec("pillow_heif"):
        import pillow_heif
        pillow_heif.register_heif_opener()
    _quiet_libtiff()
    return [name for name in FORMATS if name in Image.OPEN]


def _quiet_libtiff() -> None:
    """libtiff writes its own lines to stderr, hundreds for one damaged file; what is wrong reaches us without them."""
    for library in sorted(Path(Image.__file__).parent.parent.glob("pillow.libs/libtiff-*")):
        loaded = ctypes.CDLL(str(library))
        loaded.TIFFSetErrorHandler(None)
        loaded.TIFFSetWarningHandler(None)
