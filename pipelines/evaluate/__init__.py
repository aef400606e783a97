"""The job behind `drf evaluate`: models compared on labelled posts."""
