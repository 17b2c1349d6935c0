"""Hold every network of `contract.py` to the contract and write `docs/reference/backbones.md`.

python benchmarks/backbones.py
"""

from importlib.metadata import version
from pathlib import Path

import torch
from contract import NETWORKS, REFUSED, check, refusal

from eenet.common import hardware

DOCS = Path(__file__).parents[1] / "docs/reference/backbones.md"


def main() -> None:
    """A row per network; failures are shown as `no`."""
    rows, count = [], 0
    for network in NETWORKS:
        result = check(network)
        print(network, result, flush=True)
        count += result.exact and result.macs_agree
        said = ["yes" if held else "no" for held in (result.exact, result.macs_agree)]
        cells = [f"`{network.name}`", network.library, network.size, result.cuts, *said]
        rows.append(f"| {' | '.join(map(str, cells))} | {result.seconds:.1f} |")
    refused = [f"| `{n.name}` | {n.library} | {n.size} | {refusal(n)} |" for n in REFUSED]
    DOCS.write_text(
        PAGE.format(
            versions=", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm")),
            hardware=hardware(),
            threads=torch.get_num_threads(),
            count=count,
            total=len(NETWORKS),
            rows="\n".join(rows),
            refused="\n".join(refused),
        )
    )
    print(f"{count} of {len(NETWORKS)} hold; wrote {DOCS.name}")


PAGE = """# Backbones tried

Which networks can be cut, and at how many places. Made by `python benchmarks/backbones.py` with {versions},
on {hardware}, {threads} torch thread(s). The tests hold the same networks to the same contract.

{count} of {total} networks hold. Each has random weights and is cut at **every** cut.

- *Image size*: height and width of the colour images it was tried at.
- *Cuts*: places where it can be divided.
- *Exact*: the stages, run in sequence, equal the undivided network bit for bit, in eval and in train mode.
  Compared are logits, gradients and BatchNorm statistics.
- *MACs agree*: those found without computing anything equal, stage by stage, what torch's `FlopCounterMode`
  counts while the modules really run.

| network | library | image size | cuts | exact | MACs agree | seconds |
| --- | --- | --- | --- | --- | --- | --- |
{rows}

Attention counts as its matrix products. torch's counter knows no formula for the fused kernels that CPUs run.
Some networks have few cuts. Inside a dense block, between branches or parallel resolutions, more than one
feature map is alive.

## Refused

| network | library | image size | cause, as the error says it |
| --- | --- | --- | --- |
{refused}

Both can be given exits with `aux_logits=False`, see above.

## Where to go next

- A network of your own: [tutorial](../tutorials/own-network.md).
- Which of them can be exported: [exported backbones](exported-backbones.md).
"""


if __name__ == "__main__":
    main()
