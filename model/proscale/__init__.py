"""PRO-SCALE Mask2Former: universal segmentation with progressively scaled token length (arXiv 2404.14657).

Importing this package alone does not import torch; `proscale.predictor` does.
"""

__version__ = "0.1.0"
