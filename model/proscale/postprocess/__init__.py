"""Class and mask logits of one picture -> panoptic, instance or semantic results. Pure functions on tensors."""
