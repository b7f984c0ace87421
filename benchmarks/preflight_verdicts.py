"""How many planted faults `preflight` names, and how many healthy models it accuses.

    python benchmarks/preflight_verdicts.py                  # all models and the table of counts, minutes
    python benchmarks/preflight_verdicts.py --smoke          # a handful
    python benchmarks/preflight_verdicts.py --part judging   # those on which nothing was tuned
    python benchmarks/preflight_verdicts.py --large          # seconds of each check on MobileNetV2 at 64 pixels
    python benchmarks/preflight_verdicts.py softmax label    # those whose names hold one of these words
    python benchmarks/preflight_verdicts.py --checks input_statistics,initial_loss

The models of the tuning part are in `_preflight_models.py`: the checks were mended until these came out right. Those of
the judging part are in `_preflight_others.py`. A fault counts as named if one of the names that are right for it is
among the report's; a healthy model is accused if the report's status isn't "pass".
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _preflight_models
import _preflight_others
import keras
import numpy as np

from kregkit.diagnostics import preflight

PARTS = {"tuning": _preflight_models, "judging": _preflight_others}
SMOKE = ("mlp_classes", "softmax_forgotten", "column_against_ten_outputs", "ages", "dropout_on_a_regression")


def judge(build, checks):
    """Returns the report on a freshly made model, and the seconds that it took."""
    keras.utils.set_random_seed(0)
    model, data = build()
    start = time.perf_counter()
    report = preflight(model, data, checks=checks, seconds=None, verbose=0)
    seconds = time.perf_counter() - start
    keras.backend.clear_session()
    return report, seconds


def large(smoke):
    """Prints how long each check takes on MobileNetV2 at 64 pixels, within the default budget."""
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2((64, 64, 3), alpha=0.35 if smoke else 1.0, weights=None, classes=10)
    model.compile("adam", "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 256 if smoke else 1024)
    patterns = np.kron(rng.normal(size=(10, 8, 8, 3)), np.ones((1, 8, 8, 1)))
    x = (0.5 * patterns[y] + 0.5 * rng.normal(size=(len(y), 64, 64, 3))).astype("float32")
    checks = ["initial_loss", "signal_flow"] if smoke else "all"
    start, busy = time.perf_counter(), time.process_time()
    report = preflight(model, (x, y), checks=checks)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    print(f"MobileNetV2 at 64 pixels: {seconds:.1f} s, {busy:.1f} s of a processor; status {report.status}")
    print("cut short: " + (", ".join(report.notes) or "nothing"))


def judge_all(part, chosen, checks, verbose):
    """Judges the chosen models of a part and prints a line for each; returns the two rows of the table."""
    models, named, accused, failed = PARTS[part], 0, 0, 0
    faults, healthy = chosen(models.FAULTS, "faults"), chosen(models.HEALTHY, "healthy")
    for name in faults:
        build, right = models.FAULTS[name]
        report, seconds = judge(build, checks)
        hit = any(one in right for one in report.faults)
        named += hit
        verdict = "named " if hit else "MISSED"
        print(f"{verdict} {seconds:5.1f} s  {name}: {', '.join(report.faults) or '-'}", flush=True)
        if verbose:
            print(report)
    for name in healthy:
        report, seconds = judge(models.HEALTHY[name], checks)
        accused += report.status == "warn"
        failed += report.status == "fail"
        print(f"{report.status:<6} {seconds:5.1f} s  {name}: {', '.join(report.faults) or '-'}", flush=True)
        if report.faults and verbose:
            print(report)
    return [
        f"{part + ', faults':<20}{len(faults):>8}{named:>8}{'-':>8}{'-':>8}",
        f"{part + ', healthy':<20}{len(healthy):>8}{'-':>8}{accused:>8}{failed:>8}",
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--checks", default="all")
    parser.add_argument("--kind", choices=("healthy", "faults"))
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    checks = "all" if arguments.checks == "all" else arguments.checks.split(",")
    if arguments.smoke or arguments.large:
        large(arguments.smoke)
    if arguments.large:
        return

    def chosen(models, kind):
        names = [name for name in models if arguments.kind in (None, kind)]
        names = [name for name in names if not arguments.smoke or name in SMOKE]
        return [name for name in names if not arguments.words or any(word in name for word in arguments.words)]

    rows = [f"{'':<20}{'models':>8}{'named':>8}{'warned':>8}{'failed':>8}"]
    for part in PARTS if arguments.part is None else [arguments.part]:
        rows += judge_all(part, chosen, checks, arguments.verbose)
    print("\n" + "\n".join(rows))


if __name__ == "__main__":
    main()
