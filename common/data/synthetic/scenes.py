"""The pictures: an object on a textured ground, by basic arithmetic alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from common.data.synthetic.settings import GROUP_SIZE

# A group's outline: the object lies where a*max(|u|, |v|) + b*min(|u|, |v|) + c*|(u, v)| < 1 (one formula, so that all
# groups are painted at once), u to the right and v downwards in units of its radius, v divided by the stretch.
_OUTLINES = np.array(
    [  # a, b, c, stretch
        [0.0, 0.0, 1.0, 1.0],  # disc
        [1.2, 0.0, 0.0, 1.0],  # square
        [0.8, 2.0, 0.0, 1.0],  # four-pointed star
        [0.0, 0.0, 1.2, 0.6],  # flat ellipse
    ],
    dtype=np.float32,
)
# A group's ground: weights of the stripes along x and along y (upright, level, both, plain).
_GROUNDS = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.0, 0.0]], dtype=np.float32)
# Five palettes go with four outlines and grounds by remainders: 20 groups are the 20 combinations.
_PALETTES = 5
_GOLDEN = 0.618034  # its multiples, modulo 1, spread evenly over the circle of hues, however many there are

# Members of a group on three scales, each in an order of its own. Pictures vary around these values (`draw_scenes`) by
# so much that a single scale tells neighbors apart only now and then.
_BAND_FREQUENCY = np.array([1.0, 1.5, 2.0, 2.5, 3.0], dtype=np.float32)  # bands on the object, per radius
_SPOT_HEIGHT = np.array([0.0, 0.4, -0.4, 0.2, -0.2], dtype=np.float32)  # of the spot on the object, in radii, downwards
_MARK_HUE = np.array([0.08, -0.16, 0.0, 0.16, -0.08], dtype=np.float32)  # of the bands, from the object's own hue

_SPOT_RADIUS = np.float32(0.22)  # in radii of the object
_NOISE = 0.08  # standard deviation of the pixel noise, of the range from black to white


class Scenes(NamedTuple):
    """What n pictures show, drawn at random before any pixel. Arrays are [n, 1, 1] unless said otherwise.

    Lengths are in half short sides of the picture, x to the right, y downwards, the origin in the middle.
    """

    cos: np.ndarray  # of the angle by which the scene is turned
    sin: np.ndarray
    x: np.ndarray  # middle of the object
    y: np.ndarray
    radius: np.ndarray  # of the object
    outline: np.ndarray  # rows of `_OUTLINES`, [n, 4, 1, 1]
    ground: np.ndarray  # rows of `_GROUNDS`, [n, 2, 1, 1]
    ground_frequency: np.ndarray
    phase: np.ndarray  # of the ground's stripes along x and y, and of the bands, [n, 3, 1, 1]
    band_frequency: np.ndarray
    spot_x: np.ndarray  # in radii, from the middle of the object
    spot_y: np.ndarray
    colors: np.ndarray  # RGB in 0..1 of the ground's dark and light, the object, its bands and its spot, [n, 5, 3]


def _rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Colors in RGB, [n, 3], from hue (of period 1), saturation and value, [n] each."""
    sector = (hue[:, None] * 6 + np.array([0, 4, 2], dtype=np.float32)) % 6
    pure = np.clip(np.abs(sector - 3) - 1, 0, 1)
    return value[:, None] * (1 - saturation[:, None] * (1 - pure))


