"""Twenty thousand damaged tokenizers: every one is refused with a BundleError, or reads prompts as it should."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.tokens.files import attack

pytestmark = pytest.mark.attack


@pytest.mark.parametrize("seed", range(2, 7))
def test_thousands_of_damaged_tokenizers_are_refused_or_read(tmp_path: Path, seed: int) -> None:
    found = attack(tmp_path, cases=4000, seed=seed)
    assert found["refused"] > 1000 and found["read"] > 500, found
