"""Four synthetic hospitals, written to disk as real files, for the demo, the tests and the benchmarks."""

from fedhealth.data.synthetic.hospitals import HOSPITALS, write_hospitals

__all__ = ["HOSPITALS", "write_hospitals"]