def draw_scenes(labels: np.ndarray, random: np.random.Generator) -> Scenes:
    """Draws all but the pixel noise for pictures of the given classes, [n].

    Left and right are alike in distribution, and scenes are turned a little: augmentations that flip, rotate by some
    degrees and shift leave the class recognizable.
    """
    n = len(labels)
    group, member = labels // GROUP_SIZE, labels % GROUP_SIZE

    def uniform(low: float, high: float) -> np.ndarray:
        return (low + (high - low) * random.random(n)).astype(np.float32)

    def around(middle: np.ndarray, reach: float) -> np.ndarray:
        """Values within `reach` of a class's own, the nearer the likelier (a triangular distribution)."""
        return middle + uniform(-reach / 2, reach / 2) + uniform(-reach / 2, reach / 2)

    palette = group % _PALETTES + _PALETTES * (group // (_PALETTES * len(_OUTLINES)))
    hue = around((_GOLDEN * palette).astype(np.float32), 0.1)
    object_hue = hue + np.float32(0.4)
    mark_hue = object_hue + around(_MARK_HUE[member], 0.2)
    brightness = uniform(0.6, 1.1)
    tint = np.stack([uniform(0.8, 1.2) for _ in range(3)], axis=1)  # color of the light
    ground_value = brightness * uniform(0.45, 0.9)
    colors = [
        _rgb(hue, uniform(0.3, 0.7), ground_value * np.float32(0.6)),
        _rgb(hue, uniform(0.3, 0.7), ground_value),
        # Lighter or darker than the ground, as it happens: pixel values by themselves say little about the class.
        _rgb(object_hue, uniform(0.4, 0.8), brightness * uniform(0.5, 0.9)),
        _rgb(mark_hue, uniform(0.5, 0.9), brightness * uniform(0.6, 1.0)),
        _rgb(mark_hue + np.float32(0.5), uniform(0.2, 0.5), brightness),
    ]
    tangent = uniform(-0.09, 0.09)  # of half the angle (up to 10 degrees), whence cosine and sine by arithmetic
    per_picture = {
        "cos": (1 - tangent * tangent) / (1 + tangent * tangent),
        "sin": 2 * tangent / (1 + tangent * tangent),
        "x": uniform(-0.25, 0.25),
        "y": uniform(-0.25, 0.25),
        "radius": uniform(0.6, 0.8),
        "outline": _OUTLINES[group % len(_OUTLINES)],
        "ground": _GROUNDS[group % len(_GROUNDS)],
        "ground_frequency": uniform(2.0, 2.6),
        "phase": random.random((n, 3)).astype(np.float32),
        "band_frequency": around(_BAND_FREQUENCY[member], 0.9),
        "spot_x": uniform(-0.25, 0.25),
        "spot_y": around(_SPOT_HEIGHT[member], 0.4),
    }
    return Scenes(
        **{name: values[..., None, None] for name, values in per_picture.items()},
        colors=np.stack(colors, axis=1) * tint[:, None],
    )


def _wave(t: np.ndarray) -> np.ndarray:
    """A sine-like wave of period 1 between 0 and 1, by basic arithmetic."""
    triangle = np.abs(2 * (t - np.floor(t)) - 1)
    return triangle * triangle * (3 - 2 * triangle)


def _coverage(distance: np.ndarray, pixel: np.ndarray) -> np.ndarray:
    """How much of each pixel lies where distance < 1, in 0..1, for pixels of the given size: soft borders."""
    return np.clip((1 - distance) / pixel + np.float32(0.5), 0, 1)


def paint(scene: Scenes, height: int, width: int, random: np.random.Generator) -> np.ndarray:
    """Pictures of the scenes with pixel noise, uint8 [n, 3, height, width]."""
    short_side = min(height, width)
    x = ((2 * np.arange(width, dtype=np.float32) + 1 - width) / short_side)[None, None, :] - scene.x
    y = ((2 * np.arange(height, dtype=np.float32) + 1 - height) / short_side)[None, :, None] - scene.y
    # From here on arrays are [n, height, width]. The ground turns with the object.
    x, y = scene.cos * x - scene.sin * y, scene.sin * x + scene.cos * y

    stripes_x = _wave(scene.ground_frequency * x + scene.phase[:, 0])
    stripes_y = _wave(scene.ground_frequency * y + scene.phase[:, 1])
    ground = scene.ground[:, 0] * stripes_x + scene.ground[:, 1] * stripes_y

    u, v = x / scene.radius, y / (scene.radius * scene.outline[:, 3])
    abs_u, abs_v = np.abs(u), np.abs(v)
    distance = (
        scene.outline[:, 0] * np.maximum(abs_u, abs_v)
        + scene.outline[:, 1] * np.minimum(abs_u, abs_v)
        + scene.outline[:, 2] * np.sqrt(u * u + v * v)
    )
    pixel = 2 / (short_side * scene.radius)  # its side, in radii
    body = _coverage(distance, pixel)
    bands = _wave(scene.band_frequency * v + scene.phase[:, 2])
    spot_u, spot_v = u - scene.spot_x, v - scene.spot_y
    spot = _coverage(np.sqrt(spot_u * spot_u + spot_v * spot_v) / _SPOT_RADIUS, pixel / _SPOT_RADIUS) * body

    n = len(x)
    # The sum of two bytes (standard deviation 104.5) is near enough to normal, and quick to draw.
    noise_bytes = np.frombuffer(random.bytes(2 * n * 3 * height * width), np.uint8).reshape(2, n, 3, height, width)
    noise_scale = np.float32(_NOISE * 255 / 104.5)
    pictures = np.empty((n, 3, height, width), np.uint8)
    for channel in range(3):
        dark, light, own, band, dot = (scene.colors[:, i, channel, None, None] for i in range(5))
        value = dark + (light - dark) * ground
        value += (own + (band - own) * bands - value) * body
        value += (dot - value) * spot
        noise = noise_bytes[0, :, channel].astype(np.float32) + noise_bytes[1, :, channel] - np.float32(255)
        pictures[:, channel] = np.clip(value * np.float32(255) + noise * noise_scale + np.float32(0.5), 0, 255)
    return pictures


def object_box(scene: Scenes, height: int, width: int) -> tuple[int, int, int, int]:
    """Pixels x0, y0, x1, y1 of the (unturned) object in a single scene, as Tiny-ImageNet gives boxes."""
    x, y, radius = scene.x.item(), scene.y.item(), scene.radius.item()
    a, _, c, stretch = scene.outline.ravel().tolist()
    half_x, half_y = radius / (a + c), radius / (a + c) * stretch

    def to_pixel(length: float, size: int) -> int:
        return int(min(max((length * min(height, width) + size) / 2, 0), size - 1))

    return (
        to_pixel(x - half_x, width),
        to_pixel(y - half_y, height),
        to_pixel(x + half_x, width),
        to_pixel(y + half_y, height),
    )
