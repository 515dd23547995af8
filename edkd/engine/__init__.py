"""Configuration, teachers and the way from a distiller to the common training loop."""
