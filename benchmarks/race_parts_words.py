"""What `docs/results/race-parts.md` says around its tables, which `race_parts.py` fills in."""

PAGE = """# What each kind of saving gives

Parts of [the race](race.md) against static networks, on CIFAR-10 where nothing else is said. The names are
explained [there](race.md#how-it-was-measured).

## Two networks, one behind the other

:::{{table}} Images that `cifar10-eenet13` isn't sure about go on to a second network

{cascades}

:::

Nothing was trained for these. Answers are joined over the exits of both networks. The static rivals are the
networks that they are made of; the mean of two small ones within half of a ResNet-56's MACs isn't listed,
and was no better ([lab notes](../development/lab-notes.md)).

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

## Which ingredients help

:::{{table}} Points of accuracy against the network with all of them; in brackets the 95 % interval

{ingredients}

:::

Training stays as it is. Left out is what comes after it. Joined answers: exits answer together. Gates: they
learn from validation images when to stop; without them the largest probability decides, or the entropy.
Without joined answers the interval lies below 0 in {joined} cells, without gates in {gates}. Thresholds are
set anew for each. `python benchmarks/ingredients.py after`.

{training}{briefly}## Where to go next

- The [race](race.md) as a whole, and [every network](race-all.md) in it.
- [Lab notes](../development/lab-notes.md): what was tried and didn't help.
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
