"""The job behind `drf annotate`: plan, work, publish, tell."""
