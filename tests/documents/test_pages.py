"""The Python blocks of the pages that state these calls, word for word."""

import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("page", "found"), [("toolbox", "decoded"), ("gated_fusion", "aux")])
def test_python_blocks_run(page, found):
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    with torch.device("meta"):  # shapes alone
        names = {
            "features_list": [torch.empty(1, 5, 768)] * 2,
            "images": torch.empty(1, 3, 64, 64),
            "image_embeds": torch.empty(2, 5, 768),
            "text_embeds": torch.empty(2, 3, 768),
            "text_mask": torch.ones(2, 3),
            **{f"c{i + 3}": torch.empty(1, 8 * 2**i, 16 // 2**i, 16 // 2**i) for i in range(3)},
        }
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            exec(block, names)
    assert found in names
