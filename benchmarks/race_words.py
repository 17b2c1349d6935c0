"""What `docs/results/race.md` and the table of all networks say around what `race_page.py` fills in."""

PAGE = """# Against smaller, pruned and int8 networks

Why not simply a smaller network? This page measures that on CIFAR-10. What the names mean stands
[below](#how-it-was-measured).

## In short

:::{{table}} How many times as fast the fastest network is that leaves early, as the fastest that doesn't

{short}

:::

Both have at least that accuracy. The columns are runtimes and batch sizes. A dash: no network is as accurate
without leaving early.

- Below 1, take the network that doesn't leave early. It may still have been trained with exits, and was
  [cut](../how-to/optimize.md) behind one of them.
- At equal MACs leaving early is more accurate: {gain} within {most} million, half of a ResNet-56.
- On the clock it gains less than in MACs. Each part of a network is a call of its own, which costs most for
  single images and on OpenVINO. See [how much of the promise is kept](#how-much-of-the-promise-is-kept).
- Savings multiply. Against a plain ResNet-56 in float32, all [together](#everything-together) gain far more.

```{{figure}} ../images/race-cifar10.svg
:alt: Accuracy against measured time on CIFAR-10, of networks that leave early and of static ones.

Accuracy against time. Up and to the left is better. Below 88 % nothing is drawn, and variants are left out.
```

## Within a number of MACs

:::{{table}} The most accurate in float32 by million MACs of an image; accuracy in percent

{within}

:::

63 million MACs are half of a ResNet-56. The static networks here are networks with exits too, cut or without
leaving early. The interval is that of the difference, image by image. The most accurate of many networks on
these images is a little too good, on both sides.

## Equal accuracy on the clock

:::{{table}} How many times as fast as a static network the fastest is that is as accurate and leaves early

{quickest}

:::

As accurate is who gets at most 5 of the 5,000 images less. The static networks are those that no other static
one beats, from 88 % on. A dash: by that clock another one does. Below 1 the static network is faster.
Which thresholds the clock sets depends on times that are taken just before. So these figures move by some
hundredths from run to run.

:::{{table}} Which network that is

{names}

:::

## Everything together

:::{{table}} The fastest that loses at most 0.5 points against the plain ResNet-56 in float32

{compound}

:::

Which of them is fastest within half a point was read off the test images.

## How much of the promise is kept

:::{{table}} Times as fast as the network itself without leaving early, in brackets what MACs promise

{efficiency}

:::

The first three figures are of the network's own budget in MACs. Those of the `clock` are of thresholds for
the least time there, as `--for latency` sets them. On validation images these keep as much, up to 0.1 points,
by the full network's probabilities. Exits that don't pay are off then, and exits answer together or alone.

`efficiency` is ideal by measured time. In ideal time an image costs only its part of the plain network, and
exits cost nothing. Measured on {kept_on}.

## What this can't tell

- Whether pruning is worse. Eight epochs of finetuning are few: the pruned networks have not come back to
  where they were. Pruned to 0.4 of its MACs without exits, the ResNet-56 had 89.20 % after as many ([lab
  notes](../development/lab-notes.md)). Torch-Pruning's own table has one of 93.64 % at 0.39 of the MACs,
  after far more epochs. Ours with exits has 93.3 % at 0.41. Against that one nothing is won in MACs.
- Whether MobileNet or EfficientNet are worse after long trainings. A public MobileNetV2 × 0.5 has 92.88 % at
  28 million MACs, after 200 epochs. TinyNet-E is the only EfficientNet here.
- What a network as deep as a cut one is worth when it is trained alone. The cut ones were trained together
  with all that lies behind them.
- What a teacher gives others in long trainings. `cifar10-eenet13` had teachers for 106 epochs. Cut behind an
  exit it is among the static networks too, so both sides gain by it. 20 epochs with two teachers gained
  `cifar10-eenet20` much, 16 epochs `cifar10-eenet56` nothing ([lab notes](../development/lab-notes.md)); 8 to
  10 epochs of others are above.
- Anything about other seeds.

## How it was measured

| what | value |
| --- | --- |
| data | CIFAR-10, 5,000 test images; thresholds are set on validation images |
| `{reference}` | a ResNet-56 with four exits, trained for {epochs} epochs |
| `cifar10-eenet20` | a ResNet-20 with three exits, trained for 80 epochs [in two parts]\
(networks.md#the-resnet-20-in-two-parts), 20 of them with two teachers |
| `cifar10-eenet13` | a wide and short network with three exits, trained for 166 epochs [in six parts]\
(networks.md#the-resnet-13-in-six-parts), 106 of them with a teacher |
| `resnet13-pruned` | `cifar10-eenet13` after 140 epochs, without exits, pruned to half of its MACs \
and finetuned for 8 epochs |
| `resnet13-pruned-exits` | the same with its exits, which are pruned with it |
| `pruned-0.5-exits`, 0.4, 0.2 | `cifar10-eenet56` with its exits, pruned to that share of its MACs and \
finetuned for 8 epochs. Channels are multiples of 16, 8 and 8 |
| `pruned-0.5-exits-by-2` | the same to 0.5, with channels in multiples of 2, as `eenet.prune` chose before |
| a name with `-taught` | the same training, and two teachers that all exits imitate: `cifar10-eenet56` \
and `cifar10-eenet13`, in int8. Pruned ResNet-13: from the network of 166 epochs. To 0.4: in multiples of 16 |
| `cascade-13-20`, `cascade-13-56` | `cifar10-eenet13`, behind it `cifar10-eenet20` or `cifar10-eenet56`; \
[joined](../how-to/cascade.md) without any training. Budgets are parts of the last network's MACs |
| never with exits | the backbone alone, trained for {epochs} epochs, from [networks](networks.md) |
| no budget | the same network, where no image leaves early: a static network |
| cut behind exit 0 | the same network up to there, where all images leave: a smaller static network |
| budget 0.45 by the clock | thresholds for the least time by that clock, which keep what budget 0.45 keeps, \
up to 0.1 points on validation images; as `--for latency` sets them |
| int8 | quantised after training |
| times | {machine}; all in turns on the same batches; as a part of the plain ResNet-56's in float32 |
| commands | `python benchmarks/race.py train --out runs/race`, then `measure` |
| seeds | one. ± is half of a 95 % interval over the test images |

## Where to go next

- What cascades, teachers, pruning and other backbones give: [part by part](race-parts.md).
- [Photos](race-photos.md), and [every network with its figures](race-all.md).
- The same race for your network on your machine: [`eenet optimize`](../how-to/optimize.md).
- [On the clock](runtime.md): where time goes that MACs don't show.
"""
ALL = """# Every network of the race

[The race](race.md#how-it-was-measured) says what the names mean and how times were taken.

:::{{table}} Accuracy in percent, MACs of an image, and time by batch size

{all}

:::

## Where to go next

- What follows from these: [the race](race.md).
"""
