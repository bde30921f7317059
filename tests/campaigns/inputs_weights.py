"""Weights files and zip files of studies with one thing wrong."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from random import Random

from . import sound
from .inputs_files import ODD


class Code:
    """What runs code when a pickle is loaded."""

    def __reduce__(self) -> tuple:
        import os

        return os.system, ("touch PWNED",)


def weights(rng: Random, file: Path) -> tuple[str, bytes]:
    """A weights file, from a sound one."""
    import torch

    content = torch.load(file, weights_only=True)
    state, settings = content["model"], content["settings"]
    name = rng.choice(sorted(state))
    kind = rng.choice(
        ["cut", "cut", "flip", "flip", "key", "missing", "shape", "nan", "settings", "settings", "settings", "flat", "pickle", "bomb", "torchscript", "whole", "text", "empty",
         "view", "kind", "zip", "numpy", "module", "settings whole", "declared"]
    )  # fmt: skip
    if kind == "key":
        state["nothing.weight"] = state.pop(name)
    elif kind == "missing":
        del state[name]
    elif kind == "shape":
        state[name] = torch.zeros(rng.choice([(0,), (3, 3), (1,) * 60, ()]))
    elif kind == "nan":
        state[name] = torch.full_like(
            state[name].float(), rng.choice([float("nan"), float("inf"), -float("inf"), 3e38])
        )
    elif kind == "settings":
        key = rng.choice(
            [
                *settings,
                "field_of_view",
                "scaling",
                "architecture",
                "enhancing_on",
                "trained_on",
                "model",
                "patients",
                "stride",
                "note",
                "decoder_channels",
            ]
        )
        value = rng.choice([*ODD[:-1], 10**6, 100_000, -32, 33, "resnet18", [1e9], 0.1])
        settings[key] = value
        kind = f"settings: {key} = {value!r:.60}"
    elif kind == "settings whole":
        content["settings"] = rng.choice([None, [], "x", 5, {1: 2}, [["image_size", 32]], {"image_size": {}}])
    elif kind == "view":  # some bytes that say to be terabytes
        state[name] = torch.zeros(1).expand(rng.choice([10**5, 10**10, 10**13]))
    elif kind == "kind":
        state[name] = rng.choice(
            [
                torch.zeros(3, dtype=torch.complex64),
                torch.eye(3).to_sparse(),
                torch.zeros(3, dtype=torch.int64),
                torch.zeros(3, dtype=torch.bool),
                5,
                "x",
                None,
                [1],
            ]
        )
    elif kind in ("whole", "flat"):
        content = (
            state
            if kind == "flat"
            else rng.choice(
                [
                    [],
                    5,
                    None,
                    {},
                    {"model": {}},
                    {"model": []},
                    torch.zeros(3),
                    {"state_dict": state},
                    {1: torch.zeros(1)},
                ]
            )
        )
    elif kind == "module":
        content = {"model": torch.nn.Linear(2, 2)}
    stream = io.BytesIO()
    if kind == "torchscript":
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), stream)
    elif kind == "pickle":
        content = rng.choice([Code(), {"model": Code(), "settings": {}}, {"model": state, "settings": Code()}])
        if rng.random() < 0.5:
            torch.save(content, stream)
        else:
            pickle.dump(content, stream)
    else:
        torch.save(content, stream, _use_new_zipfile_serialization=rng.random() < 0.85)
    data = stream.getvalue()
    if kind in ("bomb", "declared"):
        data = _zip_bomb(data, rng.choice(["data.pkl", "data", "version"]), kind == "declared")
    elif kind == "cut":
        data = data[: rng.randrange(len(data))]
    elif kind == "flip":
        changed = bytearray(data)
        for _ in range(rng.choice([1, 50])):
            changed[rng.randrange(len(data))] = rng.randrange(256)
        data = bytes(changed)
    elif kind in ("text", "empty"):
        data = b"version https://git-lfs.github.com/spec/v1\n" if kind == "text" else b""
    elif kind in ("zip", "numpy"):
        import numpy as np

        other = io.BytesIO()
        if kind == "numpy":
            np.save(other, np.zeros(3))
        else:
            with zipfile.ZipFile(other, "w") as archive:
                archive.writestr("a.txt", "x")
        data = other.getvalue()
    return kind, data


def _zip_bomb(data: bytes, which: str, declared: bool) -> bytes:
    """The archive with a member of 3 GB of zeros, packed; or one that says it has as many."""
    out = io.BytesIO()
    if not zipfile.is_zipfile(io.BytesIO(data)):  # of an old version of torch
        return data
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        victim = next((one for one in names if one.endswith(f"/{which}") or f"/{which}/" in one), names[0])
        for name in names:
            if name != victim:
                new.writestr(name, old.read(name))
            elif declared:
                sound.add_zeros(new, name, 1, 3 << 30)
            else:
                sound.add_zeros(new, name)
    return out.getvalue()


def archive(rng: Random, folder: Path) -> tuple[str, bytes]:
    """A zip file of a folder of studies."""
    out = io.BytesIO()
    kind = rng.choice(
        [
            "sound",
            "cut",
            "flip",
            "flip",
            "bomb",
            "declared",
            "outside",
            "absolute",
            "link",
            "doubled",
            "encrypted",
            "case",
            "text",
            "nested",
        ]
    )
    with zipfile.ZipFile(out, "w", rng.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_LZMA])) as new:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                new.write(file, file.relative_to(folder))
        if kind in ("bomb", "declared"):
            sound.add_zeros(new, "P-BROKEN/FLAIR/Image-9.dcm", *((1, 3 << 30) if kind == "declared" else ()))
        names = {
            "outside": "../../PWNED",
            "absolute": "/tmp/PWNED-by-zip",
            "case": "p-sound/FLAIR/Image-1.dcm",
            "nested": "a.zip",
        }
        if kind in names:
            new.writestr(names[kind], b"x")
        elif kind == "link":
            member = zipfile.ZipInfo("P-LINK/FLAIR")
            member.external_attr = 0o120777 << 16
            new.writestr(member, "/etc")
        elif kind == "doubled":
            new.writestr("P-BROKEN/FLAIR/Image-2.dcm", b"x")
    data = bytearray(out.getvalue())
    if kind == "cut":
        del data[rng.randrange(len(data)) :]
    elif kind == "flip":
        for _ in range(rng.choice([1, 30])):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == "encrypted":
        start = data.index(b"PK\x01\x02")
        data[start + 8] |= 1
        data[6] |= 1
    elif kind == "text":
        data = bytearray(b"PK no archive")
    return kind, bytes(data)
