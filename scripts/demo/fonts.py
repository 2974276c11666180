"""Which fonts the pictures are printed in; those of the held-out pictures come from PyPI."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

from PIL import ImageFont

# `pip install font-source-sans-pro font-source-serif-pro font-hanken-grotesk`
HELD_OUT = (
    ("font_source_sans_pro", ("SourceSansPro-Regular.ttf", "SourceSansPro-Bold.ttf")),
    ("font_source_serif_pro", ("SourceSerifPro-Regular.ttf", "SourceSerifPro-Bold.ttf")),
    ("font_hanken_grotesk", ("HankenGrotesk-Regular.otf", "HankenGrotesk-Bold.otf")),
)
TRAINING_PACKAGES = ("font_roboto", "font_lato", "font_caladea", "font_manrope")
SYSTEM_FOLDER = Path("/usr/share/fonts")
# Fonts that lack plain Latin capitals, or whose capitals are no longer plain.
UNWANTED = (
    "math",
    "symbol",
    "emoji",
    "icon",
    "cjk",
    "fallback",
    "dingbat",
    "condensed",
    "variable",
    "thin",
    "extralight",
    "hairline",
    "[",
    "italic",
    "oblique",
)
LATIN_STEMS = (
    "dejavu",
    "liberation",
    "free",
    "opensans",
    "open-sans",
    "roboto",
    "lato",
    "caladea",
    "carlito",
    "cantarell",
    "inter",
    "firacode",
    "hack",
    "comicneue",
    "oswald",
    "quicksand",
    "montserrat",
    "manrope",
    "notosans-",
    "notoserif-",
    "notosansmono-",
    "notosansdisplay-",
)


def package_folder(name: str) -> Path | None:
    """Where an installed font package keeps its files."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "files"


def held_out_fonts() -> tuple[str, ...]:
    """Paths of the fonts that no training picture uses; Pillow's own one if none is installed."""
    paths: list[str] = []
    for name, files in HELD_OUT:
        folder = package_folder(name)
        if folder is not None:
            paths += [str(folder / file) for file in files if (folder / file).exists()]
    return tuple(paths) or ("",)


@functools.lru_cache(maxsize=1)
def training_fonts() -> tuple[str, ...]:
    """Paths of every usable Latin font of the system and of the installed packages."""
    folders = [SYSTEM_FOLDER] + [
        folder for name in TRAINING_PACKAGES if (folder := package_folder(name)) is not None
    ]
    found: dict[str, str] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.[ot]tf")):
            name = path.stem.lower()
            known = name.startswith(LATIN_STEMS)
            if known and not any(word in name for word in UNWANTED):
                found[name] = str(path)
    return tuple(found.values()) or ("",)


@functools.lru_cache(maxsize=2048)
def load(path: str, size: int) -> ImageFont.FreeTypeFont:
    """The font at a size in pixels; an empty path stands for Pillow's built-in one."""
    if path:
        return ImageFont.truetype(path, size)
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
