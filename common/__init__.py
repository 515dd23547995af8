"""What all papers share: models, data, training, results. Never imports a paper."""
