"""The check of tests/test_gated_fusion.py, run from the project's folder."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).parent / "tests" / "test_gated_fusion.py"), run_name="__main__")
