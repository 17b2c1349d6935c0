"""Gates: what the confidence of an exit is computed from, and how an answer gate is fitted."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN = 8
LOGIT = 4  # the column of `statistics` that is max softmax as a logit
PENALTY = 1e-3  # on the sum of squared parameters, so that without evidence max softmax stays


class FeatureGate(nn.Linear):
    """One linear layer on the head's features, trained by the objective. Demir & Akbas 2024, section 3."""

    def __init__(self, width: int, num_classes: int) -> None:  # noqa: ARG002
        super().__init__(width, 1)

    def forward(self, shared_BF: Tensor, logits_BN: Tensor) -> Tensor:  # type: ignore[override]  # noqa: ARG002
        return super().forward(shared_BF).squeeze(1)


class AnswerGate(nn.Module):
    """Max softmax, corrected by a hidden layer of eight that is fitted on held-out images.

    It sees each class probability, the largest, its lead over the second, the entropy, and
    the largest and its lead as logits. Until it is fitted, the confidence is max softmax. No
    gradient goes back into the classifier.
    """

    mean_S: Tensor
    std_S: Tensor

    def __init__(self, width: int, num_classes: int) -> None:  # noqa: ARG002
        super().__init__()
        inputs = num_classes + 5
        self.register_buffer("mean_S", torch.zeros(inputs))
        self.register_buffer("std_S", torch.ones(inputs))
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
            return self._judge(statistics(logits_BN.to(self.mean_S.dtype)))

    def _judge(self, statistics_BS: Tensor) -> Tensor:
        standardised_BS = ((statistics_BS - self.mean_S) / self.std_S).clamp(-10, 10)
        correction_B1 = self.output(torch.tanh(self.hidden(standardised_BS)))
        return (statistics_BS[:, LOGIT : LOGIT + 1] + correction_B1).squeeze(1)

    def fit(self, logits_BN: Tensor, final_BN: Tensor) -> None:
        """Fit the confidence to `accuracy_kept`, by cross-entropy, on held-out images.

        Args:
            logits_BN: of this exit.
            final_BN: logits of the final exit.
        """
        dtype, device = self.mean_S.dtype, self.mean_S.device
        self.double().cpu()
        statistics_BS = statistics(logits_BN.double())
        kept_B = accuracy_kept(logits_BN.double(), final_BN.double())
        self._start()
        self.mean_S.copy_(statistics_BS.mean(0))
        self.std_S.copy_(statistics_BS.std(0, correction=0).clamp_min(1e-6))
        optimizer = torch.optim.LBFGS(self.parameters(), max_iter=100, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            misfit = F.binary_cross_entropy_with_logits(self._judge(statistics_BS), kept_B)
            total = misfit + PENALTY * torch.stack([p.square().sum() for p in self.parameters()]).sum()
            total.backward()
            return total

        with torch.enable_grad():
            optimizer.step(loss)
        optimizer.zero_grad()
        self.to(device=device, dtype=dtype)


GATES: dict[str, type[FeatureGate] | type[AnswerGate]] = {"answer": AnswerGate, "features": FeatureGate}


def create_gate(name: str, width: int, num_classes: int) -> nn.Module:
    """Build a gate for a head with `width` features: `answer` or `features`.

    Raises:
        ValueError: there is no gate of this name.
    """
    if name not in GATES:
        raise ValueError(f"unknown gate {name!r}; choose from {', '.join(GATES)}")
    return GATES[name](width, num_classes)


def statistics(logits_BN: Tensor) -> Tensor:
    """What an answer gate sees: [B, N + 5]."""
    log_p_BN = logits_BN.log_softmax(1)
    p_BN = log_p_BN.exp()
    two = log_p_BN.topk(min(2, log_p_BN.shape[1]), 1).values
    first, second = two[:, :1], two[:, -1:]
    top = first.exp()
    columns = [
        top,
        top - second.exp(),
        -(p_BN * log_p_BN).sum(1, keepdim=True),
        (first - second).clamp(max=20),
        first - (1 - top).clamp(min=1e-6).log(),
        p_BN,
    ]
    return torch.cat(columns, 1)


def accuracy_kept(logits_BN: Tensor, final_BN: Tensor) -> Tensor:
    """The share of the full network's accuracy that an exit's answer is expected to keep: [B], in [0, 1].

    One minus the probability that the final exit gives its own answer, plus the one it gives
    to this exit's answer. That is 1 where both agree, and near 1 where neither knows: such
    an image may as well leave. No label is needed, and the final exit's doubts make it
    less noisy than right and wrong.
    """
    p_BN = final_BN.softmax(1)
    return 1 - p_BN.amax(1) + p_BN.gather(1, logits_BN.argmax(1, keepdim=True)).squeeze(1)
