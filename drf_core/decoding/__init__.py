"""From bytes to what an encoder takes: images decoded and resized, texts that say something."""

# Goes up whenever decoding, resizing or tokenising gives other pixels, tokens or reasons for the
# same bytes, or a model describes them by other statistics: what was annotated or encoded before is
# then not taken for up to date.
PREPARATION_VERSION = 8

# Formats that are opened only where somebody asks for them, by the name that asks; as Pillow
# calls them. The usual ones are in images.py.
MORE_FORMATS = {
    "tiff": ("TIFF",),
    "avif": ("AVIF",),
    "heic": ("HEIF",),
    "jpeg2000": ("JPEG2000",),
}
