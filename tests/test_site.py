"""The documentation builds as a site, without a warning, and asks no other server for anything that it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_site_builds_with_a_page_for_every_document(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    run = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    for document in (ROOT / "docs").glob("*.md"):
        name = "index.html" if document.stem == "index" else f"{document.stem}/index.html"
        page = (tmp_path / "site" / name).read_text(encoding="utf-8")
        assert not re.search(r'<(?:script|img|iframe)[^>]* src="(?:https?:)?//', page), name
    api = (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")
    for wanted in ("pure_jax.infer.restore.Restorer", "uint8 [H, W, 3]", "PureError"):
        assert wanted in api
