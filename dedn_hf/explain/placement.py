"""Where the regions of a feature map lie on the original picture, before it was resized and cropped."""

from __future__ import annotations

import numpy as np
from PIL import Image

Box = tuple[float, float, float, float]  # left, top, right, bottom


def crop_box(width: int, height: int, shorter_side: int, crop_size: int) -> Box:
    """What the image processor keeps of a width x height picture, in its pixels: left, top, right, bottom.

    The processor resizes the shorter side to `shorter_side` and cuts `crop_size` x `crop_size` from the middle, with
    a black border where that is larger; then the box reaches beyond the picture.
    """
    longer_side = int(shorter_side * max(width, height) / min(width, height))
    resized = (shorter_side, longer_side) if width <= height else (longer_side, shorter_side)
    (left, x_scale), (top, y_scale) = (
        (int((new - crop_size) / 2), old / new) for old, new in zip((width, height), resized, strict=True)
    )
    return left * x_scale, top * y_scale, (left + crop_size) * x_scale, (top + crop_size) * y_scale


def place_heat(
    region_map: np.ndarray, crop: Box, picture_size: tuple[int, int], size: tuple[int, int] | None = None
) -> np.ndarray:
    """The positive part of a region map (H x W) on the whole picture: height x width, its peak at 1, 0 if none.

    Args:
        crop: what the regions divide evenly, in pixels of the picture. picture_size, size: (width, height) of the
            picture and of the result (default: as the picture).
    """
    size = size or picture_size
    to_picture = np.divide(picture_size, size)
    to_region = np.divide(region_map.shape[::-1], (crop[2] - crop[0], crop[3] - crop[1]))
    (x_step, y_step), (x_start, y_start) = to_picture * to_region, -np.array(crop[:2]) * to_region
    heat = Image.fromarray(np.asarray(region_map, dtype=np.float32)).transform(
        size, Image.Transform.AFFINE, (x_step, 0, x_start, 0, y_step, y_start), Image.Resampling.BICUBIC
    )  # 0 where there is no region
    positive = np.asarray(heat).clip(min=0)
    return positive / positive.max() if positive.max() > 0 else positive
