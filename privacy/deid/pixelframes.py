"""Stored pixel values of one object: out of the dataset, into pictures to look at, and back without loss.

Values stay stored values: what is not blanked comes back bit for bit. Compressed frames go back as RLE or JPEG-LS
lossless when they came so, else uncompressed; after a lossy compression the object goes on saying so. Not here:
where to blank (`pixels.py`), finding text (`pixeltext.py`).

Source: PS3.3 C.7.6.3 (image pixel module), C.7.6.1.1.5 (lossy compression), C.11.2 (windows); PS3.5 section 8 and A.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from privacy.deid import losslessjpeg
from protocol.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

__all__ = ["Frames", "black", "blank", "decode", "has_pixels", "pictures", "store"]

_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_RLE, _LS_LOSSLESS, _LS_NEAR = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"
_EXPLICIT, _BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
_NATIVE = ("1.2.840.10008.1.2", _EXPLICIT, _BIG, "1.2.840.10008.1.2.1.99")
_JPEG_LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
_JPEG_LOSSLESS = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
_METHOD = {_LS_NEAR: "ISO_14495_1"} | dict.fromkeys(_JPEG_LOSSY, "ISO_10918_1")
# What would no longer be true of the new values.
_STALE = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths", "SmallestImagePixelValue", "LargestImagePixelValue")
_SAME = 6.0  # grey levels: two pictures with a smaller mean difference show the same
_RING = 3  # pixels around a rectangle that give its filling


@dataclass(slots=True, kw_only=True)
class Frames:
    """Stored values.

    Attributes:
        values: frames x rows x columns x samples; writable, in the machine's byte order.
        photometric: of `values`, which after a lossy compression is RGB and not the file's.
        keyword: of the attribute they came from.
        syntax: transfer syntax UID they came in.
    """

    values: NDArray[Any]
    photometric: str
    keyword: str
    syntax: str


def has_pixels(dataset: Dataset) -> bool:
    """Whether the object holds pixels itself."""
    return any(keyword in dataset for keyword in _KEYWORDS)


def decode(dataset: Dataset, *, max_bytes: int) -> Frames:
    """Read all frames.

    Raises:
        InputError: `input.pixels` when they cannot be read, or would take more than `max_bytes`.
    """
    keyword = next(keyword for keyword in _KEYWORDS if keyword in dataset)
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    try:
        frames = int(dataset.get("NumberOfFrames", 1) or 1)
        shape = (frames, int(dataset.Rows), int(dataset.Columns), int(dataset.get("SamplesPerPixel", 1) or 1))
        bits = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}.get(keyword) or int(dataset.BitsAllocated)
        if min(shape) < 1 or shape[3] not in (1, 3):
            raise InputError("input.pixels", "undecodable")
        if shape[0] * shape[1] * shape[2] * shape[3] * max(bits, 8) // 8 > max_bytes:
            raise InputError("input.pixels", "too-large")
        values, photometric = _decoded(dataset, syntax)
        return Frames(values=values.reshape(shape), photometric=photometric, keyword=keyword, syntax=syntax)
    except InputError:
        raise
    except Exception:  # a codec raises anything on hostile bytes; its words may quote the file
        raise InputError("input.pixels", "undecodable") from None


def _decoded(dataset: Dataset, syntax: str) -> tuple[NDArray[Any], str]:
    from pydicom.pixels import get_decoder

    if syntax in _JPEG_LOSSLESS:
        return _lossless(dataset), str(dataset.PhotometricInterpretation)
    # Lossy frames have no stored values to keep; what decoders make of them is RGB.
    values, meta = get_decoder(syntax).as_array(dataset, raw=syntax not in _JPEG_LOSSY)
    if values.dtype.byteorder not in "=|":
        values = values.astype(values.dtype.newbyteorder("="))
    return np.array(values, order="C"), str(meta.get("photometric_interpretation", "MONOCHROME2"))


def _lossless(dataset: Dataset) -> NDArray[Any]:
    """Frames of JPEG lossless; their size is compared before they are decoded."""
    from pydicom.encaps import generate_frames

    count, bits = int(dataset.get("NumberOfFrames", 1) or 1), int(dataset.BitsAllocated)
    shape = (int(dataset.Rows), int(dataset.Columns), int(dataset.get("SamplesPerPixel", 1) or 1))
    streams = list(generate_frames(dataset.PixelData, number_of_frames=count))
    if len(streams) != count or any(losslessjpeg.size(one)[:3] != shape for one in streams):
        raise InputError("input.pixels", "undecodable")
    values = np.stack([losslessjpeg.decode(one) for one in streams])
    if bits == 8:
        return values.astype(np.int8 if dataset.PixelRepresentation else np.uint8)
    unused = 16 - int(dataset.BitsStored)
    signed = int(dataset.PixelRepresentation) == 1
    return (values << unused).view(np.int16) >> unused if signed else values


# -- pictures to look at


def pictures(frames: Frames, index: int, dataset: Dataset) -> list[NDArray[np.uint8]]:
    """One frame as 8-bit pictures, rows x columns or x 3, each with another contrast; alike ones once."""
    values = frames.values[index]
    if frames.photometric == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        return _colours(_stretched(apply_color_lut(values[:, :, 0], dataset)))
    if values.shape[2] == 3:
        if frames.photometric.startswith("YBR") and values.dtype == np.uint8:
            from pydicom.pixels import convert_color_space

            values = convert_color_space(values, "YBR_FULL", "RGB", per_frame=True)
        return _colours(_stretched(values) if values.dtype != np.uint8 else np.asarray(values))
    return _greys(values[:, :, 0], frames.photometric == "MONOCHROME1", dataset)


def _greys(values: NDArray[Any], inverted: bool, dataset: Dataset) -> list[NDArray[np.uint8]]:
    plain = np.nan_to_num(values.astype(np.float32))
    low, high = np.percentile(plain, (1, 99))
    ranges = [(float(plain.min()), float(plain.max())), (float(low), float(high)), *_windows(dataset)]
    shown: list[NDArray[np.uint8]] = []
    for low, high in ranges:
        if high <= low:
            continue
        grey = (np.clip((plain - low) / (high - low), 0, 1) * 255).astype(np.uint8)
        _add(shown, 255 - grey if inverted else grey)
    if shown:
        _add(shown, _lifted(shown[0]))
    return shown


def _colours(colours: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """As they are, and the brightest channel with its shadows lifted."""
    bright = colours.max(axis=2)
    low, high = np.percentile(bright, (1, 99.5))
    bright = (np.clip((bright - low) / max(high - low, 1), 0, 1) * 255).astype(np.uint8)
    return [colours, _lifted(bright)]


def _lifted(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Square root: dark writing on a darker ground comes out."""
    return np.asarray(np.sqrt(grey / 255) * 255, dtype=np.uint8)


