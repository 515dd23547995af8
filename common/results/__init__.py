"""Run records beside the published figures: reads `run.json` and `metrics.jsonl`, and knows the papers only as data."""
