"""Any CNN: where it can be cut, what its parts cost, and its exact division into stages."""

from typing import TYPE_CHECKING

from eenet.common.lazy import lazy_names

if TYPE_CHECKING:
    from eenet.backbones.accepting import as_module
    from eenet.backbones.cifar import BasicBlock
    from eenet.backbones.cost import count_macs, eval_mode, example_tensor, seeded, state_kept
    from eenet.backbones.cuts import Cut, TracedBackbone, trace
    from eenet.backbones.division import check_backbone, divide, mutates_input
    from eenet.backbones.given.factories import FACTORY, trust_all, trusted_name
    from eenet.backbones.given.recognising import recognised
    from eenet.backbones.given.weights import Weights, read_weights_file
    from eenet.backbones.given.widths import (
        Widths,
        joined,
        note_widths,
        noted_widths,
        set_widths,
        widths_between,
    )
    from eenet.backbones.names import (
        ALIASES,
        BACKBONES,
        CIFAR_RESNETS,
        TORCHVISION,
        Preprocessing,
        classifier_name,
        create_backbone,
        default_input_size,
        full_name,
        is_backbone,
        preprocessing_of,
        replace_classifier,
    )
    from eenet.backbones.placement import PLACEMENTS, Placement, place

__getattr__, __dir__ = lazy_names(__name__)
