"""How many faces a picture shows, by OpenCV's cascades: the only door to that optional package (extra ``faces``).

Knows nothing about what is done with the number.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["FaceCounter"]

_SIDE_PX, _FACE_MIN_PX = 200, 24
"""Size that pictures are scaled to for it, and of the smallest face there: an eighth of the picture, as at a desk."""
_FACE_SCALE, _FACE_NEIGHBOURS = 1.2, 4
"""Step between the sizes tried, and how many overlapping finds make a face: few false ones, at some loss of small."""


class FaceCounter:
    """Counts faces that look at the camera; 5 to 30 ms a picture. Used by one thread.

    Raises:
        ImportError: OpenCV 4 is not installed. OpenCV 5 ships no cascades, so it does not serve.
    """

    def __init__(self) -> None:
        import cv2

        path = Path(getattr(getattr(cv2, "data", None), "haarcascades", ""), "haarcascade_frontalface_alt2.xml")
        if not hasattr(cv2, "CascadeClassifier") or not path.is_file():
            raise ImportError("OpenCV is installed, but without cascades; opencv-python-headless<5 has them")
        cv2.setNumThreads(1)  # one conversation must not take all cores
        self._cv2 = cv2
        self._cascade = cv2.CascadeClassifier(str(path))

    def count(self, rgb: npt.NDArray[np.uint8]) -> int:
        """Return how many faces are seen in uint8 ``[height, width, 3]``."""
        height, width = rgb.shape[:2]
        scale = min(1.0, _SIDE_PX / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        grey = self._cv2.cvtColor(rgb, self._cv2.COLOR_RGB2GRAY)
        small = self._cv2.equalizeHist(self._cv2.resize(grey, size, interpolation=self._cv2.INTER_AREA))
        found = self._cascade.detectMultiScale(
            small, _FACE_SCALE, _FACE_NEIGHBOURS, minSize=(_FACE_MIN_PX, _FACE_MIN_PX)
        )
        return len(found)
