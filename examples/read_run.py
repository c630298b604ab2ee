"""Read a run: its metrics, history, hospitals, privacy, model and report.

python examples/read_run.py outputs/DATE/TIME-NAME
"""

import sys

import fedhealth


def describe_run(folder: str) -> list[str]:
    """Return the most important numbers of a run as lines."""
    run = fedhealth.load_run(folder)
    if run.state != "completed" or ("test", "auroc") not in run.metrics.index:
        return [repr(run)]
    auroc = run.metrics.loc[("test", "auroc")]  # pandas: one row for each split and metric
    lines = [f"test AUROC {auroc['value']:.3f}, 95 % interval {auroc['low']:.3f} to {auroc['high']:.3f}"]
    lines += [f"round {number}: {row['seconds']:.1f} s" for number, row in run.history.iterrows()]
    lines += [f"{site}: {row['missed_rounds']} missed rounds" for site, row in run.sites.iterrows()]
    lines += [f"better than {name}: {row['gain']:+.3f}" for name, row in run.baselines.iterrows()]
    return [*lines, f"report: {run.report}"]


if __name__ == "__main__":
    print("\n".join(describe_run(sys.argv[1])))
