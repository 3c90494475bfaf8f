"""The HTTP face of PRO-SCALE. Importing it does not import torch; only the in-process engine does, when it is loaded."""
