"""What `docs/results/race.md` says around its tables, which `race_page.py` fills in."""

PAGE = """# Against smaller, pruned and int8 networks

Why not simply a smaller network? This page measures that. It is made by `python benchmarks/race_page.py` from
CSVs in `benchmarks/results`.

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

## Two networks, one behind the other

:::{{table}} Images that `cifar10-eenet13` isn't sure about go on to a second network

{cascades}

:::

Nothing was trained for these. Answers are joined over the exits of both networks. The static rivals are the
networks that they are made of; the mean of two small ones within {most} million MACs isn't listed, and was no
better ([lab notes](../development/lab-notes.md)).

## What teachers give

:::{{table}} Accuracy in percent without teachers → with them, in float32

{taught}

:::

Only networks that are the same but for the teachers: trained for as many epochs, by one recipe. Budgets are
parts of the backbone's MACs, exits counted. A name without `-exits` is a backbone that was trained alone.
ResNet-13 and TinyNet-E were trained from random weights for {short} epochs, the others are pruned.

## Pruned channels in multiples of 16 or of 2

:::{{table}} A ResNet-56 with its exits, pruned to half of its MACs, in float32

{multiples}

:::

Multiples of 16 are the default. They can't touch the first stage, which has 16 channels. So they take more
from the others, and the first exit costs more: at equal MACs they are less accurate. At equal accuracy they
are faster on ONNX Runtime, and slower on OpenVINO.

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

## Which ingredients help

:::{{table}} Points of accuracy against the network with all of them; in brackets the 95 % interval

{ingredients}

:::

Training stays as it is. Left out is what comes after it. Joined answers: exits answer together. Gates: they
learn from validation images when to stop; without them the largest probability decides, or the entropy.
Without joined answers the interval lies below 0 in {joined} cells, without gates in {gates}. Thresholds are
set anew for each. `python benchmarks/ingredients.py after`.

{training}{briefly}{on_photos}## What this can't tell

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

{photos}

## All networks

:::{{table}} Accuracy in percent, MACs of an image, and time by batch size

{all}

:::

## Where to go next

- The same race for your network on your machine: [`eenet optimize`](../how-to/optimize.md).
- [On the clock](runtime.md): where time goes that MACs don't show.
- [Other results](index.md).
"""
TRAINING = """## Which ingredients of training help

:::{{table}} Points of accuracy against the recipe as it is; in brackets the 95 % interval

{table}

:::

Each was trained on `{data}` for {epochs} epochs, from random weights, with one seed. There are {images} test
images. The teacher is the network that has all. Without joint training the backbone is trained alone for as
long. The exits on it are trained for half as many epochs more, and it stays as it is. Budgets are parts of
the backbone's MACs, exits counted.

`python benchmarks/ingredients.py training --data {data} --augmentation {augmentation} --epochs {epochs}`

On this wide and short network the convolutions of the heads are what counts. Joint training and a teacher of
the same kind make no difference beyond noise.

"""

BRIEFLY = """## Other backbones, after short trainings

Each was trained for {epochs} epochs from random weights, by one recipe: five backbones with exits, and two of
these without exits as well. The ResNet-13 and TinyNet-E were trained with teachers too (`-taught`). TinyNet-E
is a small EfficientNet. Measured on {machine}.

:::{{table}} The fastest network by accuracy and clock, with its time as a part of the plain ResNet-56's

{fastest}

:::

:::{{table}} Accuracy in percent, MACs of an image, and time as a part of the plain ResNet-56's

{all}

:::

A name without `-exits` was trained without exits. Networks cut behind an exit count in the first table. They
are left out of the second; the CSV has them.

- By MACs, TinyNet-E with exits is the best of these by far. On the clock the wide and short ResNet-13 beats
  it wherever it is as accurate.
- The MobileNetV4 needs exits to learn anything in so few epochs. For the ResNet-13 the difference is within
  noise, without leaving early. With teachers the ResNet-13 without exits gains more than the one with exits.
- TinyNet-E is slower in int8 than in float32 on ONNX Runtime. Convolutions and ReLU are quantised, its swish
  is not ([lab notes](../development/lab-notes.md)).
- This tells what a short training gives, not what a long one would. A public MobileNetV2 × 0.5 has 92.88 %
  after 200 epochs.

"""
ON_PHOTOS = """## Photos, static and with exits

A ResNet-18 on Imagenette, 3,150 training photos of {size} pixels, {epochs} epochs from random weights: once
with exits and once without, by one recipe. 1,250 test photos. Measured on {machine}.

:::{{table}} Accuracy in percent, MACs of a photo, and time as a part of the plain ResNet-18's in float32

{all}

:::

The plain network is the least accurate. There are few photos, and the losses of early exits help then. The
strongest static rival is the network with exits, cut behind its second one. Leaving early is faster than that
at equal accuracy, and hardly so in int8.

"""
