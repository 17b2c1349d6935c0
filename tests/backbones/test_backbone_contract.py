"""Every CNN family, cut at every cut: the stages are the backbone, to the bit and to the MAC.

The oracles: the undivided network, and torch's counter on modules that are really run.
"""

import re
from pathlib import Path

import pytest
import timm
from contract import NETWORKS, REFUSED, Network, check, refusal

DOCS = Path(__file__).parents[2] / "docs/reference/backbones.md"


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_stages_are_the_backbone(network: Network) -> None:
    result = check(network)
    assert result.cuts >= 2
    assert result.exact
    assert result.macs_agree


@pytest.mark.parametrize("network", REFUSED, ids=str)
def test_refused_with_the_cause_and_a_way_out(network: Network) -> None:
    assert "aux_logits=False" in refusal(network)


def test_every_miniature_of_timm_is_tried() -> None:
    cnns = {name for name in timm.list_models("test_*") if not name.startswith("test_vit")}
    assert cnns <= {network.name for network in NETWORKS}


def test_docs_list_the_same_networks() -> None:
    """When this fails: `python benchmarks/backbones.py`."""
    exact, refused = DOCS.read_text().split("## Refused")
    for text, networks in ((exact, NETWORKS), (refused, REFUSED)):
        listed = re.findall(r"^\| `(\w+)` \| (\w+) \| (\d+) \|(.*)", text, re.MULTILINE)
        assert [row[:3] for row in listed] == [(n.name, n.library, str(n.size)) for n in networks]
        assert not any("| no |" in row[3] for row in listed)
