"""Heat maps: where regions lie on the original picture, before it was resized and cropped, and how heat is painted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

if TYPE_CHECKING:
    from dedn_hf.modeling.configuration_dedn import DEDNConfig

Box = tuple[float, float, float, float]  # left, top, right, bottom
VERMILLION = np.array([213, 94, 0]) / 255  # of Okabe and Ito's palette


def crop_box(width: int, height: int, side: int, crop_size: int, squash: bool = False) -> Box:
    """What the image processor keeps of a width x height picture, in its pixels: left, top, right, bottom.

    The processor resizes the shorter side, or with `squash` both sides, to `side` pixels, and cuts `crop_size` x
    `crop_size` from the middle. Where the crop is larger, it adds a black border; then the box reaches beyond the
    picture.
    """
    longer_side = side if squash else int(side * max(width, height) / min(width, height))
    resized = (side, longer_side) if width <= height else (longer_side, side)
    (left, x_scale), (top, y_scale) = (
        (int((new - crop_size) / 2), old / new) for old, new in zip((width, height), resized, strict=True)
    )
    return left * x_scale, top * y_scale, (left + crop_size) * x_scale, (top + crop_size) * y_scale


def crop_of(config: DEDNConfig, picture: Image.Image) -> Box:
    """What a model's image processor keeps of a picture, see `crop_box`."""
    squash = config.crop_mode == "squash"
    return crop_box(picture.width, picture.height, config.resized_side, config.image_size, squash)


def place_heat(
    region_map: np.ndarray,
    picture_size: tuple[int, int],
    crop: Box | None = None,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """The positive part of a region map (H x W), smoothly, on the whole picture: height x width, 0..1.

    The highest value is 1. Everything is 0 if no value of the map is positive.

    Args:
        picture_size: (width, height). crop: the part that the regions divide evenly, in pixels of the picture;
            default: the whole picture. size: (width, height) of the result; default: as the picture.
    """
    size, crop = size or picture_size, crop or (0, 0, *picture_size)
    to_picture = np.divide(picture_size, size)
    to_region = np.divide(region_map.shape[::-1], (crop[2] - crop[0], crop[3] - crop[1]))
    (x_step, y_step), (x_start, y_start) = to_picture * to_region, -np.array(crop[:2]) * to_region
    heat = Image.fromarray(np.asarray(region_map, dtype=np.float32)).transform(
        size, Image.Transform.AFFINE, (x_step, 0, x_start, 0, y_step, y_start), Image.Resampling.BICUBIC
    )  # 0 where there is no region
    positive = np.asarray(heat).clip(min=0)
    return positive / positive.max() if positive.max() > 0 else positive


def paint_heat(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Heat (height x width, 0..1) in orange over a pale grey version of an image (height x width x 3, 0..1).

    A dark line marks where the heat falls to one half, so that a grey print shows it too.
    """
    grey = 0.25 + 0.7 * image.mean(axis=-1, keepdims=True)
    cover = 0.9 * heat[..., None]
    half = Image.fromarray((255 * (heat >= 0.5)).astype(np.uint8))
    width = 1 + max(heat.shape) // 400
    line = np.asarray(half) > np.asarray(half.filter(ImageFilter.MinFilter(2 * width + 1)))
    return (grey * (1 - cover) + VERMILLION * cover) * np.where(line, 0.3, 1.0)[..., None]
