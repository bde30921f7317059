"""Tables of labels, data lists, rules, settings and weights with one thing wrong."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from random import Random
from typing import Any

from . import sound

ODD = (
    None, True, -1, 0, 1.5, 10**30, float("nan"), "", " ", "abc", "../../x", [], {}, [1], {"a": 1}, "$__import__('os')", "@x", "nan", "\x00", "x" * 400, [[["x"]]],
    "\ud800",
)  # fmt: skip


def damaged(rng: Random, data: bytes) -> tuple[str, bytes]:
    """Bytes of a text that is cut, in another encoding, or no text."""
    kind = rng.choice(["cut", "utf-16", "latin", "nul", "binary", "empty", "flip", "huge line", "bom", "blank"])
    changed = bytearray(data)
    if kind == "flip":
        for _ in range(3):
            changed[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == "cut":
        del changed[rng.randrange(len(data)) :]
    forms = {
        "utf-16": data.decode("utf-8").encode("utf-16"), "latin": data + b"\xe4\xff\n", "nul": data[:20] + b"\0\0" + data[20:], "binary": rng.randbytes(500),
        "empty": b"", "huge line": data + b"x" * 300_000, "bom": b"\xef\xbb\xbf" + data, "blank": b"\n \n\n",
    }  # fmt: skip
    return kind, forms.get(kind, bytes(changed))


def labels(rng: Random) -> tuple[str, bytes]:
    """A table of labels, or a sample submission, of P-SOUND and P-BROKEN."""
    rows = [["BraTS21ID", "MGMT_value"], ["P-SOUND", "1"], ["P-BROKEN", "0"]]
    kind = rng.choice(["value", "patient", "header", "doubled", "unknown", "columns", "separator", "quotes", "bytes", "bytes", "order", "many"])
    if kind == "value":
        rows[rng.choice([1, 2])][1] = rng.choice(["2", "", "nan", "yes", "-1", "0.5", "1.0", " 1", "=1", "1e0", "\u0661", "None", "TRUE"])
    elif kind == "patient":
        rows[2][0] = rng.choice(["", " ", "../../x", "=1+1", "p-broken", "P-BROKEN ", "00012", "x" * 5000, "a\nb", "\u202eX", "nan", "a/b", "\x00"])
    elif kind == "header":
        rows[0] = rng.choice([["id", "value"], ["BraTS21ID"], ["MGMT_value", "BraTS21ID"], ["BraTS21ID", "MGMT_value", "BraTS21ID"], ["brats21id", "mgmt_value"], []])
    elif kind == "doubled":
        rows.append(rows[rng.choice([0, 1, 2])])
    elif kind == "unknown":
        rows += [["P-NOBODY", "1"], ["00777", "0"]]
    elif kind == "columns":
        rows[2] = rng.choice([["P-BROKEN"], ["P-BROKEN", "0", "9", "9"], [], [""]])
    elif kind == "order":
        rows[1:] = rows[:0:-1]
    elif kind == "many":
        rows += [[f"N-{number}", "0"] for number in range(20_000)]
    text = "\n".join((";" if kind == "separator" else ",").join(row) for row in rows) + "\n"
    if kind == "quotes":
        text = rng.choice([text.replace("P-BROKEN", '"P-BROKEN'), text.replace(",", '","'), text.replace("\n", "\r"), '"' + text])
    data = text.encode()
    if kind != "bytes":
        return kind, data
    kind, data = damaged(rng, data)
    return f"bytes {kind}", data


def datalist(rng: Random, content: dict[str, Any]) -> tuple[str, bytes]:
    """A data list, from a sound one."""
    content = json.loads(json.dumps(content))
    entries = content["test"]
    broken = next(entry for entry in entries if entry["patient"] == "P-BROKEN")
    kind = rng.choice(["section", "entry", "key", "key", "key", "patient", "doubled", "dataset_dir", "whole", "deep", "bytes", "bytes", "number", "missing", "path", "keys twice"])
    value = rng.choice(ODD)
    if kind == "section":
        content["test"] = value
    elif kind == "entry":
        entries.append(value)
    elif kind == "key":
        name = rng.choice(["FLAIR", "label", "fold", "group", "seg", "reason", "warnings", "study"])
        broken[name] = value
        kind = f"{name} = {value!r:.60}"
    elif kind == "patient":
        broken["patient"] = value
        kind = f"patient = {value!r:.60}"
    elif kind == "doubled":
        entries.append(dict(broken, patient=rng.choice(["P-BROKEN", "p-broken", "P-SOUND"])))
    elif kind == "dataset_dir":
        content["dataset_dir"] = value
        kind = f"dataset_dir = {value!r:.60}"
    elif kind == "path":
        broken["FLAIR"] = rng.choice(["nowhere", "/dev/zero", "/proc/self/mem", "/", ".", "..", "P-SOUND/FLAIR", ["P-SOUND/FLAIR/Image-1.dcm", "nowhere.dcm"]])
        kind = f"FLAIR = {broken['FLAIR']}"
    elif kind == "missing":
        del broken[rng.choice(["patient", "FLAIR"])]
    if kind == "whole":
        data = json.dumps(value).encode()
    elif kind == "deep":
        data = (rng.choice(["[", '{"test":']) * 100_000).encode()
    elif kind == "number":
        data = json.dumps(content).replace('"P-BROKEN"', rng.choice(["12", "1e999", "NaN", "9" * 5000]), 1).encode()
    elif kind == "keys twice":
        data = json.dumps(content).replace('"test":', '"test": [], "test":', 1).encode()
    else:
        data = json.dumps(content).encode("utf-8", "surrogatepass")
    if kind == "bytes":
        kind, data = damaged(rng, data)
        kind = f"bytes {kind}"
    return kind, data


def rules(rng: Random, text: str) -> tuple[str, bytes]:
    """Rules for modalities, from those of the bundle."""
    import yaml

    content = yaml.safe_load(text)
    kind = rng.choice(["key", "key", "key", "modality", "expression", "words", "bomb", "tag", "bytes", "bytes", "whole", "unknown", "anchors", "deep", "slow"])
    value = rng.choice([one for one in ODD if one not in ("\x00", "\ud800")])
    if kind == "key":
        name = rng.choice(sorted(content))
        content[name] = value
        kind = f"{name} = {value!r:.60}"
    elif kind == "modality":
        content["modalities"][rng.choice(["FLAIR", "DWI", "T1w"])] = value
        kind = f"a modality = {value!r:.60}"
    elif kind == "expression":
        content["modalities"]["FLAIR"] = [rng.choice(["(", "[a", "*", "{nothing}", "(?P<a>x)(?P<a>y)", "a{99999999999}", "\\", "(?i)x", "(" * 500 + ")" * 500, 5, None, ".*" * 40])]
    elif kind == "words":
        content["words"] = rng.choice([{"a": "("}, {"a": 5}, {"a": None}, [], "x", {1: "a"}, {"agent": "{agent}"}])
        content["modalities"]["FLAIR"] = ["{a}.*", "{agent}"]
    elif kind == "unknown":
        content["nothing"] = 1
    data = yaml.safe_dump(value if kind == "whole" else content, allow_unicode=True).encode("utf-8", "replace")
    if kind == "bomb":
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
        data = "\n".join([*lines, f"modalities: {rng.choice(['*a8', '{FLAIR: *a8}', '{FLAIR: [x]}'])}"]).encode()
    elif kind == "tag":
        data = b"modalities: !!python/object/apply:os.system ['touch PWNED']\n"
    elif kind == "anchors":
        data = b"a: &a [*a]\nmodalities: *a\n"
    elif kind == "deep":
        data = b"modalities: " + b"[" * rng.choice([500, 5000]) + b"\n"
    elif kind == "slow":
        content["modalities"]["FLAIR"] = ["(F|L|A|I|R| |A|X)*!"]  # short descriptions keep it fast
        data = yaml.safe_dump(content).encode()
    elif kind == "bytes":
        kind, data = damaged(rng, data)
        kind = f"bytes {kind}"
    return kind, data


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
        state[name] = torch.full_like(state[name].float(), rng.choice([float("nan"), float("inf"), -float("inf"), 3e38]))
    elif kind == "settings":
        key = rng.choice([*settings, "field_of_view", "scaling", "architecture", "enhancing_on", "trained_on", "model", "patients", "stride", "note", "decoder_channels"])
        value = rng.choice([*ODD[:-1], 10**6, 100_000, -32, 33, "resnet18", [1e9], 0.1])
        settings[key] = value
        kind = f"settings: {key} = {value!r:.60}"
    elif kind == "settings whole":
        content["settings"] = rng.choice([None, [], "x", 5, {1: 2}, [["image_size", 32]], {"image_size": {}}])
    elif kind == "view":  # some bytes that say to be terabytes
        state[name] = torch.zeros(1).expand(rng.choice([10**5, 10**10, 10**13]))
    elif kind == "kind":
        state[name] = rng.choice([torch.zeros(3, dtype=torch.complex64), torch.eye(3).to_sparse(), torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.bool), 5, "x", None, [1]])
    elif kind in ("whole", "flat"):
        content = state if kind == "flat" else rng.choice([[], 5, None, {}, {"model": {}}, {"model": []}, torch.zeros(3), {"state_dict": state}, {1: torch.zeros(1)}])
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
    kind = rng.choice(["sound", "cut", "flip", "flip", "bomb", "declared", "outside", "absolute", "link", "doubled", "encrypted", "case", "text", "nested"])
    with zipfile.ZipFile(out, "w", rng.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_LZMA])) as new:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                new.write(file, file.relative_to(folder))
        if kind in ("bomb", "declared"):
            sound.add_zeros(new, "P-BROKEN/FLAIR/Image-9.dcm", *((1, 3 << 30) if kind == "declared" else ()))
        names = {"outside": "../../PWNED", "absolute": "/tmp/PWNED-by-zip", "case": "p-sound/FLAIR/Image-1.dcm", "nested": "a.zip"}
        if kind in names:
            new.writestr(names[kind], b"x")
        elif kind == "link":
            member = zipfile.ZipInfo("P-LINK/FLAIR")
            member.external_attr = 0o120777 << 16
            new.writestr(member, "/etc")
        elif kind == "doubled":
            new.writestr("P-SOUND/FLAIR/Image-2.dcm", b"x")
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
