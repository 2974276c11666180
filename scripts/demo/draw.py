"""Draws scenes: the picture itself, what the model gets of it, and which patch shows what."""

from __future__ import annotations

import io
import math
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from scripts.demo import fonts
from scripts.demo.outlines import Point, digit_strokes, outline
from scripts.demo.scene import Background, Scene, Text, Thing

PAD_COLOUR = (122, 116, 104)  # CLIP's mean colour
SLOTS = 9  # four things and five characters
Canvas = Image.Image


def thing_mask(thing: Thing, size: tuple[int, int], centre: Point, scale: float) -> Canvas:
    """Where the thing is white on black; size: of the mask; scale: pixels per longer side."""
    mask = Image.new("L", size)
    pen = ImageDraw.Draw(mask)
    edge = outline(thing, scale)
    pen.polygon([(centre[0] + x, centre[1] + y) for x, y in edge], fill=255)
    if thing.shape == "ring":
        pen.polygon([(centre[0] + x * 0.55, centre[1] + y * 0.55) for x, y in edge], fill=0)
    return mask


def _tone_map(behind: Background, width: int, height: int, rng: Random) -> NDArray[np.float32]:
    """How much of the second tone each pixel has, 0 to 1, shape (height, width)."""
    longer = max(width, height)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / longer
    turn = math.radians(behind.angle)
    along = x * math.cos(turn) + y * math.sin(turn)
    across = y * math.cos(turn) - x * math.sin(turn)
    share: NDArray[np.float32]
    if behind.pattern == "gradient":
        share = (along - along.min()) / max(float(np.ptp(along)), 1e-6)
    elif behind.pattern == "noisy":
        noise = np.random.default_rng(rng.getrandbits(32))
        share = noise.random((height, width), dtype=np.float32)
    elif behind.pattern == "dotted":
        cell_x, cell_y = (part / behind.scale % 1 - 0.5 for part in (along, across))
        share = (cell_x**2 + cell_y**2 < 0.09).astype(np.float32)
    else:
        steps = np.floor(along / behind.scale)
        if behind.pattern == "checked":
            steps = steps + np.floor(across / behind.scale)
        share = (steps.astype(np.int32) % 2).astype(np.float32)
    return share


def backdrop(scene: Scene, rng: Random) -> Canvas:
    """The background alone."""
    behind = scene.background
    if behind.pattern == "plain":
        return Image.new("RGB", (scene.width, scene.height), behind.tones[0])
    share = _tone_map(behind, scene.width, scene.height, rng)[..., None]
    first, second = (np.asarray(tone, np.float32) for tone in behind.tones)
    mixed = first + (second - first) * share
    return Image.fromarray(mixed.astype(np.uint8))


def _letter_boxes(text: Text, font_path: str, scale: float) -> list[tuple[float, float]]:
    """Left edge and width of each character around the text's centre, in pixels."""
    if text.drawn:
        width = text.height * scale * 0.62
        return [(-width / 2, width)]
    font = fonts.load(font_path, max(6, round(text.height * scale / 0.72)))
    widths = [font.getlength(letter) for letter in text.string]
    edge, boxes = -sum(widths) / 2, []
    for width in widths:
        boxes.append((edge, width))
        edge += width
    return boxes


def print_text(text: Text, picture: Canvas, centre: Point, scale: float, font_path: str) -> None:
    """Prints or draws the text around a centre in pixels."""
    pen = ImageDraw.Draw(picture)
    boxes = _letter_boxes(text, font_path, scale)
    high = text.height * scale
    if text.drawn:
        rng = Random(text.seed)
        left, width = boxes[0]
        thick = max(2, round(high * rng.uniform(0.09, 0.16)))
        for stroke in digit_strokes(text.string):
            points = [
                (
                    centre[0] + left + (x + rng.uniform(-0.05, 0.05)) * width,
                    centre[1] + (y - 0.5 + rng.uniform(-0.04, 0.04)) * high,
                )
                for x, y in stroke
            ]
            pen.line(points, fill=text.rgb, width=thick, joint="curve")
        return
    font = fonts.load(font_path, max(6, round(high / 0.72)))
    for letter, (left, _) in zip(text.string, boxes, strict=True):
        place = (centre[0] + left, centre[1] + high / 2)
        pen.text(place, letter, font=font, fill=text.rgb, anchor="ls")


