"""Run records beside the published figures: reads `run.json` files and knows the papers only as data."""
