"""How many planted faults `preflight` names, and how many healthy models it accuses.

    python benchmarks/preflight_verdicts.py                  # all models and the table of counts, minutes
    python benchmarks/preflight_verdicts.py --smoke          # a handful
    python benchmarks/preflight_verdicts.py --half 1         # every second one, from the second on
    python benchmarks/preflight_verdicts.py softmax label    # those whose names hold one of these words
    python benchmarks/preflight_verdicts.py --checks input_statistics,initial_loss

The models are in `_preflight_models.py`. A fault counts as named if one of the names that are right for it is among the
report's; a healthy model is accused if the report's status isn't "pass".
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from _preflight_models import FAULTS, HEALTHY

from kregkit.diagnostics import preflight

SMOKE = ("mlp_classes", "embedding_text", "softmax_forgotten", "column_against_ten_outputs", "dropout_means_keep")


def judge(build, checks):
    """Returns the report on a freshly made model, and the seconds that it took."""
    keras.utils.set_random_seed(0)
    model, data = build()
    start = time.perf_counter()
    report = preflight(model, data, checks=checks, seconds=None, verbose=0)
    seconds = time.perf_counter() - start
    keras.backend.clear_session()
    return report, seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--half", type=int, choices=(0, 1))
    parser.add_argument("--checks", default="all")
    parser.add_argument("--kind", choices=("healthy", "faults"))
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    checks = "all" if arguments.checks == "all" else arguments.checks.split(",")

    def chosen(models):
        names = [name for name in models if not arguments.smoke or name in SMOKE]
        names = [name for name in names if not arguments.words or any(word in name for word in arguments.words)]
        return names if arguments.half is None else names[arguments.half :: 2]

    named = accused = failed = 0
    faults = chosen(FAULTS) if arguments.kind != "healthy" else []
    healthy = chosen(HEALTHY) if arguments.kind != "faults" else []
    for name in faults:
        build, right = FAULTS[name]
        report, seconds = judge(build, checks)
        hit = any(one in right for one in report.faults)
        named += hit
        print(
            f"{'named ' if hit else 'MISSED'} {seconds:5.1f} s  {name}: {', '.join(report.faults) or '-'}", flush=True
        )
        if arguments.verbose:
            print(report)
    for name in healthy:
        report, seconds = judge(HEALTHY[name], checks)
        accused += report.status == "warn"
        failed += report.status == "fail"
        print(f"{report.status:<6} {seconds:5.1f} s  {name}: {', '.join(report.faults) or '-'}", flush=True)
        if report.faults and arguments.verbose:
            print(report)
    print(f"\n{'':<16}{'models':>8}{'named':>8}{'warned':>8}{'failed':>8}")
    print(f"{'planted faults':<16}{len(faults):>8}{named:>8}{'-':>8}{'-':>8}")
    print(f"{'healthy':<16}{len(healthy):>8}{'-':>8}{accused:>8}{failed:>8}")


if __name__ == "__main__":
    main()
