"""Pre-labels for annotation tools: CVAT and Label Studio ask a running service through its client, so that neither touches the pipeline."""
