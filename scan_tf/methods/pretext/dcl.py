"""DCL: SimCLR whose positives do not repel.

Source: Yeh et al., "Decoupled Contrastive Learning", ECCV 2022.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from scan_tf.methods.pretext import simclr
from scan_tf.settings.schema import setting

Method = simclr.Method


@dataclasses.dataclass(frozen=True)
class Config(simclr.Config):
    """SimCLR's settings with another `loss`."""

    name: str = "dcl"
    loss: Literal["ntxent", "dcl", "dclw"] = setting("dcl")
