"""Any picture or data set a user may hand over → batches of pixels."""

from typing import TYPE_CHECKING

from eenet.common.lazy import lazy_names

if TYPE_CHECKING:
    from eenet.data.batching import Batch, augment, batches, derived_seed, normalize, recoloured
    from eenet.data.boxes.reading import GREY, MULTIPLE, Objects, letterbox_size, letterboxed
    from eenet.data.boxes.sets import BoxedImages, boxed_images
    from eenet.data.boxes.sources import images_without_boxes, load_boxes
    from eenet.data.boxes.varying import NO_OBJECT, UNCOUNTED, BoxBatch, box_batches
    from eenet.data.corruptions import CORRUPTIONS, check_known, corrupt
    from eenet.data.datasets import SPLITS, data_options, describe_splits, is_here, load, local_folder
    from eenet.data.image_sets import Images, ImageSet, LazyImageSet, in_order, sample
    from eenet.data.inputs import FRAME, count_frames, find_images, frames, is_video, named_image
    from eenet.data.masks.reading import NO_CLASS, STANDARD_SPREAD, scaled_to, size_for, standardised
    from eenet.data.masks.sets import MaskedImages, masked_images
    from eenet.data.masks.sources import images_without_masks, load_masks
    from eenet.data.masks.varying import MaskBatch, mask_batches
    from eenet.data.paired.sets import AnyImages, PairedImages
    from eenet.data.paired.surveying import stated_tasks, survey_pairs
    from eenet.data.pixels import Pixels, open_image, to_array, to_pixels, whole_pixels
    from eenet.data.readers import check_classes, from_dataset, unlabelled
    from eenet.data.sources import AUGMENTATIONS, GIVEN_IMAGES, SOURCES, Augmentation, source_of
    from eenet.data.surveying import DataInfo, Duplicate, survey

__getattr__, __dir__ = lazy_names(__name__)
