"""Gates: what the confidence of an exit is computed from, and how an answer gate is fitted."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eenet.common import Registry

GATES: Registry[Callable[[int, int], nn.Module]] = Registry("gate", "gate")
"""By name; each is made for a width of features and a number of classes."""
HIDDEN = 8
NARROWEST = 0.01  # standard deviation of a statistic: what hardly varied is not to count for much
PRIOR = 0.5  # images, for each class: what the penalty on squared parameters weighs. Each class is an input
# that may mislead; without evidence from many more images max softmax stays


@GATES.add("features")
class FeatureGate(nn.Linear):
    """One linear layer on the head's features, trained by the objective. Demir & Akbas 2024, section 3."""

    def __init__(self, width: int, num_classes: int) -> None:  # noqa: ARG002
        super().__init__(width, 1)

    def forward(self, shared_BF: Tensor, logits_BN: Tensor) -> Tensor:  # type: ignore[override]  # noqa: ARG002
        return super().forward(shared_BF).squeeze(1)


@GATES.add("answer")
class AnswerGate(nn.Module):
    """Max softmax, corrected by a hidden layer of eight that is fitted on held-out images.

    It sees `statistics` of the exit's own answer. Until it is fitted, the confidence is max
    softmax. No gradient goes back into the classifier.
    """

    logit_1S: Tensor

    def __init__(self, width: int, num_classes: int) -> None:  # noqa: ARG002
        super().__init__()
        inputs = statistics(torch.zeros(1, num_classes)).shape[1]
        logit_1S = torch.zeros(1, inputs)  # what picks max softmax as a logit out of the statistics
        top = min(2, num_classes)
        logit_1S[0, -2 * top], logit_1S[0, -top] = 1, -1
        self.register_buffer("logit_1S", logit_1S, persistent=False)
        self.hidden = nn.Linear(inputs, HIDDEN)
        self.output = nn.Linear(HIDDEN, 1)
        self._start()

    def _start(self) -> None:
        """The same every time, with no correction yet."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.hidden.reset_parameters()
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, shared_BF: Tensor, logits_BN: Tensor) -> Tensor:  # noqa: ARG002
        return self.judge(logits_BN.detach())

    def judge(self, logits_BN: Tensor) -> Tensor:
        """Confidence logits [B] of answers."""
        with torch.autocast(logits_BN.device.type, enabled=False):
            statistics_BS = statistics(logits_BN.to(self.hidden.weight.dtype))
            return self._judge(statistics_BS, statistics_BS)

    def _judge(self, statistics_BS: Tensor, seen_BS: Tensor) -> Tensor:
        # max softmax and its correction in one product
        weights_1W = torch.cat([self.logit_1S, self.output.weight], 1)
        both_BW = torch.cat([statistics_BS, torch.tanh(self.hidden(seen_BS))], 1)
        return F.linear(both_BW, weights_1W, self.output.bias).squeeze(1)

    def fit(self, logits_BN: Tensor, kept_B: Tensor) -> None:
        """Fit the confidence to the share of accuracy kept, by cross-entropy, on held-out images.

        Args:
            logits_BN: of this exit.
            kept_B: if an image leaves here, see `accuracy_kept`.
        """
        dtype, device = self.hidden.weight.dtype, self.hidden.weight.device
        self.double().cpu()
        statistics_BS = statistics(logits_BN.double())
        kept_B = kept_B.double()
        self._start()
        mean_S = statistics_BS.mean(0)
        std_S = statistics_BS.std(0, correction=0).clamp_min(NARROWEST)
        standardised_BS = (statistics_BS - mean_S) / std_S
        penalty = PRIOR * logits_BN.shape[1] / len(logits_BN)
        optimizer = torch.optim.LBFGS(self.parameters(), max_iter=100, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            judged_B = self._judge(statistics_BS, standardised_BS)
            misfit = F.binary_cross_entropy_with_logits(judged_B, kept_B)
            total = misfit + penalty * torch.stack([p.square().sum() for p in self.parameters()]).sum()
            total.backward()
            return total

        with torch.enable_grad():
            optimizer.step(loss)
        optimizer.zero_grad()
        with torch.no_grad():  # from now on it sees statistics as they are
            self.hidden.weight.div_(std_S)
            self.hidden.bias.sub_(self.hidden.weight @ mean_S)
        self.to(device=device, dtype=dtype)


def create_gate(name: str, width: int, num_classes: int) -> nn.Module:
    """Build a gate for a head with `width` features: `answer` or `features`.

    Raises:
        ValueError: there is no gate of this name.
    """
    return GATES[name](width, num_classes)


def statistics(logits_BN: Tensor) -> Tensor:
    """What an answer gate sees: [B, S].

    The logarithms of each class probability, of the two largest, and of what these leave to
    the others. Few operations, since at batch 1 each takes a runtime microseconds.
    """
    p_BN = logits_BN.softmax(1)
    top = p_BN.topk(min(2, p_BN.shape[1]), 1).values
    return torch.cat([p_BN, top, 1 - top], 1).clamp(min=1e-6).log()


def accuracy_kept(logits_BN: Tensor, final_BN: Tensor) -> Tensor:
    """The share of the full network's accuracy that an exit's answer is expected to keep: [B], in [0, 1].

    One minus the probability that the final exit gives its own answer, plus the one it gives
    to this exit's answer. That is 1 where both agree, and near 1 where neither knows: such
    an image may as well leave. No label is needed, and the final exit's doubts make it
    less noisy than right and wrong.
    """
    p_BN = final_BN.softmax(1)
    return 1 - p_BN.amax(1) + p_BN.gather(1, logits_BN.argmax(1, keepdim=True)).squeeze(1)
