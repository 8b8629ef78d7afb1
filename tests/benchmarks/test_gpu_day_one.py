"""What is planned for a lent GPU fits the time for which it is lent."""

from __future__ import annotations

import re
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks/gpu_day_one.sh"


def test_the_second_command_leaves_time_to_start_and_stop_its_parts():
    (body,) = re.findall(r"^second\(\) \{\n(.*?)^\}", SCRIPT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    limits = [int(limit) for limit in re.findall(r"^ +(?:benchmark|check) \w+ (\d+) ", body, re.MULTILINE)]
    assert len(limits) == 6
    assert sum(limits) <= 400
