"""The parts of scripts/site.py."""
