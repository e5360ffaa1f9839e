"""Names of colour matrices, primaries and transfer functions, by their numbers in ITU-T H.273.

The names are those of x265 and x264; where FFmpeg's differ, they stand beside. 2 means "unspecified" and has no name.
"""

from __future__ import annotations

from .errors import FlashsrError

MATRIX = {
    1: "bt709",
    4: "fcc",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "ycgco",
    9: "bt2020nc",
    10: "bt2020c",
}
PRIMARIES = {
    1: "bt709",
    4: "bt470m",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "film",
    9: "bt2020",
    10: "smpte428",
    11: "smpte431",
    12: "smpte432",
}
TRANSFER = {
    1: "bt709",
    4: "bt470m",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "linear",
    9: "log100",
    10: "log316",
    11: "iec61966-2-4",
    12: "bt1361e",
    13: "iec61966-2-1",
    14: "bt2020-10",
    15: "bt2020-12",
    16: "smpte2084",
    17: "smpte428",
    18: "arib-std-b67",
}


def matrix_number(name: str) -> int:
    """The number of a matrix.

    Raises:
        FlashsrError: there is none of that name.
    """
    for number, known in MATRIX.items():
        if known == name.lower():
            return number
    raise FlashsrError(f"a matrix is one of {', '.join(MATRIX.values())}, got {name!r}; choose one of them")