def draw(scene: Scene, font_paths: tuple[str, ...]) -> Canvas:
    """The picture of a scene, RGB, scene.width x scene.height."""
    rng = Random(scene.seed)
    picture = backdrop(scene, rng)
    scale = float(max(scene.width, scene.height))
    for thing in scene.things:
        centre = (thing.x * scene.width, thing.y * scene.height)
        mask = thing_mask(thing, picture.size, centre, scale)
        if thing.outline is not None:
            picture.paste(thing.outline, (0, 0), mask)
            mask = mask.filter(ImageFilter.MinFilter(3))
        picture.paste(thing.rgb, (0, 0), mask)
    if scene.text is not None:
        centre = (scene.text.x * scene.width, scene.text.y * scene.height)
        path = font_paths[scene.text.font % len(font_paths)]
        print_text(scene.text, picture, centre, scale, path)
    return spoil(picture, scene)


def spoil(picture: Canvas, scene: Scene) -> Canvas:
    """Blur, grain and JPEG artefacts, as the scene asks for."""
    if scene.blur:
        picture = picture.filter(ImageFilter.GaussianBlur(scene.blur * max(picture.size) / 112))
    if scene.grain:
        noise = np.random.default_rng(scene.seed).standard_normal(
            (picture.height, picture.width, 3), dtype=np.float32
        )
        grainy = np.asarray(picture, np.float32) + noise * scene.grain
        picture = Image.fromarray(grainy.clip(0, 255).astype(np.uint8))
    if scene.jpeg:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=scene.jpeg)
        picture = Image.open(buffer).convert("RGB")
    return picture


def preprocess(picture: Canvas, side: int) -> NDArray[np.uint8]:
    """LLaVA's view: padded to a square with the mean colour, bicubic, (side, side, 3)."""
    longer = max(picture.size)
    if picture.width != picture.height:
        square = Image.new("RGB", (longer, longer), PAD_COLOUR)
        square.paste(picture, ((longer - picture.width) // 2, (longer - picture.height) // 2))
        picture = square
    return np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC))


def coverage(scene: Scene, grid: int, font_paths: tuple[str, ...]) -> NDArray[np.uint8]:
    """How much of each patch each thing (0-3) and character (4-8) fills: (9, grid, grid), 0-255."""
    side = 168
    longer = max(scene.width, scene.height)
    shift = ((longer - scene.width) / 2, (longer - scene.height) / 2)
    zoom = side / longer
    cells = np.zeros((SLOTS, grid, grid), np.uint8)

    def middle(x: float, y: float) -> Point:
        return (x * scene.width + shift[0]) * zoom, (y * scene.height + shift[1]) * zoom

    for slot, thing in enumerate(scene.things):
        mask = thing_mask(thing, (side, side), middle(thing.x, thing.y), side)
        cells[slot] = np.asarray(mask.resize((grid, grid), Image.Resampling.BOX))
    text = scene.text
    if text is not None:
        centre = middle(text.x, text.y)
        boxes = _letter_boxes(text, font_paths[text.font % len(font_paths)], side)
        for slot, (left, width) in enumerate(boxes, start=4):
            mask = Image.new("L", (side, side))
            half = text.height * side / 2
            box = (centre[0] + left, centre[1] - half, centre[0] + left + width, centre[1] + half)
            ImageDraw.Draw(mask).rectangle(box, fill=255)
            cells[slot] = np.asarray(mask.resize((grid, grid), Image.Resampling.BOX))
    return cells


def padding(scene: Scene, grid: int) -> NDArray[np.float32]:
    """The share of each patch that is padding, not picture: (grid, grid), 0 to 1."""
    longer = max(scene.width, scene.height)
    edges = np.linspace(0, longer, grid + 1)

    def inside(length: int) -> NDArray[np.float32]:
        low, high = (longer - length) / 2, (longer + length) / 2
        part = np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)
        return (part.clip(0) / (longer / grid)).astype(np.float32)

    return 1 - np.outer(inside(scene.height), inside(scene.width))
