"""Files: checkpoints, logs, labelled results. Knows no task."""
