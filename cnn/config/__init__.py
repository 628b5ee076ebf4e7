"""Experiments in TOML: typed, complete, refused when a key or a value is wrong. Nothing is built here."""

from cnn.config.keys import option_for
from cnn.config.load import (
    bundled_config,
    load_config,
    naming_file,
    parse_document,
    read_document,
    resolve,
    to_toml,
)
from cnn.config.models import Config, expand_blocks
from cnn.config.schema import json_schema
from cnn.config.specs import check_layers

__all__ = [
    "Config",
    "bundled_config",
    "check_layers",
    "expand_blocks",
    "json_schema",
    "load_config",
    "naming_file",
    "option_for",
    "parse_document",
    "read_document",
    "resolve",
    "to_toml",
]
