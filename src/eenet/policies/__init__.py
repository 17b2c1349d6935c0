"""When an image leaves: scores, gates, joined answers, and thresholds for a budget, a drop or a risk."""

from typing import TYPE_CHECKING

from eenet.common.lazy import lazy_names

if TYPE_CHECKING:
    from eenet.policies.budget import (
        DEAD_SHARE,
        RULES,
        exits_for_budget,
        policies_for_budgets,
        policy_by_rule,
        policy_for_budget,
    )
    from eenet.policies.ensemble import (
        FLOOR,
        LARGEST,
        Ensemble,
        Floats,
        Weights,
        chain,
        fit_ensemble,
        join,
        probabilities,
    )
    from eenet.policies.fitting import Fitted, fit
    from eenet.policies.gates import GATES, create_gate
    from eenet.policies.policy import ExitPolicy
    from eenet.policies.records import (
        RECORDS_FILE,
        AnyRecords,
        Records,
        decide,
        first_above,
        recorded_scores,
        relative_costs,
    )
    from eenet.policies.risk import Guarantee, missed_threshold, policy_for_drop, policy_for_risk
    from eenet.policies.scores import (
        SCORES,
        box_scores,
        graph_scores,
        logarithm,
        logit,
        looks_back,
        score_for_budgets,
        score_of,
        score_of_answers,
        sigmoid,
        softmax_parts,
    )

__getattr__, __dir__ = lazy_names(__name__)
