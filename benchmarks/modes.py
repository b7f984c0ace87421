"""The table of execution modes: every public component in every mode and in every pair of modes.

    python benchmarks/modes.py --write docs/modes.md    # all of it, about half an hour of one core
    python benchmarks/modes.py --resume docs/modes.jsonl --seconds 500 --write docs/modes.md    # in parts
    python benchmarks/modes.py --smoke                  # a few cells, for seeing that it runs

What a cell compares is told in `tests/mode_pairs.py`. Finished cells are kept as JSON lines in the file of `--resume`,
where the next call goes on; `--seconds` ends a call early. Delete the lines of what has changed since, and it is run
again.
"""

import argparse
import collections
import gc
import json
import os
import pathlib
import sys
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

# Before anything asks TensorFlow for its devices.
tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

import mode_pairs  # noqa: E402

SHORT = {
    "steps_per_execution": "steps",
    "mixed_float16": "float16",
    "mixed_bfloat16": "bfloat16",
    "accumulation": "accum.",
}
MARKS = {"works": "yes", "finite": "finite", "none": "-", "refused": "no", "keras": "Keras", None: "not run"}
NAMES = {
    "none": "no such pair",
    "keras": "plain Keras fails too (`Keras`)",
    "refused": "refused by kregkit before the first step (`no`)",
    "finite": "runs, and is finite (`finite`)",
}
INTRODUCTION = """\
Every public layer, optimizer, schedule, callback and pipeline, trained in every mode of execution and in every pair of
modes: eagerly, under XLA (`jit`), with `steps_per_execution=2` (`steps`), in `mixed_float16` under loss scaling with
steps that overflow, in `mixed_bfloat16`, with three micro-batches to an update (`accum.`), and under `MirroredStrategy`
on two logical processors (in float16 with [`enable_loss_scaling`](distribution.md)). An epoch has seven batches, which
neither two nor three divides. `python benchmarks/modes.py --write docs/modes.md` runs and writes all of it.

- `yes`: the numbers (trained weights, rates, averages, members) agree, within the rounding of the types, with those of
  a fit in graph mode whose updates see the same examples: without the batches that overflow, in batches three times as
  large. Callbacks' rates count all batches, also these; schedules count micro-batches, but no batches that overflow.
  Of layers that draw random numbers, the expectation of their outputs agrees within six standard errors.
- `finite`: it runs. What it should come to depends on what a step is to this callback, which the callback's own tests
  tell.
- `no`: refused by name, before the first step. `Keras`: a fit without kregkit fails as well. `-`: no such pair.

Further rows of a class, after its first, go through the single modes that concern what they change. "Without the mend"
is without `enable_loss_scaling()`: plain Keras asks only the first replica whether gradients overflow, and the weights
become NaN; kregkit's callbacks refuse such a fit.
"""


def named(modes):
    return " + ".join(SHORT.get(mode, mode) for mode in modes)


def run(path, seconds, part=(0, 1), smoke=False):
    """Returns `{(row, cell): Cell}` of all cells that were run in time, the single modes first."""
    rows = mode_pairs.rows()
    if smoke:
        rows = [next(row for row in rows if row[0] == kind) for kind in ("schedule", "pipeline")]
        few = {("graph",), ("steps_per_execution", "mixed_bfloat16"), ("eager", "jit")}
        rows = [(kind, case, [cell for cell in cells if cell in few]) for kind, case, cells in rows]
    done = {}
    # Collections in between would take half of the time.
    gc.disable()
    gc.freeze()
    if path is not None and path.exists():
        for line in path.read_text().splitlines():
            row, cell, verdict, note = json.loads(line)
            done[row, cell] = mode_pairs.Cell(verdict, note)
    start, (first, parts), memories = time.monotonic(), part, collections.defaultdict(dict)
    for size in (1, 2):
        # The few rows without the mend first, and layers last, whose cells take longest.
        order = {"layer": 2, **{kind: 0 for kind, *_ in rows if kind.startswith(mode_pairs.UNMENDED)}}
        for kind, case, cells in sorted(rows[first::parts], key=lambda row: order.get(row[0], 1)):
            for modes in (modes for modes in cells if len(modes) == size):
                key = f"{kind} {case}", named(modes)
                if key in done or time.monotonic() - start > seconds:
                    continue
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    done[key] = mode_pairs.outcome(kind, case, modes, memories[f"{kind} {case}"])
                if len(done) % 25 == 0:
                    # It collects garbage, which takes as long as a cell; what is left needn't be looked at again.
                    keras.backend.clear_session()
                    gc.freeze()
                print(*key, done[key].verdict, done[key].note, sep=" | ", flush=True)
                if path is not None:
                    with path.open("a") as file:
                        file.write(json.dumps([*key, done[key].verdict, done[key].note]) + "\n")
    names = {f"{kind} {case}": [named(modes) for modes in cells] for kind, case, cells in rows}
    return {(row, cell): done.get((row, cell), mode_pairs.Cell(None)) for row, cells in names.items() for cell in cells}


