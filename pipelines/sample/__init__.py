"""The job behind `drf sample`, and the posts that it writes."""
