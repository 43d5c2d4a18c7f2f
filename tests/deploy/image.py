#!/usr/bin/env python3
"""Makes an archive of container images, for `docker load` and `ctr images import`.

usage: image.py ARCHIVE LAYER[,LAYER…] NAME CONFIG [NAME CONFIG]…

The layers are tar archives; all images of the archive have them. CONFIG is an image's configuration in JSON (User, Env, …).
"""

import hashlib
import io
import json
import os
import platform
import sys
import tarfile

# What images call the machines that have other names for themselves.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def main(out: str, sources: str, *images: str) -> None:
    layers = {}
    for source in sources.split(","):
        with open(source, "rb") as file:
            layers[hashlib.file_digest(file, "sha256").hexdigest()] = source
    texts, manifest = {}, []
    for name, config in zip(images[::2], images[1::2]):
        image = {
            "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": json.loads(config),
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in layers]},
        }
        text = json.dumps(image).encode()
        file = f"{hashlib.sha256(text).hexdigest()}.json"
        texts[file] = text
        manifest.append({"Config": file, "RepoTags": [name], "Layers": [f"{digest}.tar" for digest in layers]})
    texts["manifest.json"] = json.dumps(manifest).encode()
    with tarfile.open(f"{out}.new", "w") as archive:
        for file, text in texts.items():
            info = tarfile.TarInfo(file)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text))
        for digest, source in layers.items():
            archive.add(source, arcname=f"{digest}.tar")
    os.replace(f"{out}.new", out)


main(*sys.argv[1:])
