"""What pyproject.toml cannot say: the folder `configs/` is the package `scan_tf.recipes`."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["scan_tf", "scan_tf.*"]), "scan_tf.recipes"],
    package_dir={"scan_tf.recipes": "configs"},
    package_data={
        "*": ["py.typed"],
        "scan_tf.evaluation": ["*.html", "*.css", "*.js"],
        "scan_tf.explorer": ["*.html", "*.css", "*.js", "*.svg"],
        "scan_tf.recipes": ["*.yaml"],
    },
)
