# SPDX-License-Identifier: Apache-2.0
"""Sphinx configuration."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "doc")]

import reference  # noqa: E402

# Pages that are tables of the code: made anew before the others are read.
reference.write()

project = "swift"
author = "The swift developers"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
master_doc = "index"
html_theme = "alabaster"
html_theme_options = {"description": "An object store that speaks Swift"}
myst_heading_anchors = 3
exclude_patterns = ["architecture/rooms/*"]  # included by the pages of the storeys
