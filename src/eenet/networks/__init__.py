"""A backbone with exits: how it is made, what it is configured by, and how it is saved and found again."""

from typing import TYPE_CHECKING

from eenet.common.lazy import lazy_names

if TYPE_CHECKING:
    from eenet.networks.building import convert, create_model, name_backbone, per_channel, without_exits
    from eenet.networks.cascading import in_cascade
    from eenet.networks.checkpoint import trained_backbone
    from eenet.networks.config import Config, read_config, write_config
    from eenet.networks.describing import BackboneInfo, CheckpointInfo, info
    from eenet.networks.directories import (
        CARD_FILE,
        CONFIG_FILE,
        GRAPH_FILE,
        SHIPPED,
        WEIGHTS_FILE,
        about_shipped,
        checkpoint_directory,
        shipped_checkpoints,
    )
    from eenet.networks.graphs.keeping import write_graph
    from eenet.networks.graphs.manifest import (
        FORMAT_VERSION,
        MANIFEST_FILE,
        read_manifest,
        thresholds_by_budget,
        write_manifest,
    )
    from eenet.networks.graphs.messages import (
        BOOL,
        FLOAT,
        FLOAT16,
        INT8,
        INT64,
        UINT8,
        Graph,
        Model,
        Node,
        Tensor,
        copy_of,
        extract,
        from_array,
        make_node,
        parse,
        to_array,
        value_info,
    )
    from eenet.networks.graphs.stored import (
        PIXELS,
        Network,
        StoredNetwork,
        features_name,
        graph_of,
        name_of,
        open_network,
        probabilities_name,
        score_name,
        state_name,
    )
    from eenet.networks.graphs.whole import network_graph, normalization
    from eenet.networks.network import EENet, ExitOutputs
    from eenet.tasks import HEADS

__getattr__, __dir__ = lazy_names(__name__)
