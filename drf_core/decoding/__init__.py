"""From bytes to what an encoder takes: images decoded and resized, texts that say something."""

# Goes up whenever decoding, resizing or tokenising gives other pixels, tokens or reasons for the
# same bytes: what was annotated or encoded with the former is then not taken for up to date.
PREPARATION_VERSION = 7

# Formats that are opened only where somebody asks for them, by the name that asks; as Pillow
# calls them. The usual ones are in images.py.
MORE_FORMATS = {
    "tiff": ("TIFF",),
    "avif": ("AVIF",),
    "heic": ("HEIF",),
    "jpeg2000": ("JPEG2000",),
}
