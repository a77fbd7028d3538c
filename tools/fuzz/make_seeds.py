#!/usr/bin/env python3
"""Draws the images in seeds/ that the engine's own encoders can't make. Needs Pillow."""

from pathlib import Path

from PIL import Image, ImageDraw

here = Path(__file__).parent / "seeds"
figure = Image.new("RGB", (17, 25))
figure.putdata([(x * 15, y * 10, (x * y) % 256) for y in range(25) for x in range(17)])
draw = ImageDraw.Draw(figure)
draw.ellipse((6, 1, 11, 7), fill=(220, 180, 150))
draw.rectangle((5, 8, 12, 24), fill=(30, 60, 160))
clear = figure.convert("RGBA")
clear.putalpha(Image.linear_gradient("L").resize(figure.size))
turned = Image.Exif()
turned[0x0112] = 6


def save(name, image, **options):
    image.save(here / name, **options)


here.mkdir(exist_ok=True)
save("plain.jpg", figure, quality=60)
save("progressive.jpg", figure, quality=60, progressive=True)
save("restarts.jpg", figure, quality=60, optimize=True, restart_marker_blocks=1)
save("fine.jpg", figure, quality=80, subsampling="4:4:4", exif=turned)
save("grey.jpg", figure.convert("L"), quality=60)
save("cmyk.jpg", figure.convert("CMYK"), quality=60)
save("palette.png", figure.quantize(16))
save("clear.png", clear, exif=turned)
save("bits.png", figure.convert("1"))
save("deep.png", figure.convert("I;16"))
save("lossy.webp", figure, quality=50)
save("clear.webp", clear, quality=50, exif=turned)
save("lossless.webp", clear, lossless=True)
save("moving.webp", figure, save_all=True, append_images=[figure.rotate(90), clear], quality=40)
save("plain.gif", figure.quantize(32), interlace=1)
save("moving.gif", figure.quantize(8), save_all=True, append_images=[figure.rotate(180).quantize(8)], transparency=1)
save("plain.bmp", figure)
save("palette.bmp", figure.quantize(16))
save("bits.bmp", figure.convert("1"))
for compression in ["raw", "tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg", "group4"]:
    image = figure.convert("1") if compression == "group4" else figure
    save(f"{compression}.tif", image, compression=compression)
save("clear.tif", clear, compression="tiff_lzw", exif=turned)
save("cmyk.tif", figure.convert("CMYK"), compression="tiff_adobe_deflate")
