"""What a photo says about itself, EXIF and XMP, made fit to travel on with a restored and upright copy."""

from __future__ import annotations

from xml.etree import ElementTree

from PIL import Image

_ORIENTATION = 0x0112
_EXIF, _GPS = 0x8769, 0x8825
_ABOUT = (
    0x010E,  # description
    0x010F,  # maker of the camera
    0x0110,  # its model
    0x0131,  # software
    0x0132,  # date
    0x013B,  # artist
    0x8298,  # copyright
    0x4746,  # rating
)
"""Of the main directory. The rest tells how the old file lies in bytes."""
_NOT_IN_A_COPY = (
    0x927C,  # the maker's own note: places in the old file, previews, at times where the photo was taken
    0xA002,  # width and
    0xA003,  # height of the old file
    0xA005,  # how the old file is laid out
)

_NO_ENTRIES = b"\0\0"
"""What follows the header of a block that says nothing."""

_NAMESPACES = {
    "x": "adobe:ns:meta/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "xmpRights": "http://ns.adobe.com/xap/1.0/rights/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "exif": "http://ns.adobe.com/exif/1.0/",
}
_LARGEST_XMP = 1 << 20  # bytes; a packet of a photo has some thousands


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1 ... 8. Reads that one tag only, so damage elsewhere in the EXIF block does no harm."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # an unreadable EXIF block says nothing about orientation
        return 1
    return found if found in range(1, 9) else 1


def kept_exif(image: Image.Image, keep_gps: bool, remarks: list[str]) -> bytes | None:
    """The EXIF block of a restored, upright copy, or None.

    It has description, camera, dates, names, rights and how the photo was exposed; where it was taken only with
    keep_gps. Orientation, thumbnail and the camera maker's own note stay behind. Damage is a remark.
    """
    try:
        exif = image.getexif()
        kept = Image.Exif()
        for tag in _ABOUT:
            if tag in exif:
                kept[tag] = exif[tag]
        exposure = {tag: value for tag, value in exif.get_ifd(_EXIF).items() if tag not in _NOT_IN_A_COPY}
        if exposure:
            kept[_EXIF] = exposure
        place = dict(exif.get_ifd(_GPS))
        if place and keep_gps:
            kept[_GPS] = place
        block = (image.info.get("exif") or b"").removeprefix(b"Exif\0\0")
        if block and not len(exif) and block[8:10] != _NO_ENTRIES:
            raise ValueError
        return kept.tobytes() if len(kept) else None
    except Exception:  # any damage, from a parser that reads offsets out of it
        remarks.append("its EXIF block is damaged and was left out")
        return None


def kept_xmp(image: Image.Image, keep_gps: bool, remarks: list[str]) -> bytes | None:
    """The XMP packet of a restored, upright copy, or None; what `kept_exif` leaves out is left out here too."""
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if not packet:
        return None
    text = packet if isinstance(packet, bytes) else packet.encode()
    try:
        if len(text) > _LARGEST_XMP or b"<!DOCTYPE" in text:  # no packet has one, and entities may grow without end
            raise ValueError
        root = ElementTree.fromstring(text.strip(b"\0 \n\r\t"))
    except (ElementTree.ParseError, ValueError):
        remarks.append("its XMP packet is damaged and was left out")
        return None

    def stays(name: str) -> bool:
        return name != f"{{{_NAMESPACES['tiff']}}}Orientation" and (
            keep_gps or not name.startswith(f"{{{_NAMESPACES['exif']}}}GPS")
        )

    for element in list(root.iter()):
        for name in [name for name in element.attrib if not stays(name)]:
            del element.attrib[name]
        for child in [child for child in element if not stays(child.tag)]:
            element.remove(child)
    for prefix, uri in _NAMESPACES.items():
        ElementTree.register_namespace(prefix, uri)
    return ElementTree.tostring(root, encoding="utf-8")
