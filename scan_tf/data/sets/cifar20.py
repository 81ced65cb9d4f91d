"""CIFAR-20: the images of CIFAR-100 with its 20 superclasses as classes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from scan_tf.config import DataConfig
from scan_tf.data import tfds
from scan_tf.data.image_set import ImageSet, Split

# Official configuration of SCAN.
MEAN = (0.5071, 0.4867, 0.4408)
STD = (0.2675, 0.2565, 0.2761)

# The superclasses and their classes (Krizhevsky, 2009), in the order of the label ids.
SUPERCLASSES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "aquatic_mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
        "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
        "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
        "food_containers": ("bottle", "bowl", "can", "cup", "plate"),
        "fruit_and_vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
        "household_electrical_devices": ("clock", "keyboard", "lamp", "telephone", "television"),
        "household_furniture": ("bed", "chair", "couch", "table", "wardrobe"),
        "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
        "large_carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
        "large_man-made_outdoor_things": ("bridge", "castle", "house", "road", "skyscraper"),
        "large_natural_outdoor_scenes": ("cloud", "forest", "mountain", "plain", "sea"),
        "large_omnivores_and_herbivores": (
            "camel",
            "cattle",
            "chimpanzee",
            "elephant",
            "kangaroo",
        ),
        "medium_mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
        "non-insect_invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
        "people": ("baby", "boy", "girl", "man", "woman"),
        "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
        "small_mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
        "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
        "vehicles_1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
        "vehicles_2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
    }
)
CLASS_NAMES = tuple(SUPERCLASSES)
FINE_TO_COARSE: Mapping[str, str] = MappingProxyType(
    {fine: coarse for coarse, members in SUPERCLASSES.items() for fine in members}
)
# Label ids of CIFAR-100 are alphabetical.
FINE_NAMES = tuple(sorted(FINE_TO_COARSE))

PRETEXT_IS_TRAIN = True


def load(config: DataConfig, split: Split) -> ImageSet | None:
    """Load a split, 32x32; "pretext" is "train". Raises MissingDataError: not prepared."""
    return tfds.load_set(
        "cifar100", config, split, name="cifar20", label="coarse_label", mean=MEAN, std=STD
    )


def check(config: DataConfig) -> None:
    """Raise MissingDataError where the set is not prepared."""
    tfds.check(config, "cifar100")
