"""Tables of labels, data lists and rules with one thing wrong."""

from __future__ import annotations

import json
from random import Random
from typing import Any

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
    kind = rng.choice(
        [
            "value",
            "patient",
            "header",
            "doubled",
            "unknown",
            "columns",
            "separator",
            "quotes",
            "bytes",
            "bytes",
            "order",
            "many",
        ]
    )
    if kind == "value":
        rows[rng.choice([1, 2])][1] = rng.choice(
            ["2", "", "nan", "yes", "-1", "0.5", "1.0", " 1", "=1", "1e0", "\u0661", "None", "TRUE"]
        )
    elif kind == "patient":
        rows[2][0] = rng.choice(
            [
                "",
                " ",
                "../../x",
                "=1+1",
                "p-broken",
                "P-BROKEN ",
                "00012",
                "x" * 5000,
                "a\nb",
                "\u202eX",
                "nan",
                "a/b",
                "\x00",
            ]
        )
    elif kind == "header":
        rows[0] = rng.choice(
            [
                ["id", "value"],
                ["BraTS21ID"],
                ["MGMT_value", "BraTS21ID"],
                ["BraTS21ID", "MGMT_value", "BraTS21ID"],
                ["brats21id", "mgmt_value"],
                [],
            ]
        )
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
        text = rng.choice(
            [text.replace("P-BROKEN", '"P-BROKEN'), text.replace(",", '","'), text.replace("\n", "\r"), '"' + text]
        )
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
    kind = rng.choice(
        [
            "section",
            "entry",
            "key",
            "key",
            "key",
            "patient",
            "doubled",
            "dataset_dir",
            "whole",
            "deep",
            "bytes",
            "bytes",
            "number",
            "missing",
            "path",
            "keys twice",
        ]
    )
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
        value = 5 if isinstance(value, str) and value.isprintable() else value  # another folder is no mistake
        content["dataset_dir"] = value
        kind = f"dataset_dir = {value!r:.60}"
    elif kind == "path":
        broken["FLAIR"] = rng.choice(
            [
                "nowhere",
                "/dev/zero",
                "/proc/self/mem",
                "/",
                ".",
                "..",
                "P-SOUND/FLAIR",
                ["P-SOUND/FLAIR/Image-1.dcm", "nowhere.dcm"],
            ]
        )
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
    kind = rng.choice(
        [
            "key",
            "key",
            "key",
            "modality",
            "expression",
            "words",
            "bomb",
            "tag",
            "bytes",
            "bytes",
            "whole",
            "unknown",
            "anchors",
            "deep",
            "slow",
        ]
    )
    value = rng.choice([one for one in ODD if one not in ("\x00", "\ud800")])
    if kind == "key":
        name = rng.choice(sorted(content))
        content[name] = value
        kind = f"{name} = {value!r:.60}"
    elif kind == "modality":
        content["modalities"][rng.choice(["FLAIR", "DWI", "T1w"])] = value
        kind = f"a modality = {value!r:.60}"
    elif kind == "expression":
        content["modalities"]["FLAIR"] = [
            rng.choice(
                [
                    "(",
                    "[a",
                    "*",
                    "{nothing}",
                    "(?P<a>x)(?P<a>y)",
                    "a{99999999999}",
                    "\\",
                    "(?i)x",
                    "(" * 500 + ")" * 500,
                    5,
                    None,
                    ".*" * 40,
                ]
            )
        ]
    elif kind == "words":
        content["words"] = rng.choice([{"a": "("}, {"a": 5}, {"a": None}, [], "x", {1: "a"}, {"agent": "{agent}"}])
        content["modalities"]["FLAIR"] = ["{a}.*", "{agent}"]
    elif kind == "unknown":
        content["nothing"] = 1
    data = yaml.safe_dump(value if kind == "whole" else content, allow_unicode=True).encode("utf-8", "replace")
    if kind == "bomb":
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [
            f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)
        ]
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


def overlay(rng: Random) -> tuple[str, bytes]:
    """A file that is laid over the configuration ``inference``."""
    import yaml

    key = rng.choice(
        ["zoom", "min_foreground", "mri_types", "batch_size", "seed", "device", "imports", "preparation", "preparation#dataset", "evaluator", "network_def", "run", "inference",
         "patients", "prior", "num_workers", "nothing", "evaluator#val_handlers", "preparation#inferer#zoom", "compute"]
    )  # fmt: skip
    value = rng.choice(
        [
            *[one for one in ODD if one not in ("\x00", "\ud800")],
            f"@{key}",
            "$1/0",
            "$(",
            "%nothing::x",
            {"_target_": "no.such.thing"},
        ]
    )
    kind = f"{key}: {value!r:.60}"
    data = yaml.safe_dump({key: value, "num_workers": 0}).encode()
    if rng.random() < 0.2:
        kind, data = damaged(rng, data)
        kind = f"bytes {kind}"
    return f"laid over inference: {kind}", data
