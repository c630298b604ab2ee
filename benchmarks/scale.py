"""What grows with the number of sites and the size of the model, and what a start costs.

`python -m benchmarks.scale [--quick]` prints a table and, as its last line, one JSON object. Every figure is measured
in a process of its own, with one thread, as a ratio of processor times or of memory, so that other machines agree:

- round_on_over_off_64: a round of 64 sites with secure aggregation over one without.
- setup_256_over_64: from the launch to the first round, 256 virtual sites over 64.
- fit_12m_seconds_over_step_on, _off: one site's answer with one step of 12 million values over the bare step.
- site_extra_over_model_100m, lead_extra_over_model_100m: peak memory beyond the model, over the model; the larger of
  secure aggregation on and off.
- start_cpu_over_import_torch_tabular, _image: from the start of Python to the first round over `import torch`.
- two_core_speedup: a round with one worker over one with two.
- answer_bytes_small: one site's answer for a model of a few KB.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from benchmarks.in_process import call_in_process
from benchmarks.targets import Figure, report_figures

BIG = 100_000_000  # values


FIGURES = (
    Figure("round_on_over_off_64", "<=", 4),
    Figure("setup_256_over_64", "<=", 4.5),
    Figure("fit_12m_seconds_over_step_on", "<=", 2.5),
    Figure("fit_12m_seconds_over_step_off", "<=", 2.5),
    Figure("site_extra_over_model_100m", "<=", 2.2),
    Figure("lead_extra_over_model_100m", "<=", 1.5),
    Figure("start_cpu_over_import_torch_tabular", "<=", 1.8),
    Figure("start_cpu_over_import_torch_image", "<=", 2.8),
    Figure("two_core_speedup", ">=", 1.6),
    Figure("answer_bytes_small", "<=", 8000),
)


def measure_figures(quick: bool) -> Iterator[tuple[str, float]]:
    """Yield (name, value) as they are measured."""
    rounds, repeats = (3, 3) if quick else (6, 7)
    yield "round_on_over_off_64", call_in_process("benchmarks.scale_secagg.measure_round_ratio", 64)
    yield "answer_bytes_small", call_in_process("benchmarks.scale_secagg.measure_reply_bytes")
    few, many = (call_in_process("benchmarks.scale_setup.measure_setup", sites) for sites in (64, 256))
    yield "setup_64_seconds", few
    yield "setup_256_over_64", many / few
    for secagg in ("on", "off"):
        fit = call_in_process("benchmarks.scale_fit.measure_fit", secagg, rounds)
        yield f"fit_12m_seconds_over_step_{secagg}", fit["processor"]
        yield f"fit_12m_wall_over_step_{secagg}", fit["wall"]
    memory = {each: call_in_process("benchmarks.scale_memory.measure_memory", each, BIG) for each in ("on", "off")}
    for side in ("site", "lead"):
        for secagg, found in memory.items():
            yield f"{side}_extra_over_model_100m_{secagg}", found[side]
        yield f"{side}_extra_over_model_100m", max(found[side] for found in memory.values())
    for kind in ("tabular", "image"):
        name = f"start_cpu_over_import_torch_{kind}"
        yield name, call_in_process("benchmarks.scale_setup.measure_start", kind, repeats)
    yield "two_core_speedup", call_in_process("benchmarks.scale_workers.measure_two_core_speedup", rounds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    report_figures(measure_figures(parser.parse_args().quick), FIGURES)


if __name__ == "__main__":
    main()
