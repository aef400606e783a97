"""Drawn pictures for the sample corpus: simple scenes that suit a post's mood."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

# Scenes are drawn on this canvas, then halved, which smooths their edges.
_WIDTH, _HEIGHT = 960, 720

Color = tuple[int, int, int]
Pen = ImageDraw.ImageDraw


def draw(scene: str, seed: int = 0) -> Image.Image:
    """Return a 480 x 360 RGB picture of one of SCENES; each seed gives another variant."""
    canvas = Image.new("RGB", (_WIDTH, _HEIGHT))
    SCENES[scene](ImageDraw.Draw(canvas), random.Random(f"{scene}-{seed}"))
    return canvas.resize((_WIDTH // 2, _HEIGHT // 2), Image.Resampling.LANCZOS)


def photograph(drawn: Image.Image, seed: int) -> Image.Image:
    """Return a drawing as a hand-held camera sees it: tilted, unevenly lit, on grained paper."""
    rng = np.random.default_rng(seed)
    width, height = drawn.size
    tilted = drawn.rotate(rng.uniform(-3, 3), Image.Resampling.BICUBIC)
    edge = max(width, height) // 25
    inside = tilted.crop((edge, edge, width - edge, height - edge))
    sharp = inside.resize(drawn.size, Image.Resampling.LANCZOS)
    seen = np.asarray(sharp.filter(ImageFilter.GaussianBlur(0.6)), np.float32)
    grain = 22 * _fractal(rng, width, height, 1.2) + 25 * _fractal(rng, width, height, 1.8)
    tint = [5 * _fractal(rng, width, height, 1.5) for _ in range(3)]
    # Neither white nor black has grain.
    shown = 0.4 + 0.6 * np.minimum(seen, 255 - seen) / 128
    seen = seen + (grain[..., None] + np.stack(tint, -1)) * shown
    down, right = np.mgrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j]
    seen *= 1 - 0.7 * (down**2 + right**2)[..., None]
    return Image.fromarray(seen.clip(0, 255).astype(np.uint8))


def _fractal(rng: np.random.Generator, width: int, height: int, power: float) -> np.ndarray:
    """Noise of mean 0 and deviation 1 that falls by a power of its frequency; (height, width)."""
    frequency = np.hypot(
        np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width)[None] * width
    )
    frequency[0, 0] = np.inf
    waves = rng.normal(size=frequency.shape) + 1j * rng.normal(size=frequency.shape)
    noise = np.fft.irfft2(waves / frequency**power, (height, width))
    return noise / noise.std()


def _gradient(pen: Pen, top: Color, bottom: Color, start: int = 0, end: int = _HEIGHT) -> None:
    for y in range(start, end):
        share = (y - start) / (end - start)
        pen.line(
            (0, y, _WIDTH, y),
            fill=tuple(round(a + (b - a) * share) for a, b in zip(top, bottom, strict=True)),
        )


def _disc(pen: Pen, x: float, y: float, radius: float, fill: Color) -> None:
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def _vary(rng: random.Random, color: Color, by: int = 20) -> Color:
    red, green, blue = (max(0, min(255, part + rng.randint(-by, by))) for part in color)
    return red, green, blue


def _face(pen: Pen, rng: random.Random, mood: str) -> None:
    backgrounds = {"happy": (150, 215, 255), "sad": (120, 130, 150), "angry": (120, 40, 40)}
    skins = {"happy": (255, 214, 70), "sad": (150, 180, 225), "angry": (235, 90, 60)}
    background = _vary(rng, backgrounds[mood])
    _gradient(pen, background, _vary(rng, background))
    x, y, radius = _WIDTH / 2 + rng.randint(-60, 60), _HEIGHT / 2, rng.randint(240, 300)
    _disc(pen, x, y, radius, _vary(rng, skins[mood], 12))
    dark = (45, 35, 30)
    for side in (-1, 1):
        eye_x, eye_y = x + side * radius * 0.38, y - radius * 0.25
        _disc(pen, eye_x, eye_y, radius * 0.11, dark)
        if mood == "angry":
            inner, outer = eye_x - side * radius * 0.18, eye_x + side * radius * 0.2
            brow = (inner, eye_y - radius * 0.12, outer, eye_y - radius * 0.3)
            pen.line(brow, fill=dark, width=24)
        if mood == "sad" and side == 1:
            _disc(pen, eye_x, eye_y + radius * 0.38, radius * 0.09, (70, 140, 230))
    if mood == "happy":
        mouth = (x - radius * 0.55, y - radius * 0.35, x + radius * 0.55, y + radius * 0.62)
        pen.chord(mouth, 20, 160, fill=(120, 30, 40))
    else:
        mouth = (x - radius * 0.45, y + radius * 0.32, x + radius * 0.45, y + radius * 0.95)
        pen.arc(mouth, 200, 340, fill=dark, width=26)


def _sun(pen: Pen, rng: random.Random) -> None:
    _gradient(pen, _vary(rng, (90, 180, 250)), (225, 240, 255))
    x, y = rng.randint(220, 740), rng.randint(150, 260)
    for ray in range(16):
        angle = ray * math.pi / 8 + rng.random() * 0.1
        tip = (x + 230 * math.cos(angle), y + 230 * math.sin(angle))
        pen.line((x, y, *tip), fill=(255, 225, 120), width=14)
    _disc(pen, x, y, 120, (255, 200, 40))
    for hill in range(3):
        green = _vary(rng, (90 - 15 * hill, 175 - 20 * hill, 80), 12)
        pen.ellipse((hill * 330 - 320, 500 + hill * 25, hill * 330 + 520, 1000), fill=green)


def _storm(pen: Pen, rng: random.Random) -> None:
    _gradient(pen, _vary(rng, (35, 40, 55), 10), (95, 100, 115))
    for _ in range(160):
        x, y = rng.randint(0, _WIDTH), rng.randint(200, _HEIGHT)
        pen.line((x, y, x - 14, y + 48), fill=(140, 160, 190), width=4)
    for _ in range(14):
        gray = rng.randint(55, 90)
        _disc(pen, rng.randint(0, _WIDTH), rng.randint(20, 190), 120, (gray, gray, gray + 8))
    x = rng.randint(320, 640)
    bolt = [(x, 200), (x - 80, 420), (x - 10, 410), (x - 70, 640), (x + 90, 350), (x + 20, 360)]
    pen.polygon([*bolt, (x + 70, 200)], fill=(255, 235, 120))


def _cake(pen: Pen, rng: random.Random) -> None:
    _gradient(pen, _vary(rng, (255, 215, 230)), (255, 245, 235))
    for _ in range(70):
        spot = _vary(rng, (200, 140, 160), 55)
        _disc(pen, rng.randint(0, _WIDTH), rng.randint(0, 420), rng.randint(5, 12), spot)
    pen.ellipse((180, 590, 780, 700), fill=(225, 225, 235))
    for layer, color in enumerate(((150, 85, 55), (250, 235, 215), (235, 110, 140))):
        inset, top = layer * 45, 560 - layer * 95
        pen.rounded_rectangle((250 + inset, top, 710 - inset, top + 100), 18, fill=color)
    for candle in range(5):
        x = 370 + candle * 55
        pen.rectangle((x - 8, 290, x + 8, 375), fill=_vary(rng, (90, 160, 220), 40))
        pen.ellipse((x - 13, 240, x + 13, 292), fill=(255, 190, 60))


def _flowers(pen: Pen, rng: random.Random) -> None:
    _gradient(pen, (200, 230, 255), (235, 250, 225))
    pen.rectangle((0, 560, _WIDTH, _HEIGHT), fill=_vary(rng, (95, 170, 80)))
    for flower in range(6):
        x, y = 90 + flower * 155 + rng.randint(-30, 30), rng.randint(230, 430)
        pen.line((x, y, x + rng.randint(-20, 20), 640), fill=(60, 130, 60), width=16)
        petals = _vary(rng, (230, 90, 140), 70)
        for petal in range(8):
            angle = petal * math.pi / 4
            _disc(pen, x + 52 * math.cos(angle), y + 52 * math.sin(angle), 34, petals)
        _disc(pen, x, y, 34, (250, 205, 60))


def _fire(pen: Pen, rng: random.Random) -> None:
    _gradient(pen, (25, 15, 20), (90, 25, 15))
    pen.rectangle((250, 380, 710, _HEIGHT), fill=(40, 30, 32))
    pen.polygon([(210, 390), (480, 200), (750, 390)], fill=(50, 34, 34))
    for fill, most in (((215, 60, 20), 380), ((250, 140, 30), 270), ((255, 220, 90), 160)):
        for _ in range(11):
            x, height = rng.randint(220, 740), rng.randint(most // 2, most)
            base = rng.randint(480, 700)
            tip = (x + rng.randint(-30, 30), base - height)
            pen.polygon([(x - 50, base), tip, (x + 50, base)], fill=fill)
            pen.ellipse((x - 50, base - 45, x + 50, base + 45), fill=fill)


def _sea(pen: Pen, rng: random.Random) -> None:
    _gradient(pen, _vary(rng, (250, 140, 90)), (255, 215, 140), 0, 400)
    _disc(pen, rng.randint(250, 710), 380, 105, (255, 240, 170))
    _gradient(pen, (40, 110, 160), (20, 150, 180), 400, 600)
    for _ in range(45):
        x, y = rng.randint(0, _WIDTH), rng.randint(410, 590)
        pen.line((x, y, x + rng.randint(40, 110), y), fill=(150, 205, 220), width=5)
    _gradient(pen, (240, 215, 160), (220, 190, 130), 600, _HEIGHT)


def _train(pen: Pen, rng: random.Random) -> None:
    _gradient(pen, (205, 215, 225), (230, 232, 235))
    pen.rectangle((0, 590, _WIDTH, _HEIGHT), fill=(130, 125, 120))
    for y in (640, 690):
        pen.line((0, y, _WIDTH, y), fill=(80, 80, 85), width=12)
    color, start = _vary(rng, (60, 110, 160), 45), rng.randint(40, 160)
    pen.rounded_rectangle((start, 270, start + 760, 610), 50, fill=color)
    for window in range(5):
        x = start + 60 + window * 135
        pen.rounded_rectangle((x, 330, x + 100, 440), 12, fill=(225, 238, 245))
    for wheel in (150, 290, 480, 620):
        _disc(pen, start + wheel, 625, 38, (45, 45, 50))


def _chart(pen: Pen, rng: random.Random) -> None:
    pen.rectangle((0, 0, _WIDTH, _HEIGHT), fill=(250, 250, 250))
    for y in range(140, 600, 90):
        pen.line((110, y, 880, y), fill=(220, 220, 225), width=4)
    color = _vary(rng, (90, 130, 180), 40)
    for bar in range(8):
        x = 140 + bar * 92
        pen.rectangle((x, rng.randint(170, 520), x + 60, 600), fill=color)
    pen.line((110, 110, 110, 600, 890, 600), fill=(70, 70, 75), width=8)


def _cup(pen: Pen, rng: random.Random) -> None:
    _gradient(pen, _vary(rng, (225, 215, 205)), (205, 190, 175))
    pen.rectangle((0, 520, _WIDTH, _HEIGHT), fill=_vary(rng, (140, 95, 60)))
    color = _vary(rng, (235, 235, 235))
    pen.ellipse((250, 560, 720, 650), fill=(215, 215, 215))
    pen.ellipse((570, 340, 740, 510), outline=color, width=34)
    pen.rounded_rectangle((310, 300, 630, 600), 70, fill=color)
    pen.ellipse((310, 262, 630, 340), fill=(95, 55, 30))
    for x in (390, 470, 550):
        pen.arc((x - 30, 90, x + 30, 250), 90, 270, fill=(245, 245, 245), width=12)


def _city(pen: Pen, rng: random.Random) -> None:
    _gradient(pen, (30, 35, 70), (110, 90, 120))
    x = 0
    while x < _WIDTH:
        width, top = rng.randint(90, 160), rng.randint(170, 470)
        pen.rectangle((x, top, x + width, _HEIGHT), fill=_vary(rng, (45, 48, 62), 10))
        for window_y in range(top + 25, _HEIGHT - 40, 55):
            for window_x in range(x + 16, x + width - 30, 38):
                if rng.random() < 0.5:
                    box = (window_x, window_y, window_x + 18, window_y + 26)
                    pen.rectangle(box, fill=(250, 220, 130))
        x += width + 8


SCENES: dict[str, Callable[[Pen, random.Random], None]] = {
    "happy face": lambda pen, rng: _face(pen, rng, "happy"),
    "sad face": lambda pen, rng: _face(pen, rng, "sad"),
    "angry face": lambda pen, rng: _face(pen, rng, "angry"),
    "sun": _sun,
    "storm": _storm,
    "cake": _cake,
    "flowers": _flowers,
    "fire": _fire,
    "sea": _sea,
    "train": _train,
    "chart": _chart,
    "cup": _cup,
    "city": _city,
}
