"""What the pretexts share that compare two augmented views of an image."""

from __future__ import annotations

import dataclasses

from scan_tf.config import PretextConfig
from scan_tf.methods.task import View
from scan_tf.settings.schema import setting


@dataclasses.dataclass(frozen=True)
class TwoViewConfig(PretextConfig):
    """How the two views differ, beside what `augment` says of both."""

    blur: tuple[float, float] = setting(
        (0.0, 0.0),
        low=0,
        high=1,
        help="probability of Gaussian blur in the first and in the second view (BYOL, appendix B: "
        "1 and 0.1, on images of 224 pixels)",
    )
    solarize: tuple[float, float] = setting(
        (0.0, 0.0),
        low=0,
        high=1,
        help="probability of solarisation in the first and in the second view (BYOL, appendix B: 0 "
        "and 0.2)",
    )

    def views(self, first: str = "a", second: str = "b") -> dict[str, View]:
        """Both views under the names that the method gives them."""
        options = zip(self.blur, self.solarize, strict=True)
        return {
            name: View("simclr", options={"blur": blur, "solarize": solarize})
            for name, (blur, solarize) in zip((first, second), options, strict=True)
        }
