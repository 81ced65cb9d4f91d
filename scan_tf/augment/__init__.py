"""Augmentation: `make` gives a policy on the device; `host` has the same in albumentations."""

from __future__ import annotations

from scan_tf.augment.policies import Policy, make

__all__ = ["Policy", "make"]
