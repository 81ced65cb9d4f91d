"""A folder of images, sorted: from files to folders named by what is in them.

    python examples/own_images.py

Takes a minute on two cores. The folder here is made of digits; put the path of yours in its place.
"""

import tempfile
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits

from scan_tf.cli import main

with tempfile.TemporaryDirectory() as root:
    photos, run, target = (Path(root) / name for name in ("photos", "run", "sorted"))
    photos.mkdir()
    for number, pixels in enumerate(load_digits(n_class=2).images):
        image = Image.fromarray((pixels * 15.9).astype("uint8"))
        image.resize((32, 32)).save(photos / f"{number:04d}.png")

    # The same as: scan-tf run --config digits_simclr data.name=folder data.path=photos ...
    few = ["pretext.epochs=5", "scan.epochs=10", "selflabel.epochs=0", "evaluate.pictures=false"]
    data = ["data.name=folder", f"data.path={photos}", "data.image_size=16", "scan.num_clusters=2"]
    main(["run", "--config", "digits_simclr", "--run-dir", str(run), *data, *few])
    main(["name", str(run), "0=one kind", "1=the other"])
    main(["sort", str(run), "--to", str(target)])
    for folder in sorted(path for path in target.iterdir() if path.is_dir()):
        print(f"{folder.name}: {len(list(folder.iterdir()))} images")
