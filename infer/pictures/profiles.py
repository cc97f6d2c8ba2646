"""Colour profiles: inks become the colours that their profile says they are."""

from __future__ import annotations

import io

from PIL import Image, ImageCms


def cmyk_to_rgb(image: Image.Image, remarks: list[str]) -> Image.Image:
    """A CMYK image in sRGB, without a profile: by its own profile, else as plain ink, which is a remark."""
    profile = image.info.get("icc_profile")
    converted = None
    if profile:
        try:
            converted = ImageCms.profileToProfile(
                image,
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
                outputMode="RGB",
                flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
        except (ImageCms.PyCMSError, OSError, ValueError):  # a damaged profile, or one of other colours
            converted = None
    if converted is None:
        remarks.append("its CMYK colours have no profile that can be read, so they are approximate")
        converted = image.convert("RGB")
    converted.info.pop("icc_profile", None)
    return converted