def _add(shown: list[NDArray[np.uint8]], grey: NDArray[np.uint8]) -> None:
    if all(np.abs(grey.astype(np.int16) - other).mean() >= _SAME for other in shown):
        shown.append(grey)


def _windows(dataset: Dataset) -> list[tuple[float, float]]:
    """The file's first window, in stored values."""
    try:
        centre, width = (_first(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
        slope, intercept = _first(dataset.get("RescaleSlope", 1)), _first(dataset.get("RescaleIntercept", 0))
    except (TypeError, ValueError, IndexError):
        return []
    if not np.isfinite([centre, width, slope, intercept]).all() or slope <= 0 or width <= 0:
        return []
    return [((centre - width / 2 - intercept) / slope, (centre + width / 2 - intercept) / slope)]


def _first(value: Any) -> float:
    return float(value[0] if not isinstance(value, (str, int, float)) and hasattr(value, "__len__") else value)


def _stretched(values: NDArray[Any]) -> NDArray[np.uint8]:
    low, high = float(values.min()), float(values.max())
    return ((values.astype(np.float32) - low) * (255 / max(high - low, 1e-6))).astype(np.uint8)


# -- blanking


def black(frames: Frames, dataset: Dataset) -> NDArray[Any]:
    """The stored value of each sample that shows black."""
    values, samples = frames.values, frames.values.shape[3]
    if frames.photometric == "PALETTE COLOR":
        shades = [np.frombuffer(dataset[f"{c}PaletteColorLookupTableData"].value, np.uint8).astype(int) for c in _LUT]
        entry = int(dataset.RedPaletteColorLookupTableDescriptor[0]) or 65536
        wide = len(shades[0]) >= 2 * entry
        light = sum((shade[1::2] if wide else shade)[:entry] for shade in shades)
        first = int(dataset.RedPaletteColorLookupTableDescriptor[1])
        return np.array([first + int(np.argmin(light))]).astype(values.dtype)
    if samples == 3:
        half = 1 << (int(dataset.BitsStored) - 1)
        return np.array([0, half, half] if frames.photometric.startswith("YBR") else [0, 0, 0]).astype(values.dtype)
    extreme = np.nanmax(values) if frames.photometric == "MONOCHROME1" else np.nanmin(values)
    return np.array([extreme]).astype(values.dtype)


_LUT = ("Red", "Green", "Blue")


def blank(frame: NDArray[Any], boxes: list[tuple[int, int, int, int]], shade: NDArray[Any], *, indexed: bool) -> None:
    """Overwrite x0, y0, x1, y1 rectangles of one frame (rows x columns x samples) with one value each.

    That value is the median of the untouched pixels around (the commonest when values are palette indices), so that
    no new edges appear; without such pixels it is `shade`.
    """
    covered = np.zeros(frame.shape[:2], dtype=bool)
    for x0, y0, x1, y1 in boxes:
        covered[y0:y1, x0:x1] = True
    fillings = []
    for x0, y0, x1, y1 in boxes:
        around = slice(max(y0 - _RING, 0), y1 + _RING), slice(max(x0 - _RING, 0), x1 + _RING)
        ring = frame[around][~covered[around]]
        if not len(ring):
            fillings.append(shade)
        elif indexed:
            numbers, counts = np.unique(ring, return_counts=True)
            fillings.append(numbers[np.argmax(counts)].reshape(1))
        else:
            fillings.append(np.sort(ring, axis=0)[len(ring) // 2])
    for (x0, y0, x1, y1), filling in zip(boxes, fillings, strict=True):
        frame[y0:y1, x0:x1] = filling


# -- back into the dataset


def store(dataset: Dataset, frames: Frames, *, recompress: bool = True) -> None:
    """Write the values into the dataset, with the attributes that describe them.

    Raises:
        InputError: `input.pixels` when what was written does not read back the same.
    """
    _keep_truthful(dataset, frames)
    native = frames.syntax in _NATIVE
    dataset.pop(frames.keyword)
    for name in _STALE:
        if name in dataset:
            del dataset[name]
    if frames.keyword == "PixelData":
        dataset.PhotometricInterpretation = frames.photometric
        if frames.values.shape[3] == 3:
            dataset.PlanarConfiguration = 0
    if not native:
        dataset.file_meta.TransferSyntaxUID = _uid(_EXPLICIT)
    dataset.add(_element(frames, dataset))
    if recompress and frames.syntax in (_RLE, _LS_LOSSLESS):
        _compress(dataset, frames)
    back = decode(dataset, max_bytes=2 * frames.values.nbytes + 64)
    if not np.array_equal(back.values, frames.values, equal_nan=frames.values.dtype.kind == "f"):
        raise InputError("input.pixels", "not-stored")


def _element(frames: Frames, dataset: Dataset) -> Any:
    from pydicom.datadict import tag_for_keyword
    from pydicom.dataelem import DataElement
    from pydicom.pixels import pack_bits

    values = frames.values
    if frames.keyword == "PixelData" and int(dataset.BitsAllocated) == 1:
        data = pack_bits(values.reshape(values.shape[:3]).astype(np.uint8))
    else:
        order = values.dtype.newbyteorder(">" if frames.syntax == _BIG else "<")
        data = values.astype(order).tobytes()
    vr = {"FloatPixelData": "OF", "DoubleFloatPixelData": "OD"}.get(frames.keyword)
    if vr is None:
        vr = "OB" if values.dtype.itemsize == 1 and frames.syntax != _NATIVE[0] else "OW"
    return DataElement(int(tag_for_keyword(frames.keyword) or 0), vr, data + b"\0" * (len(data) % 2))


def _compress(dataset: Dataset, frames: Frames) -> None:
    """As it came, when the encoder can; else it stays uncompressed."""
    from pydicom.pixels import compress

    native = dataset["PixelData"]
    plugin = "pydicom" if frames.syntax == _RLE else "pyjpegls"
    planar = dataset.get("PlanarConfiguration", None)
    try:
        compress(dataset, frames.syntax, encoding_plugin=plugin, generate_instance_uid=False)
    except Exception:  # an encoder without a way for these values: uncompressed is as lossless
        dataset.add(native)
        dataset.file_meta.TransferSyntaxUID = _uid(_EXPLICIT)
        if planar is not None:
            dataset.PlanarConfiguration = planar


def _keep_truthful(dataset: Dataset, frames: Frames) -> None:
    """Say that the values once were compressed with loss, now that the transfer syntax says it no longer."""
    method = _METHOD.get(frames.syntax)
    if method is None:
        return
    if str(dataset.get("LossyImageCompression", "") or "") != "01" or not dataset.get("LossyImageCompressionMethod"):
        ratio = frames.values.nbytes / max(len(dataset[frames.keyword].value), 1)
        dataset.LossyImageCompressionMethod = method
        dataset.LossyImageCompressionRatio = f"{ratio:.2f}"
    dataset.LossyImageCompression = "01"


def _uid(value: str) -> Any:
    from pydicom.uid import UID

    return UID(value)
