"""Annotated data sets as they are downloaded: COCO, ADE20K, Cityscapes, Mapillary Vistas, folders of PNGs. No torch.

`open_dataset(path)` finds out which layout a folder or file has. Pictures and annotations are read when they are asked for.
"""

from proscale.datasets.annotation import VOID, AnnotatedPicture, Dataset, Instance, PanopticMap, PanopticSegment
from proscale.datasets.find_layout import open_dataset

__all__ = ["VOID", "AnnotatedPicture", "Dataset", "Instance", "PanopticMap", "PanopticSegment", "open_dataset"]