def page(found):
    """Returns the documentation page of a table."""
    rows = list(dict.fromkeys(row for row, _ in found))
    cells = list(dict.fromkeys(cell for _, cell in found))
    counts = collections.Counter(one.verdict for one in found.values())
    marks = {"differs": "differ", "raises": "raise", **{verdict: f"`{mark}`" for verdict, mark in MARKS.items()}}
    summary = ", ".join(f"{number} {marks.get(verdict, verdict)}" for verdict, number in counts.most_common())
    lines = [
        "# Modes",
        "",
        INTRODUCTION,
        f"{len(rows)} rows, {len(cells)} modes and pairs, {len(found)} cells: {summary}.",
        "",
    ]
    pairs = [cell for cell in cells if "+" in cell]
    parts = [("Single modes", [cell for cell in cells if "+" not in cell])]
    parts += [
        (f"Pairs with {first}", [cell for cell in pairs if cell.startswith(f"{first} +")])
        for first in dict.fromkeys(cell.split(" + ")[0] for cell in pairs)
    ]
    for title, part in parts:
        lines += [f"## {title}", ""]
        heads = [cell.split(" + ")[-1] for cell in part]
        lines += ["| | " + " | ".join(heads) + " |", "|---" * (len(part) + 1) + "|"]
        for row in rows:
            own = [found.get((row, cell)) for cell in part]
            if any(own):
                shown = ["" if one is None else MARKS.get(one.verdict, f"**{one.verdict}**") for one in own]
                lines.append(f"| {row} | " + " | ".join(shown) + " |")
        lines.append("")
    reasons = collections.defaultdict(list)
    for key, one in found.items():
        if one.verdict not in ("works", None):
            # The message names one variable and its device.
            other_device = "InvalidArgumentError: XLA asks for a variable of another device"
            note = other_device if "access resource" in one.note else one.note
            reasons[one.verdict, note].append(key)
    lines += ["## What else, and why", ""]
    for (verdict, note), where in sorted(reasons.items(), key=lambda item: (item[0][0], -len(item[1]))):
        who = list(dict.fromkeys(row for row, _ in where))
        which = list(dict.fromkeys(cell for _, cell in where))
        who = "all" if len(who) > len(rows) / 2 else ", ".join(who)
        lines.append(f'- {NAMES.get(verdict, verdict)}: {", ".join(which)}; {who}. "{note}"')
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--resume", type=pathlib.Path, help="file of finished cells")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument(
        "--part",
        type=int,
        nargs=2,
        default=(0, 1),
        metavar=("FIRST", "PARTS"),
        help="only rows FIRST, FIRST + PARTS, ...",
    )
    parser.add_argument("--write", type=pathlib.Path, help="the page to write")
    arguments = parser.parse_args()
    found = run(arguments.resume, arguments.seconds, arguments.part, arguments.smoke)
    text = page(found)
    if arguments.write is not None:
        arguments.write.write_text(text, encoding="utf-8")
    elif arguments.smoke:
        print(text)
    faults = [key for key, one in found.items() if one.verdict in ("differs", "not finite", "raises")]
    print(f"{len(found)} cells, {len(faults)} faults", *faults, sep="\n")


if __name__ == "__main__":
    main()
