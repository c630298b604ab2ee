"""`python -m release`: build the archive of the current commit."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fedhealth.errors import FedhealthError
from fedhealth.utils.private_files import make_signing_key
from release.build_release import build_release


def main() -> None:
    """Build a release, or make a signing key."""
    parser = argparse.ArgumentParser(prog="release", description="Build the release archive of the current commit.")
    parser.add_argument("--out", type=Path, default=Path("dist/release"), help="folder to write to")
    parser.add_argument("--key", type=Path, help="the signing key; without it the archive is not signed")
    parser.add_argument("--make-key", type=Path, metavar="FILE", help="make a signing key instead")
    asked = parser.parse_args()
    try:
        if asked.make_key:
            make_signing_key(asked.make_key)
            print(asked.make_key)
            return
        print(build_release(Path.cwd(), asked.out, asked.key))
    except FedhealthError as fault:
        print(f"error: {fault}", file=sys.stderr)
        raise SystemExit(fault.exit_code) from None
    if not asked.key:
        print("Not signed: give the signing key with --key (make release SIGNING_KEY=FILE).", file=sys.stderr)


if __name__ == "__main__":
    main()
